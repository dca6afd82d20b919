"""Tiny classifiers, one for each kind of head and layout, with what must be found in each.

Every network is a ``body``, whose output are the features, and a ``head``: the forward pass is ``head(body(x))``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.set_num_threads(1)  # for networks this small, more threads only wait for each other

CHANNELS, CLASSES = 6, 5


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


class Net(nn.Module):
    def __init__(self, body: nn.Module, *head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head[0] if len(head) == 1 else nn.Sequential(*head)

    def forward(self, x: Tensor) -> object:
        return self.head(self.body(x))


class Squeeze(nn.Module):
    """Squeeze and excitation: a pooling inside the body, which is not the one sought."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Twice(nn.Module):
    """The same module called two times in a pass; the last call makes the features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, 4, 1)
        self.block = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(self.stem(x)))


class TwoHeads(nn.Module):
    def __init__(self, wide: int = CHANNELS) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(wide, CLASSES), nn.Linear(wide, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return (self.first(x) + self.second(x)) / 2


class Cosine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        return 16 * F.linear(F.normalize(x), F.normalize(self.weight))


class RMSNorm(nn.Module):
    """Written out, as language models have it."""

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(1 + torch.rand(CHANNELS)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class AttentionPool(nn.Module):
    """The mean of the cells, weighted by their likeness to a query: B×C×h×w to B×C."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        share = (self.query @ x.flatten(2)).softmax(-1)
        return torch.bmm(x.flatten(2), share[:, :, None]).squeeze(2)


class Attended(AttentionPool):
    """The cells times their shares, B×C×L, whose sum is pooled: affine behind the shares."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2) * (self.query @ x.flatten(2)).softmax(-1)[:, None]


class Block(nn.Module):
    """A transformer block, normalization first."""

    def __init__(self, wide: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(wide), nn.LayerNorm(wide)
        self.qkv, self.out = nn.Linear(wide, 3 * wide), nn.Linear(wide, wide)
        self.mlp = nn.Sequential(nn.Linear(wide, 2 * wide), nn.GELU(), nn.Linear(2 * wide, wide))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        x = x + self.out(seen)
        return x + self.mlp(self.norm2(x))


class Tokens(nn.Module):
    """Patches as tokens with ``prefix`` tokens before them, ``depth`` blocks, in an order of its own if given."""

    def __init__(
        self, prefix: int, patch: int = 4, depth: int = 1, grid: tuple[int, int] = (4, 6), wide: int = 10
    ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, wide, patch, patch)
        self.first = nn.Parameter(torch.randn(1, prefix, wide))
        self.position = nn.Parameter(0.5 * torch.randn(1, prefix + math.prod(grid), wide))
        self.blocks = nn.Sequential(*[Block(wide) for _ in range(depth)])
        self.order: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        if self.order is not None:
            tokens = tokens[:, self.order]
        if self.first.shape[1]:
            tokens = torch.cat((self.first.expand(len(x), -1, -1), tokens), 1)
        return self.blocks(tokens + self.position)


class CachedTable(nn.Module):
    """Builds a table with torch calls in its first pass, which shifts the places of all later calls on the tape."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CHANNELS, 3, 4, 1)
        self.table: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            steps = torch.linspace(0, 1, CHANNELS)
            self.table = F.relu(F.relu(steps) + F.relu(0.5 - steps)).to(x.dtype)
        return F.relu(self.conv(x) * (1 + self.table[:, None, None]))


def conv_body(space: int = 2, channels: int = CHANNELS, inplace: bool = False) -> nn.Sequential:
    """Stride 4 to ``channels`` positive channels, with BatchNorm inside."""
    conv, norm = (getattr(nn, f"{kind}{space}d") for kind in ("Conv", "BatchNorm"))
    return nn.Sequential(
        conv(3, 4, 3, 2, 1), norm(4), nn.ReLU(inplace=inplace), conv(4, channels, 3, 2, 1), nn.ReLU(inplace=inplace)
    )


def pooled(*head: nn.Module, body: nn.Module | None = None) -> Net:
    return Net(body or conv_body(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


def linear(wide: int = CHANNELS, classes: int = CLASSES) -> nn.Linear:
    return nn.Linear(wide, classes)


def gap_linear() -> Net:
    return pooled(nn.Dropout(0.5), linear())


def nhwc() -> Net:
    body = nn.Sequential(conv_body(), Call(lambda x: x.permute(0, 2, 3, 1)), nn.LayerNorm(CHANNELS))
    return Net(body, Call(lambda x: x.mean((1, 2))), linear())


def token_mean() -> Net:
    return Net(nn.Sequential(Tokens(0), nn.LayerNorm(10)), Call(lambda x: x.mean(1)), linear(10))


def class_token() -> Net:
    """The features are the tokens before the last block; the class token is alone afterwards."""
    return Net(Tokens(1), Block(10), nn.LayerNorm(10), Call(lambda x: x[:, 0]), linear(10))


class Distilled(TwoHeads):
    """A head for each of two tokens, averaged (DeiT)."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.first(x[:, 0]) + self.second(x[:, 1])) / 2


def two_tokens() -> Net:
    return Net(Tokens(2), Block(10), nn.LayerNorm(10), Distilled(10))


def two_tokens_mean() -> Net:
    return Net(Tokens(2), Block(10), nn.LayerNorm(10), Call(lambda x: x[:, :2].mean(1)), linear(10))


def registers() -> Net:
    """Tokens that are in the way and then left out: the mean is over the grid's."""
    body = nn.Sequential(Tokens(3), nn.LayerNorm(10), Call(lambda x: x[:, 3:]))
    return Net(body, Call(lambda x: x.mean(1)), linear(10))


def zero_head() -> Net:
    net = gap_linear()
    nn.init.zeros_(net.head[-1].weight)
    nn.init.zeros_(net.head[-1].bias)
    return net


def group_norm() -> Net:
    return Net(conv_body(), nn.AdaptiveAvgPool2d(1), nn.GroupNorm(1, CHANNELS), nn.Flatten(), linear())


def attended_sum() -> Net:
    return Net(nn.Sequential(conv_body(), Attended()), Call(lambda x: x.sum(2)), linear())


def signal() -> Net:
    return Net(conv_body(1), nn.AdaptiveAvgPool1d(1), nn.Flatten(), linear())


def volume() -> Net:
    return Net(conv_body(3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), linear())


@dataclass(frozen=True)
class Case:
    """A network and what must be found in it for inputs (B, *shape)."""

    name: str
    make: Callable[[], Net]
    kind: str = "affine"
    layout: str = "NCHW"
    shape: tuple[int, ...] = (3, 16, 24)
    grid: tuple[int, ...] = (4, 6)
    prefix: int = 0

    def net(self, dtype: torch.dtype = torch.float64) -> Net:
        """The network with seeded weights and running statistics, for evaluation."""
        torch.manual_seed(1)
        net = self.make()
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
            affine = getattr(module, "weight", None), getattr(module, "bias", None)
            if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
                nn.init.uniform_(affine[0], 0.5, 1.5)
                if affine[1] is not None:
                    nn.init.normal_(affine[1], 0, 0.3)
        return net.eval().to(dtype)

    def batch(self, size: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(size, *self.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)

    def on_grid(self, features: Tensor) -> Tensor:
        """What the body gave, as (B, C, *grid)."""
        if self.layout.startswith("NC"):
            return features.reshape(*features.shape[:2], *self.grid)
        cells = features.flatten(1, -2)[:, self.prefix :].transpose(1, 2)
        return cells.unflatten(2, self.grid)


SINGLE = {
    "gap_linear": gap_linear,
    "gap_conv1x1": lambda: Net(conv_body(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(CHANNELS, CLASSES, 1), nn.Flatten()),
    "gap_batchnorm": lambda: pooled(nn.BatchNorm1d(CHANNELS), linear()),
    "mean_method": lambda: Net(conv_body(), Call(lambda x: x.mean([2, 3])), linear()),
    "avg_pool_whole": lambda: Net(conv_body(), nn.AvgPool2d((4, 6)), nn.Flatten(), linear()),
    "einsum_pool": lambda: Net(conv_body(), Call(lambda x: torch.einsum("bchw->bc", x) / 24), linear()),
    "sum_pool": lambda: Net(conv_body(), Call(lambda x: x.sum((2, 3))), linear()),
    "two_heads": lambda: Net(
        nn.Sequential(conv_body(), nn.BatchNorm2d(CHANNELS)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), TwoHeads()
    ),
    "class_map": lambda: Net(
        nn.Sequential(conv_body(), nn.Conv2d(CHANNELS, CLASSES, 1), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
    "inplace": lambda: pooled(linear(), body=conv_body(inplace=True)),
    "reused": lambda: pooled(linear(), body=Twice()),
    "squeeze_excitation": lambda: pooled(linear(), body=nn.Sequential(conv_body(), Squeeze(CHANNELS))),
    "cached_table": lambda: pooled(linear(), body=CachedTable()),
    "zero_head": zero_head,
    "binary": lambda: pooled(linear(classes=1)),
    "binary_flat": lambda: pooled(linear(classes=1), Call(lambda x: x.squeeze(1))),
}
"""Heads that are affine after a mean or sum over NCHW features."""

CASES = (
    *(Case(name, make) for name, make in SINGLE.items()),
    Case("softmax_inside", lambda: pooled(linear(), nn.Softmax(1))),
    Case("sigmoid_inside", lambda: pooled(linear(), nn.Sigmoid())),
    Case("signal", signal, "affine", "NCL", (3, 48), (12,)),
    Case("volume", volume, "affine", "NCDHW", (3, 8, 12, 16), (2, 3, 4)),
    Case("square", gap_linear, shape=(3, 20, 20), grid=(5, 5)),
    Case("nhwc", nhwc, "affine", "NHWC"),
    Case("token_mean", token_mean, "affine", "NLC"),
    Case("layer_norm", lambda: pooled(nn.LayerNorm(CHANNELS), linear()), "normalized"),
    Case("rms_norm", lambda: pooled(nn.RMSNorm(CHANNELS, eps=1e-6), linear()), "normalized"),
    Case("rms_norm_by_hand", lambda: pooled(RMSNorm(), linear()), "normalized"),
    Case("group_norm", group_norm, "normalized"),
    Case("cosine", lambda: pooled(Cosine()), "normalized"),
    Case("hardswish", lambda: pooled(linear(CHANNELS, 8), nn.Hardswish(), linear(8)), "nonlinear"),
    Case("vgg", lambda: Net(conv_body(), nn.Flatten(), linear(CHANNELS * 24, 8), nn.ReLU(), linear(8)), "nonlinear"),
    Case("max_pool", lambda: Net(conv_body(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), linear()), "nonlinear"),
    Case("attention_pool", lambda: Net(conv_body(), AttentionPool(), linear()), "nonlinear"),
    Case("attended_sum", attended_sum, "affine", "NCL"),
    Case("registers", registers, "affine", "NLC"),
    Case("class_token", class_token, "token", "NLC (1+24)", prefix=1),
    Case("two_tokens", two_tokens, "token", "NLC (2+24)", prefix=2),
    Case("two_tokens_mean", two_tokens_mean, "token", "NLC (2+24)", prefix=2),
)  # fmt: skip

BY_NAME = {case.name: case for case in CASES}


def params(*kinds: str) -> list[object]:
    """The cases of these kinds (of all, without any) for ``parametrize``."""
    return [pytest.param(case, id=case.name) for case in CASES if not kinds or case.kind in kinds]


EVERY, EXACT, GRADIENT = params(), params("affine", "normalized"), params("nonlinear", "token")
