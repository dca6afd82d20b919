"""What a head does, as an expression that can be applied to the pooled features or to every cell of them.

Every part is affine in the features once the statistics of a normalization are frozen. So the head of the mean over the
cells is the mean of the head over the cells, but for constants, which ``offset`` adds up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ExportError
from camlucida.export.cells import Cells
from camlucida.onnx.graph import Graph

WeightForm = Literal["KC", "CK"]


@dataclass(frozen=True, eq=False)
class Features:
    """The cells themselves."""

    cells: Cells


@dataclass(frozen=True, eq=False)
class Matrix:
    """``weight @ x``. ``flat``: x are all cells' channels in a row, and each cell has a matrix of its own."""

    of: Expression
    weight: str
    form: WeightForm
    rows: int
    flat: bool = False


@dataclass(frozen=True, eq=False)
class Scale:
    """``factor * x``, a factor for all channels, () or for each, (C,)."""

    of: Expression
    factor: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Shift:
    """``x + by``, () or (C,). No cell carries it: it goes into the bias."""

    of: Expression
    by: NDArray[np.float64]


@dataclass(frozen=True)
class NormDivisor:
    """What a normalization of the pooled features divides by, for each picture.

    Attributes:
        pooled: the features' name in the graph.
        kind: "std" after centring, "rms", or "length".
        eps: added to the mean square; for a length, the least it can be.
    """

    pooled: str
    kind: Literal["std", "rms", "length"]
    eps: float


@dataclass(frozen=True, eq=False)
class FrozenScale:
    """``x / by`` or ``x * by``: a number for each picture, made from the picture, and frozen."""

    of: Expression
    by: str | NormDivisor
    divide: bool


@dataclass(frozen=True, eq=False)
class ChannelMean:
    """The mean of x over its channels."""

    of: Expression


@dataclass(frozen=True, eq=False)
class SignedSum:
    """The sum of parts, each with its sign."""

    parts: tuple[tuple[Expression, int], ...]


@dataclass(frozen=True, eq=False)
class Cast:
    """x in another floating-point type."""

    of: Expression
    to: int


Expression: TypeAlias = Features | Matrix | Scale | Shift | FrozenScale | ChannelMean | SignedSum | Cast


@dataclass(frozen=True, eq=False)
class HeadTensor:
    """A tensor of the head as an expression in the cells, and which of the tensor's axes holds the channels."""

    expression: Expression
    axis: int
    width: int

    def become(self, expression: Expression) -> HeadTensor:
        """Another expression of the same axes."""
        return replace(self, expression=expression)

    def scaled(self, factor: float) -> HeadTensor:
        """``factor`` times the tensor."""
        return self if factor == 1 else self.become(Scale(self.expression, np.asarray(float(factor))))


def ordered(expression: Expression) -> list[Expression]:
    """Every part of an expression once, each after the parts that it is of."""
    order: list[Expression] = []
    done: set[int] = set()
    waiting = [(expression, False)]
    while waiting:
        part, ready = waiting.pop()
        if ready:
            order.append(part)
        elif id(part) not in done:
            done.add(id(part))
            waiting.append((part, True))
            waiting.extend((below, False) for below in reversed(parts_of(part)))
    return order


def parts_of(expression: Expression) -> list[Expression]:
    """What an expression is of."""
    if isinstance(expression, Features):
        return []
    return [part for part, _ in expression.parts] if isinstance(expression, SignedSum) else [expression.of]


def features_of(expression: Expression) -> list[Cells]:
    """The features that an expression starts from, each once."""
    cells = {part.cells.tensor: part.cells for part in ordered(expression) if isinstance(part, Features)}
    return list(cells.values())


def offset(expression: Expression, graph: Graph) -> NDArray[np.float64]:
    """What the head makes of features that are all 0: () or (C,), the same for every picture.

    Raises:
        ExportError: it is not the same for every picture: a constant stands before a normalization.
    """
    offsets: dict[int, NDArray[np.float64]] = {}
    for part in ordered(expression):
        below = [offsets[id(each)] for each in parts_of(part)]
        offsets[id(part)] = np.asarray(_offset(part, below, graph), np.float64)
    return offsets[id(expression)]


def _offset(expression: Expression, below: list[NDArray[np.float64]], graph: Graph) -> Any:
    match expression:
        case Features():
            return 0.0
        case Matrix(weight=weight, form=form):
            if not below[0].any():
                return 0.0
            matrix = graph.value(weight).astype(np.float64)
            matrix = matrix.reshape(len(matrix), -1) if form == "KC" else matrix.reshape(-1, matrix.shape[-1]).T
            return matrix @ np.broadcast_to(below[0], matrix.shape[1:])
        case Scale(factor=factor):
            return below[0] * factor
        case Shift(by=by):
            return below[0] + by
        case FrozenScale():
            if np.abs(below[0]).max() > 1e-6:
                raise ExportError(
                    f"{graph.name}: a bias stands before a normalization, so the part of a logit that no cell carries "
                    "differs from picture to picture, and the model cannot have one bias; a method that needs "
                    "no gradient (rise, occlusion) explains such a model"
                )
            return 0.0
        case ChannelMean():
            return below[0].mean()
        case SignedSum(parts=parts):
            return sum(sign * part for (_, sign), part in zip(parts, below, strict=True))
        case Cast():
            return below[0]
