"""Small random networks: strides × layouts × branches × poolings × heads × wrappers × ends, each drawn from a seed.

Each carries the same marks as the composed ones (``tapped``), so that its truth is known: where the last features of
each branch lie on the input, which statistics are held, and what no cell carries.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tapped import Net, Place
from torch import Tensor, nn
from torch.nn import functional as F
from verdicts import Entry

ANY = frozenset({"exact", "honest", "refused"})
K = 5

STRIDES = [(4, 4), (4, 2), (2, 4), (8, 4), (4, 8), (8, 2), (2, 2), (8, 8)]
SIZES = [(32, 32), (32, 48), (24, 64), (48, 32)]
LAYOUTS = ["grid", "last", "tokens", "tokens+1", "tokens+4"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "gelu": F.gelu, "tanh": torch.tanh, "plain": lambda x: x,
}  # fmt: skip
POOLINGS = ["mean", "sum", "max", "top", "mean+max", "lse", "gem", "attention", "flat", "rows", "means"]
MERGES = ["concat", "concat", "sum", "mean", "weighted", "gate", "product"]
ASIDES = ["none", "statistics", "constant"]
NORMS = ["none", "l2", "l1", "linf", "linalg", "layer", "layer_by_hand", "rms_by_hand", "std", "batch"]
HEADS = ["linear", "unbiased", "two_linear", "mlp", "cosine", "scaled"]
WRAPPERS = ["none", "flip_tta", "flipped", "transposed", "rolled", "upside_down", "normalized", "flip_tta_vertical"]
ENDS = ["none", "softmax", "softmax_view", "softmax_clamp", "sigmoid", "tuple", "mapping", "unsqueezed"]


class _Pick(random.Random):
    """Draws that keep to the first choice with a chance of their own: from networks with one odd thing to all odd."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.oddness = super().choice([0.1, 0.1, 0.2, 0.4, 0.8])

    def odd(self, choices: Sequence[Any]) -> Any:
        return self.choice(choices) if self.random() < self.oddness else choices[0]


class Branch(nn.Module):
    """A backbone: one or two layers, each cell seeing little more than its own place."""

    def __init__(self, width: int, stride: tuple[int, int], activation: str, deep: bool, channels: int) -> None:
        super().__init__()
        kernel = tuple(step + 1 if step % 2 == 0 and step < 8 else step for step in stride)
        self.first = nn.Conv2d(
            channels,
            width,
            kernel,
            stride,
            tuple((k - 1) // 2 if k > s else 0 for k, s in zip(kernel, stride, strict=True)),
        )
        self.second = nn.Conv2d(width, width, 3, 1, 1) if deep else nn.Identity()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        act = ACTIVATIONS[self.activation]
        x = act(self.first(x))
        return act(self.second(x)) if isinstance(self.second, nn.Conv2d) else x


class Drawn(Net):
    """The network of one draw; ``plan`` is what was drawn, in words."""

    def __init__(self, seed: int) -> None:
        super().__init__(lambda n, x: x)
        pick = _Pick(seed)
        self.size = pick.odd(SIZES)
        self.wrapper = pick.odd(WRAPPERS)
        self.count = pick.odd([1, 2, 2, 3])
        self.layout = pick.odd(LAYOUTS)
        self.pooling = pick.odd(POOLINGS)
        self.merge = pick.choice(MERGES) if self.count > 1 else "alone"
        self.beside = pick.odd(ASIDES)
        self.norm = pick.odd(NORMS)
        self.kind = pick.odd(HEADS)
        self.end = pick.odd(ENDS)
        self.activation = pick.choice(list(ACTIVATIONS))
        self.out = pick.odd([K, 2, 1])
        self.serial = self.count > 1 and pick.random() < 0.3
        strides = [pick.odd(STRIDES) for _ in range(self.count)]
        strides = [(s if self.size[0] % s[0] == 0 and self.size[1] % s[1] == 0 else (4, 4)) for s in strides]
        if self.wrapper == "transposed":
            self.size = (32, 32)
        deep = [pick.random() < 0.4 for _ in range(self.count)]
        width = pick.choice([6, 8, 16])
        if self.serial:
            strides = [strides[0], *[(1, 1) if min(self.size) < 48 else (2, 2)] * (self.count - 1)]
        self.bodies = nn.ModuleList(
            Branch(width, s, self.activation, d, width if self.serial and i else 3)
            for i, (s, d) in enumerate(zip(strides, deep, strict=True))
        )
        self.prefix = int(self.layout.partition("+")[2] or 0)
        self.tokens = nn.Parameter(torch.randn(1, self.prefix, width)) if self.prefix else None
        self.mix = nn.Linear(width, width) if self.layout != "grid" else None
        self.query = nn.Parameter(torch.randn(width))
        grids = self._grids(strides)
        self.wide = [
            {"mean+max": 2 * width, "flat": width * g[0] * g[1], "rows": width * g[0]}.get(self.pooling, width)
            for g in grids
        ]
        joined = sum(self.wide) if self.merge in ("concat", "alone") else None
        inputs = [joined + (3 if self.beside != "none" else 0)] if joined else list(self.wide)
        self.heads = nn.ModuleList(self._head(one) for one in inputs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(one) if self.norm == "batch" else nn.Identity() for one in inputs)
        for norm in self.norms:
            if isinstance(norm, nn.BatchNorm1d):
                norm.running_mean.uniform_(-0.5, 0.5)
                norm.running_var.uniform_(0.5, 2)
        self.share = nn.Parameter(torch.randn(self.count))
        self.constant = nn.Parameter(torch.randn(1, 3))
        self.plan = " | ".join([
            f"{self.size[0]}×{self.size[1]}", self.wrapper,
            f"{self.count}{' in a row' if self.serial else ''} {strides}",
            f"{self.activation}{' deep' if any(deep) else ''}", self.layout, self.pooling, self.merge, self.beside,
            self.norm, self.kind, f"{self.out} {self.end}",
        ])  # fmt: skip

    def _grids(self, strides: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        grids, x = [], torch.zeros(1, 3, *self.size)
        if self.wrapper == "transposed":
            x = x.transpose(2, 3)
        with torch.no_grad():
            at = x
            for body in self.bodies:
                at = body(at if self.serial else x)
                grids.append((at.shape[2], at.shape[3]))
        return grids

    def _head(self, wide: int) -> nn.Module:
        if self.kind == "mlp":
            return nn.Sequential(nn.Linear(wide, 12), nn.ReLU(), nn.Linear(12, self.out))
        if self.kind == "two_linear":
            return nn.Sequential(nn.Linear(wide, 12), nn.Dropout(), nn.Linear(12, self.out))
        return nn.Linear(wide, self.out, bias=self.kind not in ("unbiased", "cosine"))

    def forward(self, x: Tensor) -> Any:
        """The wrapper, the branches, their merge, the head, the end."""
        logits = self.scored(self._wrapped(x))
        if self.end.startswith("softmax") and self.out > 1:
            p = logits.softmax(1)
            return {"softmax": p, "softmax_view": p.view(len(p), -1), "softmax_clamp": p.clamp(1e-8, 1)}[self.end]
        if self.end == "sigmoid" or (self.end.startswith("softmax") and self.out == 1):
            return logits.sigmoid()
        if self.end == "tuple":
            return (logits,)
        if self.end == "mapping":
            return {"logits": logits}
        return logits[:, :, None, None] if self.end == "unsqueezed" else logits

    def _wrapped(self, x: Tensor) -> Tensor:
        def flip(*axes: int) -> Place:
            return lambda m: m.flip(axes)

        if self.wrapper == "flip_tta":
            return (self._logits(x) + self._logits(x.flip(3), flip(3))) / 2
        if self.wrapper == "flip_tta_vertical":
            return torch.stack([self._logits(x), self._logits(x.flip(2), flip(2))]).mean(0)
        if self.wrapper == "flipped":
            return self._logits(x.flip(3), flip(3))
        if self.wrapper == "upside_down":
            return self._logits(x.flip((2, 3)), flip(2, 3))
        if self.wrapper == "transposed":
            return self._logits(x.transpose(2, 3), lambda m: m.transpose(2, 3))
        if self.wrapper == "rolled":
            return self._logits(x.roll(16, 3), lambda m: m.roll(-16 * m.shape[3] // self.size[1], 3))
        return self._logits((x - 0.1) / 1.3 if self.wrapper == "normalized" else x)

    def _logits(self, x: Tensor, place: Place | None = None) -> Tensor:
        vectors, at = [], x
        for body in self.bodies:
            at = body(at if self.serial else x)
            vectors.append(self._pooled(at, place))
        if self.merge in ("concat", "alone"):
            joined = torch.cat(vectors, 1) if len(vectors) > 1 else vectors[0]
            if self.beside == "statistics":
                joined = torch.cat((joined, self.aside(x.std((2, 3)))), 1)
            elif self.beside == "constant":
                joined = torch.cat((joined, self.constant.expand(len(x), -1)), 1)
            return self._headed(joined, 0)
        parts = [self._headed(one, i) for i, one in enumerate(vectors)]
        if self.merge == "sum":
            return torch.stack(parts).sum(0)
        if self.merge == "weighted":
            return sum(s * part for s, part in zip(self.share.softmax(0), parts, strict=True))
        if self.merge == "gate":
            return parts[0] * parts[1].sigmoid()
        if self.merge == "product":
            return parts[0] * parts[1]
        return sum(parts) / len(parts)

    def _pooled(self, f: Tensor, place: Place | None) -> Tensor:
        grid = f.shape[2:]

        def on_grid(m: Tensor) -> Tensor:
            m = m if m.ndim == 4 else m.reshape(*m.shape[:2], *grid)
            return m if place is None else place(m)

        if self.layout == "grid":
            cells = self.tap(f, on_grid) if self.pooling != "attention" else f
        elif self.layout == "last":
            t = torch.relu(self.mix(f.permute(0, 2, 3, 1)))
            cells = (self.tap(t, on_grid, channels=3) if self.pooling != "attention" else t).permute(0, 3, 1, 2)
        else:
            t = f.flatten(2).transpose(1, 2)
            if self.tokens is not None:
                t = torch.cat((self.tokens.expand(len(t), -1, -1), t), 1)
            t = torch.relu(self.mix(t))[:, self.prefix :]
            t = self.tap(t, on_grid, channels=2) if self.pooling != "attention" else t
            cells = t.transpose(1, 2).reshape(len(t), -1, *grid)
        flat = cells.flatten(2)
        if self.pooling == "attention":
            weighed = flat * (self.query @ flat).softmax(-1)[:, None]
            return self.tap(weighed, on_grid).sum(2)
        return {
            "mean": lambda: cells.mean((2, 3)),
            "sum": lambda: cells.sum((2, 3)) / 16,
            "max": lambda: cells.amax((2, 3)),
            "top": lambda: flat.topk(4, 2).values.mean(2),
            "mean+max": lambda: torch.cat((flat.mean(2), flat.amax(2)), 1),
            "lse": lambda: flat.logsumexp(2),
            "gem": lambda: cells.clamp_min(1e-6).square().mean((2, 3)).sqrt(),
            "flat": lambda: cells.flatten(1),
            "rows": lambda: cells.mean(3).flatten(1),
            "means": lambda: cells.mean(3).mean(2),
        }[self.pooling]()

    def _headed(self, p: Tensor, i: int) -> Tensor:
        head = self.heads[i]
        p = self._normed(p, i)
        if self.kind == "cosine":
            length = self.still((p.square().sum(1, keepdim=True) + 1e-12).sqrt())
            return 4 * (p / length) @ F.normalize(head.weight).T
        logits: Tensor = head(p)
        return 3 * logits + 1 if self.kind == "scaled" else logits

    def _normed(self, p: Tensor, i: int) -> Tensor:
        if self.norm in ("none", "batch") or p.shape[1] < 3:
            return self.norms[i](p)
        if self.norm in ("layer", "layer_by_hand", "std"):
            if self.norm == "layer" and self.marks is None:
                return F.layer_norm(p, p.shape[1:])
            p = p - p.mean(1, keepdim=True)
        return p / self.still({
            "l2": lambda: (p * p).sum(1, keepdim=True) ** 0.5,
            "l1": lambda: p.abs().sum(1, keepdim=True),
            "linf": lambda: p.abs().amax(1, keepdim=True),
            "linalg": lambda: torch.linalg.norm(p, dim=1, keepdim=True),
            "layer": lambda: (p.square().mean(1, keepdim=True) + 1e-5).sqrt(),
            "layer_by_hand": lambda: (p.square().mean(1, keepdim=True) + 1e-5).sqrt(),
            "rms_by_hand": lambda: (p.square().mean(1, keepdim=True) + 1e-6).sqrt(),
            "std": lambda: p.std(1, keepdim=True) + 1e-6,
        }[self.norm]())  # fmt: skip

    @property
    def affine(self) -> bool:
        """Whether an exact map exists: all that is read has a grid, and the head is affine at held statistics."""
        linear = self.pooling not in ("lse", "gem") and self.kind != "mlp" and self.merge not in ("gate", "product")
        # What is added before a norm is divided by this input's statistic: a bias that no two inputs share.
        shifted = self.beside == "constant" and (self.norm not in ("none", "batch") or self.kind == "cosine")
        shifted = shifted or (self.norm == "batch" and self.kind == "cosine")
        return linear and self.beside != "statistics" and not shifted


def draw(seed: int) -> Entry:
    """The network and input of a seed, as an entry."""
    dtype = torch.float64 if seed % 5 == 4 else torch.float32

    def make() -> Drawn:
        torch.manual_seed(seed)
        return Drawn(seed).to(dtype)

    net = make()
    probability = net.end.startswith("softmax") or net.end == "sigmoid"
    return Entry(f"seed {seed}: {net.plan}", "random", make, (3, 3, *net.size), ANY,
                 output="probability" if probability else "logits", dtype=dtype)  # fmt: skip
