"""The head of a classifier as a function of its features, replayed from a tape, and what kind of function it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from camlucida.pytorch.grid import Layout
from camlucida.pytorch.tape import TapeStep, bottlenecks, replay

Kind = Literal["affine", "normalized", "nonlinear", "token"]
"""What stands between the features and the logits (see ``describe``)."""

DESCRIPTIONS: dict[Kind, str] = {
    "affine": "affine after pooling: the map is exact",
    "normalized": "affine once this input's normalization statistics are held: the map is exact at those statistics",
    "nonlinear": "not affine: gradient x features, with its measured residual",
    "token": "only class tokens reach the logits: gradient x tokens before the last attention, with its residual",
}

_STATISTICS = {"var", "std", "norm", "vector_norm", "rsqrt", "sqrt", "normalize", "cosine_similarity"}


class FrozenStatistics:
    """Freezes the scale statistics of normalizations (LayerNorm, GroupNorm, RMSNorm, L2) while a head is replayed.

    The first replay measures them at its input; later ones use those. Centring is linear and stays.
    """

    def __init__(self) -> None:
        self._measured: list[Tensor] = []
        self._next: int | None = None

    def rewind(self) -> None:
        """Begin another replay."""
        self._next = None if not self._measured else 0

    def __len__(self) -> int:
        return len(self._measured)

    def _frozen(self, measure: Callable[[], Tensor]) -> Tensor:
        if self._next is None:
            self._measured.append(measure().detach())
            return self._measured[-1]
        statistic = self._measured[self._next]
        self._next += 1
        return statistic

    def __call__(self, step: TapeStep, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The step's result with its statistics frozen, or NotImplemented for steps that have none."""
        name = step.name
        if name == "layer_norm":
            return self._layer_norm(*args, **kwargs)
        if name == "rms_norm":
            return self._rms_norm(*args, **kwargs)
        if name == "group_norm":
            return self._group_norm(*args, **kwargs)
        if name == "normalize":
            return self._normalize(*args, **kwargs)
        if name in _STATISTICS:
            return self._frozen(lambda: step.func(*args, **kwargs))
        return NotImplemented

    def _layer_norm(
        self, x: Tensor, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5,
        *_: object,
    ) -> Tensor:  # fmt: skip
        axes = tuple(range(-len(normalized_shape), 0))
        scale = self._frozen(lambda: (x.var(axes, unbiased=False, keepdim=True) + eps).rsqrt())
        return _affine((x - x.mean(axes, keepdim=True)) * scale, weight, bias)

    def _rms_norm(
        self, x: Tensor, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None
    ) -> Tensor:
        axes = tuple(range(-len(normalized_shape), 0))
        small = torch.finfo(x.dtype).eps if eps is None else eps
        return _affine(x * self._frozen(lambda: (x.square().mean(axes, keepdim=True) + small).rsqrt()), weight, None)

    def _group_norm(
        self, x: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: object
    ) -> Tensor:
        groups = x.reshape(x.shape[0], num_groups, -1)
        scale = self._frozen(lambda: (groups.var(2, unbiased=False, keepdim=True) + eps).rsqrt())
        normal = ((groups - groups.mean(2, keepdim=True)) * scale).reshape(x.shape)
        shape = (1, -1) + (1,) * (x.ndim - 2)
        reshaped = [None if part is None else part.reshape(shape) for part in (weight, bias)]
        return _affine(normal, *reshaped)

    def _normalize(self, x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Tensor:
        return x / self._frozen(lambda: x.norm(p, dim, keepdim=True).clamp_min(eps))


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


@dataclass(frozen=True)
class RecordedFunction:
    """A stretch of recorded steps as a function from one recorded tensor to another."""

    steps: tuple[TapeStep, ...]
    start: Tensor
    end: Tensor

    def __call__(self, x: Tensor, statistics: FrozenStatistics | None = None) -> Tensor:
        """Replay on ``x`` in ``x``'s floating-point type (weights are cast to it where they differ)."""
        if statistics is not None:
            statistics.rewind()
        dtype = x.dtype if x.dtype != self.start.dtype else None
        tensors = replay(self.steps, {id(self.start): x}, dtype=dtype, instead=statistics)
        return tensors[id(self.end)]

    def double_safe(self) -> RecordedFunction:
        """Casts written into the recording (``x.float()``) made neutral, so that it can run in float64."""
        return replace(self, steps=tuple(_without_cast(step) for step in self.steps))

    def behind(self, index: int, output: int) -> RecordedFunction:
        """The stretch that begins at the ``output``-th tensor of step ``index``."""
        return RecordedFunction(self.steps[index + 1 :], self.steps[index].tensors[output], self.end)


def _without_cast(step: TapeStep) -> TapeStep:
    cast = step.name in {"float", "half", "bfloat16", "double", "type_as"} or (
        step.name == "to" and any(isinstance(argument, torch.dtype) for argument in (*step.args, *step.kwargs.values()))
    )
    if step.name == "softmax":
        return replace(step, kwargs={key: value for key, value in step.kwargs.items() if key != "dtype"})
    return replace(step, func=_same, args=step.args[:1], kwargs={}) if cast else step


def _same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Pooling:
    """Where in a head the pooled vector stands: the step and output that make it, and how many cells a mean shares."""

    index: int
    output: int
    divisor: int


def find_pooling(head: RecordedFunction, layout: Layout) -> Pooling | None:
    """The value in ``head`` that is the mean or the sum of the features over the grid, if there is one.

    Found by comparing numbers, not names: (B, C, …) with as many elements as channels, equal to the mean or sum.
    """
    features = layout.on_grid(head.start.detach().double())
    total = features.flatten(2).sum(2)
    cells = features[0, 0].numel()
    tolerance = 1e-5 if head.start.dtype in (torch.float32, torch.float64) else 2e-2
    end = (id(head.end), 0 if head.end.is_inference() else head.end._version)
    for index, output in bottlenecks(head.steps, end):
        value = head.steps[index].tensors[output]
        if value.shape[0] != total.shape[0] or value.numel() != total.numel():
            continue
        pooled = value.detach().double().reshape(total.shape)
        for divisor in (cells, 1):
            expected = total / divisor
            if bool((pooled - expected).norm() <= tolerance * (features.abs().flatten(2).sum(2) / divisor).norm()):
                return Pooling(index, output, divisor)
    return None


@torch.no_grad()
def classify(head: RecordedFunction, layout: Layout, pooling: Pooling | None) -> Kind:
    """What kind of function the head is, by evaluating it (float64 where its calls allow) on mixtures of inputs."""
    if pooling is None:
        return "nonlinear"
    behind = head.behind(pooling.index, pooling.output)
    pooled = behind.start.detach()
    for part, dtype, tolerance in ((behind.double_safe(), torch.float64, 1e-7), (behind, torch.float32, 1e-4)):
        try:
            point = pooled.to(dtype)
            if _is_affine(part, point, None, tolerance):
                return "affine"
            statistics = FrozenStatistics()
            part(point, statistics)
            if len(statistics) and _is_affine(part, point, statistics, tolerance):
                return "normalized"
        except (RuntimeError, TypeError):
            continue  # a call in the head refuses this floating-point type
        return "nonlinear"
    return "nonlinear"


def _is_affine(part: RecordedFunction, point: Tensor, statistics: FrozenStatistics | None, tolerance: float) -> bool:
    """Whether f(m·a + (1-m)·b) = m·f(a) + (1-m)·f(b), near and far, and f(0) is the same for all inputs."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(point.shape, generator=generator, dtype=torch.float64).to(point) * point.std().clamp_min(1e-6)
    zero = part(torch.zeros_like(point), statistics)
    at_point = part(point, statistics)
    scale = max(float((at_point - zero).abs().max()), float(at_point.abs().max()) * 1e-3, 1e-30)
    if float((zero - zero[:1]).abs().max()) > tolerance * scale:
        return False
    for other, mix in ((point.flip(0) + noise, 0.3), (-2 * point + 3 * noise, 0.6), (-noise, -0.7)):
        mixed = part(mix * point + (1 - mix) * other, statistics)
        at_other = part(other, statistics)
        off = (mixed - mix * at_point - (1 - mix) * at_other).abs().max()
        if not float(off) <= tolerance * max(scale, float(at_other.abs().max())):
            return False
    return True
