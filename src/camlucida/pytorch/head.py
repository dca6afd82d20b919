"""The head of a classifier as a function of its features, replayed from a tape, and what kind of function it is."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

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

_ROUNDED = 0.05
"""How far a head without a gradient may be from affine: eight-bit activations round by about 1 %."""


Call: TypeAlias = tuple[Callable[..., Any], int]
"""The function of a recorded call, and its turn among the calls of that function."""


_DIVIDING = {"div", "div_", "divide", "true_divide", "__truediv__", "__itruediv__"}


class FrozenStatistics:
    """Freezes the scale statistics of normalizations (LayerNorm, GroupNorm, RMSNorm, L2) while a head is replayed.

    The first replay measures them at its input; later ones use those. Centring is linear and stays.

    Args:
        measured: calls, by function and turn, whose results are such statistics (see ``scale_statistics``), beside
            those within torch's own normalizations.
    """

    def __init__(self, measured: frozenset[Call] = frozenset()) -> None:
        self._calls = measured
        self._measured: list[Any] = []
        self._next: int | None = None

    def rewind(self) -> None:
        """Begin another replay."""
        self._next = None if not self._measured else 0

    def __len__(self) -> int:
        return len(self._measured)

    def _frozen(self, measure: Callable[[], Any]) -> Any:
        if self._next is None:
            self._measured.append(tree_map_only(Tensor, Tensor.detach, measure()))
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
        if name == "cosine_similarity":
            return self._cosine_similarity(*args, **kwargs)
        if (step.func, step.nth) in self._calls:
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
        length: Tensor = self._frozen(lambda: x.norm(p, dim, keepdim=True).clamp_min(eps))
        return x / length

    def _cosine_similarity(self, x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
        lengths: Tensor = self._frozen(lambda: x.norm(2, dim).clamp_min(eps) * y.norm(2, dim).clamp_min(eps))
        return (x * y).sum(dim) / lengths


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


@dataclass(frozen=True)
class RecordedFunction:
    """A stretch of recorded steps as a function from recorded tensors to another.

    Attributes:
        steps: in order.
        start: the tensor that it is a function of.
        end: what it gives.
        others: further tensors that it may be a function of; as they were recorded where they are not given.
    """

    steps: tuple[TapeStep, ...]
    start: Tensor
    end: Tensor
    others: tuple[Tensor, ...] = ()

    def __call__(
        self, x: Tensor, statistics: FrozenStatistics | None = None, others: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Replay on ``x`` in ``x``'s floating-point type (weights are cast to it where they differ)."""
        return self.values(x, statistics, others)[id(self.end)]

    def values(
        self, x: Tensor, statistics: FrozenStatistics | None = None, others: Sequence[Tensor] | None = None
    ) -> dict[int, Tensor]:
        """Every tensor of a replay, by the identity of the recorded one that it stands for."""
        if statistics is not None:
            statistics.rewind()
        dtype = x.dtype if x.dtype != self.start.dtype else None
        tensors = {id(self.start): x}
        if others is not None:
            tensors |= {id(old): new for old, new in zip(self.others, others, strict=True)}
        return replay(self.steps, tensors, dtype=dtype, instead=statistics)

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
def classify(function: RecordedFunction) -> tuple[Kind, frozenset[Call]]:
    """What kind of function of all its starts this is, and the calls whose results are statistics to freeze.

    Found by evaluating it (in float64 where its calls allow) on mixtures of inputs. Normalizations are known by what
    their statistics do (see ``scale_statistics``), not by their names. A function that passes no gradient back
    (dynamically quantized layers, ``.data``) may be a little off: then its values are all there is.
    """
    starts = (function.start.detach(), *(tensor.detach() for tensor in function.others))
    for part, dtype, tolerance in ((function.double_safe(), torch.float64, 1e-7), (function, torch.float32, 1e-4)):
        points = [start.to(dtype) if start.is_floating_point() else start for start in starts]
        try:
            if _is_affine(part, points, None, tolerance):
                return "affine", frozenset()
            for calls in (frozenset[Call](), scale_statistics(part, points)):
                statistics = FrozenStatistics(calls)
                _at(part, points, statistics)
                if len(statistics) and _is_affine(part, points, statistics, tolerance):
                    return "normalized", calls
        except (RuntimeError, TypeError, NotImplementedError):
            continue  # a call in the head refuses this floating-point type
        break
    if not passes_gradient(function):
        points = [start.to(torch.float32) if start.is_floating_point() else start for start in starts]
        with contextlib.suppress(RuntimeError, TypeError, NotImplementedError):
            if _is_affine(function, points, None, _ROUNDED):
                return "affine", frozenset()
    return "nonlinear", frozenset()


def passes_gradient(function: RecordedFunction) -> bool:
    """Whether a gradient leads from the end back to the start, or there is nothing to lead: the same end for any start.

    Quantized layers say that they have a gradient, and give none.
    """
    leaf = function.start.detach().clone().requires_grad_()
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        end = function(leaf.clone())
        if not end.requires_grad:
            return False
        weights = torch.randn(end.shape, generator=torch.Generator().manual_seed(0)).to(end)
        try:
            (gradient,) = torch.autograd.grad((end * weights).sum(), leaf, allow_unused=True)
        except RuntimeError:  # a value was overwritten that the gradient needs
            return True
    if gradient is not None and bool(gradient.any()):
        return True
    with torch.no_grad():
        return bool((function(leaf.detach() * 0.5) == end.detach()).all())


def scale_statistics(function: RecordedFunction, points: Sequence[Tensor]) -> frozenset[Call]:
    """The calls that measure how large the features are: lengths, deviations, sums of squares or of magnitudes.

    Such a value is smaller than the features, and grows or shrinks with a power of their size. It is the same for x and
    -x, or what something is divided by. Measured on large features, so that what is added against division by zero does
    not count.

    Args:
        function: from pooled features to logits.
        points: its starts, float64.
    """
    size = max(float(points[0].square().mean().sqrt()), 1e-30)
    once, twice, turned = (
        function.values(points[0] * factor, None, [point * factor for point in points[1:]])
        for factor in (1e3 / size, 2e3 / size, -1e3 / size)
    )
    divisors = {id(arg) for step in function.steps if step.name in _DIVIDING for arg in step.args[1:]}
    calls = set()
    for step in function.steps:
        recorded = step.tensors[0]
        value, doubled, negative = once[id(recorded)], twice[id(recorded)], turned[id(recorded)]
        if not value.is_floating_point() or 2 * value.numel() > min(point.numel() for point in points):
            continue
        length = float(value.norm())
        growth = float(doubled.norm()) / length if 0 < length < math.inf else 1.0
        even = float((negative - value).norm()) <= 1e-6 * length
        if not (even or growth < 1 or id(recorded) in divisors):
            continue
        if abs(math.log2(max(growth, 1e-30))) > 0.1 and float((doubled - growth * value).norm()) <= 1e-3 * length:
            calls.add((step.func, step.nth))
    return frozenset(calls)


def _at(function: RecordedFunction, points: Sequence[Tensor], statistics: FrozenStatistics | None) -> Tensor:
    return function(points[0], statistics, points[1:])


def _is_affine(
    function: RecordedFunction, points: Sequence[Tensor], statistics: FrozenStatistics | None, tolerance: float
) -> bool:
    """Whether f(m·a + (1-m)·b) = m·f(a) + (1-m)·f(b), near and far, and f(0) is the same for all inputs, with its
    statistics frozen or free.
    """
    generator = torch.Generator().manual_seed(0)
    noises = [
        torch.randn(point.shape, generator=generator, dtype=torch.float64).to(point) * point.std().clamp_min(1e-6)
        for point in points
    ]
    zeros = [torch.zeros_like(point) for point in points]
    zero = _at(function, zeros, statistics)
    at_points = _at(function, points, statistics)
    scale = max(float((at_points - zero).abs().max()), float(at_points.abs().max()) * 1e-3, 1e-30)
    if float((zero - zero[:1]).abs().max()) > tolerance * scale:
        return False
    if statistics is not None:
        free = _at(function, zeros, None)
        if bool(free.isfinite().all()) and float((free - zero).abs().max()) > tolerance * scale:
            return False
    for near, far, mix in ((-1.0, 1.0, 0.3), (-2.0, 3.0, 0.6), (0.0, -1.0, -0.7)):
        others = [
            (point.flip(0) if near == -1 else near * point) + far * noise
            for point, noise in zip(points, noises, strict=True)
        ]
        at_others = _at(function, others, statistics)
        mixtures = [mix * point + (1 - mix) * other for point, other in zip(points, others, strict=True)]
        off = (_at(function, mixtures, statistics) - mix * at_points - (1 - mix) * at_others).abs().max()
        if not float(off) <= tolerance * max(scale, float(at_others.abs().max())):
            return False
    return True
