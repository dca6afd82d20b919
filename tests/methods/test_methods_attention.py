"""Rollout, gradient rollout, LeGrad and TS-CAM against slow versions written from the papers, on a tiny transformer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import nets  # noqa: E402
from camlucida.errors import MethodError, ModelError  # noqa: E402
from camlucida.explainer import Explainer  # noqa: E402
from camlucida.methods.registry import find_method  # noqa: E402
from camlucida.pytorch.engine import TorchEngine  # noqa: E402
from camlucida.pytorch.explicit_attention import explicit_attention  # noqa: E402
from camlucida.pytorch.state import evaluating  # noqa: E402
from camlucida.targets import choose  # noqa: E402

NAMES = ("rollout", "gradient-rollout", "legrad", "tscam")
WIDE, HEADS, CLASSES = 12, 3, 5


class Layer(nn.Module):
    """A transformer block whose attention is computed in one of several ways, with the same numbers."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.norm1, self.norm2 = nn.LayerNorm(WIDE), nn.LayerNorm(WIDE)
        self.attention = nn.MultiheadAttention(WIDE, HEADS, batch_first=way != "sequence first", dropout=0.1)
        self.mlp = nn.Sequential(nn.Linear(WIDE, 20), nn.GELU(), nn.Linear(20, WIDE))
        nn.init.normal_(self.attention.in_proj_weight, 0, 0.6)
        nn.init.normal_(self.attention.in_proj_bias, 0, 0.3)

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, _ = x.shape
        qkv = F.linear(x, self.attention.in_proj_weight, self.attention.in_proj_bias)
        q, k, v = qkv.reshape(b, n, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def mixed(self, x: Tensor) -> Tensor:
        if self.way in ("module", "sequence first"):
            return self.attention(x, x, x, need_weights=False)[0]
        q, k, v = self.projected(x)
        if self.way == "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        elif self.way == "three axes":
            q, k, v = (part.flatten(0, 1) for part in (q, k, v))
            out = torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)) / math.sqrt(WIDE / HEADS), dim=-1), v)
            out = out.unflatten(0, (-1, HEADS))
        else:
            out = (q @ k.transpose(-2, -1) / math.sqrt(WIDE / HEADS)).softmax(dim=-1) @ v
        return self.attention.out_proj(out.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixed(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def shown(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same by its own means, with the attention matrices: (B, heads, L, L) and the tokens after the layer."""
        q, k, v = self.projected(self.norm1(x))
        logits = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(WIDE / HEADS)
        matrices = torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True)
        seen = torch.einsum("bhij,bhjd->bihd", matrices, v).flatten(2)
        x = x + F.linear(seen, self.attention.out_proj.weight, self.attention.out_proj.bias)
        return matrices, x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """A plain vision transformer; ``reads``: "class", "two", "registers", "mean", "mean before norm", "tscam"."""

    def __init__(
        self, way: str = "fused", reads: str = "class", grid: tuple[int, ...] = (4, 6), depth: int = 3
    ) -> None:
        super().__init__()
        self.way, self.reads, self.grid = way, reads, grid
        self.prefix = {"two": 2, "registers": 3, "mean": 0, "mean before norm": 0}.get(reads, 1)
        self.patch = getattr(nn, f"Conv{len(grid)}d")(3, WIDE, 4, 4)
        nn.init.normal_(self.patch.weight, 0, 0.4)  # tokens know best what is in their own place
        self.first = nn.Parameter(torch.randn(1, self.prefix, WIDE))
        self.position = nn.Parameter(0.5 * torch.randn(1, self.prefix + math.prod(grid), WIDE))
        self.layers = nn.ModuleList([Layer(way) for _ in range(depth)])
        self.norm = nn.LayerNorm(WIDE)
        self.head = nn.Conv2d(WIDE, CLASSES, 3, 1, 1) if reads == "tscam" else nn.Linear(WIDE, CLASSES)
        self.second = nn.Linear(WIDE, CLASSES)

    def tokens(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        return torch.cat((self.first.expand(len(x), -1, -1), patches), 1) + self.position

    def finish(self, x: Tensor) -> Tensor:
        if self.reads == "mean before norm":
            return self.head(self.norm(x.mean(1)))
        x = self.norm(x)
        if self.reads == "tscam":
            cells = x[:, 1:].transpose(1, 2).reshape(len(x), WIDE, *self.grid)
            return F.adaptive_avg_pool2d(self.head(cells), 1).flatten(1)
        if self.reads == "two":
            return (self.head(x[:, 0]) + self.second(x[:, 1])) / 2
        if self.reads == "class and mean":
            return self.head(x[:, 0]) + self.second(x[:, 1:].mean(1))
        return self.head(x.mean(1) if self.reads == "mean" else x[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        if self.way == "sequence first":
            x = x.transpose(0, 1)
        for layer in self.layers:
            x = layer(x)
        return self.finish(x.transpose(0, 1) if self.way == "sequence first" else x)

    def shown(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Attention matrices and tokens of each layer, and the logits."""
        tokens, matrices, streams = self.tokens(x), [], []
        for layer in self.layers:
            seen, tokens = layer.shown(tokens)
            matrices.append(seen)
            streams.append(tokens)
        return matrices, streams, self.finish(tokens)

    def of_readers(self, relevance: Tensor) -> np.ndarray:
        """From (L, L): the row of what is read, at the cells."""
        readers = {"class": [0], "registers": [0], "two": [0, 1]}.get(self.reads, range(self.prefix, len(relevance)))
        rows = [relevance[i, self.prefix :].detach().numpy() for i in readers]
        return (sum(rows) / len(rows)).reshape(self.grid)


def rollout(net: Transformer, x: Tensor, class_id: int) -> np.ndarray:
    matrices, _, _ = net.shown(x)
    unit = torch.eye(matrices[0].shape[-1], dtype=x.dtype)
    flow = unit
    for one in matrices:
        mixed = sum(0.5 * one[0, h] for h in range(HEADS)) / HEADS + 0.5 * unit
        flow = torch.stack([row / row.sum() for row in mixed]) @ flow
    return net.of_readers(flow)


def gradient_rollout(net: Transformer, x: Tensor, class_id: int) -> np.ndarray:
    matrices, _, logits = net.shown(x)
    relevance = torch.eye(matrices[0].shape[-1], dtype=x.dtype)
    for one in matrices:
        (slope,) = torch.autograd.grad(logits[0, class_id], one, retain_graph=True)
        one = one.detach()
        weighted = torch.zeros_like(relevance)
        for h, i, j in product(range(HEADS), range(len(relevance)), range(len(relevance))):
            weighted[i, j] += max(0.0, float(slope[0, h, i, j] * one[0, h, i, j])) / HEADS
        relevance = relevance + weighted @ relevance
    return net.of_readers(relevance)


def legrad(net: Transformer, x: Tensor, class_id: int) -> np.ndarray:
    matrices, streams, _ = net.shown(x)
    total = np.zeros(matrices[0].shape[-1])
    for one, stream in zip(matrices, streams, strict=True):
        (slope,) = torch.autograd.grad(net.finish(stream)[0, class_id], one, retain_graph=True)
        for h, i in product(range(HEADS), range(len(total))):
            total += np.maximum(slope[0, h, i].numpy(), 0) / (HEADS * len(total) * len(matrices))
    return total[net.prefix :].reshape(net.grid)


def tscam(net: Transformer, x: Tensor, class_id: int) -> np.ndarray:
    matrices, streams, _ = net.shown(x)
    looks = sum(one[0, h, 0] for one in matrices for h in range(HEADS)) / (HEADS * len(matrices))
    cells = net.norm(streams[-1])[:, net.prefix :]
    if net.reads == "tscam":
        scores = net.head(cells.transpose(1, 2).reshape(1, WIDE, *net.grid))[0, class_id].flatten()
    else:
        made = (net.head(cells) + net.second(cells)) / 2 if net.reads == "two" else net.head(cells)
        scores = made[0, :, class_id]
    return (looks[net.prefix :] * scores).detach().numpy().reshape(net.grid)


FORMULAS: dict[str, Callable[[Transformer, Tensor, int], np.ndarray]] = {
    "rollout": rollout, "gradient-rollout": gradient_rollout, "legrad": legrad, "tscam": tscam,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    way: str = "fused"
    reads: str = "class"
    grid: tuple[int, ...] = (4, 6)

    def __str__(self) -> str:
        return f"{self.way}, {self.reads}, {len(self.grid)}-D"

    def net(self, dtype: torch.dtype = torch.float64) -> Transformer:
        torch.manual_seed(3)
        return Transformer(self.way, self.reads, self.grid).eval().to(dtype)

    def batch(self, size: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
        shape = size, 3, *(4 * cells for cells in self.grid)
        return torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64).to(dtype)


CASES = [
    *(Case(way) for way in ("fused", "explicit", "three axes", "module", "sequence first")),
    *(Case("fused", reads) for reads in ("two", "registers", "mean", "mean before norm", "tscam")),
    Case("module", "mean"),
    Case("fused", "mean", (9,)),
    Case("fused", "mean", (2, 3, 4)),
]


def maps(name: str, net: nn.Module, x: Tensor, classes: object) -> np.ndarray:
    forward_pass = TorchEngine(net).run(x)
    with torch.no_grad(), evaluating(net):
        made = find_method(name).compute(forward_pass, choose(classes, forward_pass.logits.numpy(), None))
    assert made.bias is None
    return made.maps.numpy()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_paper(name: str, case: Case) -> None:
    net, x = case.net(), case.batch()
    if name == "tscam" and not net.prefix:
        with pytest.raises(MethodError, match="tscam needs a class token"):
            maps(name, net, x, 1)
        return
    made = maps(name, net, x, [3, 0])
    assert made.shape == (2, 2, *case.grid)
    for b, (t, class_id) in product(range(2), enumerate((3, 0))):
        expected = FORMULAS[name](net, x[b : b + 1], class_id)
        np.testing.assert_allclose(made[b, t], expected, rtol=1e-7, atol=1e-10 * np.abs(expected).max())
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("frozen", [False, True])
def test_each_picture_alone_and_classes_in_any_order(name: str, frozen: bool) -> None:
    case = Case()
    net, x = case.net(torch.float32).requires_grad_(not frozen), case.batch(3, torch.float32)
    together = maps(name, net, x, [0, 3, 1])
    assert together.dtype == np.float32
    close = {"rtol": 1e-4, "atol": 1e-5 * np.abs(together).max()}
    for b in range(3):
        np.testing.assert_allclose(maps(name, net, x[b : b + 1], [0, 3, 1])[0], together[b], **close)
    np.testing.assert_allclose(maps(name, net, x, [1, 0, 3]), together[:, [2, 0, 1]], **close)
    np.testing.assert_allclose(maps(name, net, x, "all")[:, [0, 3, 1]], together, **close)
    own = [FORMULAS[name](case.net(), case.batch(3)[b : b + 1], 3) for b in range(3)]
    np.testing.assert_allclose(together[:, 1], own, rtol=1e-3, atol=1e-4 * np.abs(together).max())


def test_rollout_shares_sum_to_one_with_the_class_tokens_own() -> None:
    case = Case()
    forward_pass = TorchEngine(case.net()).run(case.batch())
    with torch.no_grad(), evaluating(forward_pass.model):
        seen = forward_pass.attention(gradients=False)
    assert [tuple(one.shape) for one in seen.matrices()] == [(2, HEADS, 25, 25)] * 3
    assert seen.read == (0,)
    for one in seen.matrices():
        np.testing.assert_allclose(one.sum(-1), 1, rtol=1e-12)
    made = maps("rollout", case.net(), case.batch(), 1)
    assert (made >= 0).all()
    assert (made.sum((2, 3)) < 1).all()
    pooled = Case(reads="mean")
    np.testing.assert_allclose(maps("rollout", pooled.net(), pooled.batch(), 1).sum((2, 3)), 1, rtol=1e-12)


@pytest.mark.parametrize("name", ["rollout", "gradient-rollout", "legrad"])
def test_mean_pooling_is_seen_whatever_layer_is_named(name: str) -> None:
    case = Case(reads="mean")
    net, x = case.net(), case.batch()
    forward_pass = TorchEngine(net, "layers.1").run(x)
    assert forward_pass.split.pooling is None
    with torch.no_grad(), evaluating(net):
        made = find_method(name).compute(forward_pass, choose([2], forward_pass.logits.numpy(), None)).maps
    np.testing.assert_allclose(made[1, 0], FORMULAS[name](net, x[1:], 2), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_reported_in_float32(name: str) -> None:
    case = Case()
    made = maps(name, case.net(torch.bfloat16), case.batch(2, torch.bfloat16), [3])
    assert made.dtype == np.float32
    expected = np.stack([FORMULAS[name](case.net(), case.batch()[b : b + 1], 3) for b in range(2)])
    assert np.corrcoef(made.ravel(), expected.ravel())[0, 1] > 0.95


def test_contrasts_and_scores_are_targets_too() -> None:
    """LeGrad's gradient is of any score; here of a difference, against plain autograd."""
    case = Case()
    net, x = case.net(), case.batch(1)
    made = maps("legrad", net, x, lambda logits: logits[:, 2] - logits[:, 4])[0, 0]
    matrices, streams, _ = net.shown(x)
    total = 0.0
    for one, stream in zip(matrices, streams, strict=True):
        logits = net.finish(stream)[0]
        (slope,) = torch.autograd.grad(logits[2] - logits[4], one, retain_graph=True)
        total = total + slope.clamp_min(0).mean((0, 1, 2))[1:].numpy() / 3
    np.testing.assert_allclose(made.ravel(), total, rtol=1e-7)


MASKS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "mask": {"attn_mask": torch.arange(49).reshape(7, 7) % 3 != 1},
    "bias": {"attn_mask": torch.linspace(-2, 2, 49, dtype=torch.float64).reshape(7, 7)},
}


@pytest.mark.parametrize("name", MASKS)
def test_fused_attention_written_out_is_torch_s(name: str) -> None:
    q, k, v = torch.randn(3, 2, 4, 7, 5, dtype=torch.float64)
    weights, output = explicit_attention(q, k, v, **MASKS[name])
    np.testing.assert_allclose(output, F.scaled_dot_product_attention(q, k, v, **MASKS[name]), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-12)
    output = explicit_attention(q, k[:, :2], v[:, :2], enable_gqa=True)[1]
    np.testing.assert_allclose(
        output, F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True), atol=1e-12
    )


class Weights(nn.Module):
    """A user of attention weights: what a module asked for must be what it gets while its attention is watched."""

    def __init__(self, net: Transformer, averaged: bool) -> None:
        super().__init__()
        self.net, self.averaged, self.got = net, averaged, []

    def forward(self, x: Tensor) -> Tensor:
        layer = self.net.layers[0]
        tokens = layer.norm1(self.net.tokens(x))
        self.got.append(layer.attention(tokens, tokens, tokens, average_attn_weights=self.averaged)[1])
        return self.net(x)


@pytest.mark.parametrize("averaged", [True, False])
def test_modules_that_ask_for_weights_get_them(averaged: bool) -> None:
    case = Case("module")
    net = Weights(case.net(), averaged)
    maps("rollout", net, case.batch(), 1)
    plain, watched = net.got[0], net.got[-1]
    assert watched.shape == ((2, 25, 25) if averaged else (2, HEADS, 25, 25))
    net(case.batch())
    np.testing.assert_allclose(watched.detach(), net.got[-1].detach(), rtol=1e-9)
    assert plain.shape == watched.shape


class Windows(Transformer):
    """Attention within halves of the picture only."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for layer in self.layers:
            x = layer(x.reshape(2 * len(x), -1, WIDE)).reshape(len(x), -1, WIDE)
        return self.finish(x)


class Stages(Transformer):
    """Windows first, the whole afterwards: what the first layer mixed does not show in the others (Swin)."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        x = self.layers[0](x.reshape(2 * len(x), -1, WIDE)).reshape(len(x), -1, WIDE)
        return self.finish(self.layers[1](x))


class ClassAttention(Transformer):
    """The class token joins behind the layers, and alone looks at the others (CaiT)."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for layer in self.layers:
            x = layer(x)
        share = (self.norm(x) @ self.second.weight[0]).softmax(1)
        return self.head((share[:, None] @ x)[:, 0])


class WithoutGradients(Transformer):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.tokens(x)
            for layer in self.layers:
                x = layer(x)
        return self.finish(x)


class InPlace(Transformer):
    """Tokens that every layer writes over."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for layer in self.layers:
            x += layer.mixed(layer.norm1(x))
            x += layer.mlp(layer.norm2(x))
        return self.finish(x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nets.BY_NAME["gap_linear"].net(), r"grid 4×6.*matrices seen for a batch of 2: none; use cam"),
        (lambda: Windows(reads="mean"), r"read by class tokens alone or by mean pooling alone.*\(4, 3, 12, 12\)"),
        (lambda: Stages(reads="mean"), r"seen for a batch of 2: \(4, 3, 12, 12\), \(2, 3, 24, 24\)"),
        (lambda: ClassAttention(reads="mean"), r"seen for a batch of 2: \(2, 3, 24, 24\)"),
        (lambda: Transformer(reads="class and mean"), r"by class tokens alone or by mean pooling alone"),
    ],
    ids=["convolutions", "windows", "stages", "class attention", "class and mean"],
)
def test_models_without_such_attention_are_refused(name: str, make: Callable[[], nn.Module], message: str) -> None:
    net = make().eval().double()
    with pytest.raises(MethodError, match=message):
        maps(name, net, Case().batch(), 1)


def test_attention_without_gradients_is_said() -> None:
    net, x = WithoutGradients().eval().double(), Case().batch()
    for name in ("gradient-rollout", "legrad"):
        with pytest.raises(MethodError, match=r"without gradients \(torch.no_grad.*use rollout"):
            maps(name, net, x, 1)
    np.testing.assert_allclose(maps("rollout", net, x, 1)[0, 0], rollout(net, x[:1], 0), rtol=1e-9)


def test_tokens_overwritten_in_place() -> None:
    """Nobody can take gradients there; rollout works."""
    net, x = InPlace(reads="mean").eval().double(), Case().batch()
    with torch.no_grad():
        np.testing.assert_allclose(maps("rollout", net, x, 1)[0, 0], rollout(net, x[:1], 0), rtol=1e-9)
    with pytest.raises(MethodError, match=r"writes over values that its gradients need .* use rollout"):
        maps("gradient-rollout", net, x, 1)
    with pytest.raises(MethodError, match=r"layer 0 of 3 .* overwritten in place; use rollout"):
        maps("legrad", net, x, 1)


class Fails(Transformer):
    """Fails while it is watched, after the passes that found and made the features."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        made = super().forward(x)
        if torch._C._len_torch_function_stack() > 1:
            raise RuntimeError("no more memory")
        return made


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_after_a_failure(name: str) -> None:
    net = Fails().double().train()
    net.norm.eval()
    with pytest.raises((RuntimeError, ModelError), match="no more memory"):
        Explainer(net, method=name)(Case().batch(), classes=1)
    assert torch._C._len_torch_function_stack() == 0
    assert net.training
    assert not net.norm.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_hugging_face(implementation: str) -> None:
    try:
        from transformers import ViTConfig, ViTForImageClassification
    except (ImportError, RuntimeError) as error:  # transformers fails where its torchvision does
        pytest.skip(f"transformers cannot be imported: {error}")
    config = ViTConfig(
        hidden_size=WIDE, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=20, image_size=24,
        patch_size=6, num_labels=4, attn_implementation=implementation,
    )  # fmt: skip
    net = ViTForImageClassification(config).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    net = net.double()
    x = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    config._attn_implementation = "eager"
    told = net(x, output_attentions=True)
    config._attn_implementation = implementation
    unit = torch.eye(17, dtype=torch.float64)
    flow, relevance = unit, unit
    for one in told.attentions:
        (slope,) = torch.autograd.grad(told.logits[:, 1].sum(), one, retain_graph=True)
        flow = (0.5 * one[0].mean(0) + 0.5 * unit) @ flow
        relevance = relevance + (slope * one)[0].clamp_min(0).mean(0) @ relevance
    for name, expected in (("rollout", flow), ("gradient-rollout", relevance)):
        made = maps(name, net, x, [1])[0, 0]
        np.testing.assert_allclose(made.ravel(), expected[0, 1:].detach(), rtol=1e-6)
    for name in ("legrad", "tscam"):
        assert np.isfinite(maps(name, net, x, [1])).all()
