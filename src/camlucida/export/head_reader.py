"""From the logits back to the features: which steps lie between, as an expression that is affine in the features."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ExportError
from camlucida.export.cells import cells_of, described, gridded, reduction, unpooled_layout
from camlucida.export.expression import Features, HeadTensor
from camlucida.export.refusals import ADVICE, RESHAPING, refusal, wide
from camlucida.onnx.graph import Graph

_DEEPEST = 200
_PASSING = ("Identity", "Dropout")


class HeadReader:
    """Reads heads of one graph, each tensor once.

    Args:
        graph: the graph.
        steps: by operation, what may stand between pooled features and logits (see ``head_steps``).
    """

    def __init__(self, graph: Graph, steps: Mapping[str, Step]) -> None:
        self.graph, self._steps = graph, steps
        self._known: dict[str, HeadTensor] = {}
        self._depth = 0

    def read(self, name: str) -> HeadTensor:
        """The tensor ``name`` as an expression in the features.

        Raises:
            ExportError: it is not affine in pooled features; the message says what stands in the way.
        """
        if name in self._known:
            return self._known[name]
        node = self.graph.makers.get(name)
        if node is None:
            raise ExportError(f"{self.graph.name}: nothing between the picture and the logits removes a grid{ADVICE}")
        if self._depth >= _DEEPEST:
            raise ExportError(
                f"{self.graph.name}: more than {_DEEPEST} steps without a pooling before the logits{ADVICE}"
            )
        self._depth += 1
        try:
            if node.domain not in ("", "ai.onnx", "com.microsoft") or name != node.output[0]:
                self.refuse(node)
            self._known[name] = self._read(node)
        finally:
            self._depth -= 1
        return self._known[name]

    def _read(self, node: Any) -> HeadTensor:
        pooled = self._pooled(node)
        if pooled is not None:
            return pooled
        if node.op_type in _PASSING:
            return self.read(node.input[0])
        if node.op_type in RESHAPING:
            return self.moved(node, node.input[0])
        if node.op_type not in self._steps:
            self.refuse(node)
        return self._steps[node.op_type](self, node)

    # --- The beginning: pooling, or a flattened grid -------------------------------------------------------------

    def _pooled(self, node: Any) -> HeadTensor | None:
        pooled = reduction(self.graph, node)
        if pooled is None:
            return None
        shape = self.shape(pooled.source)
        if math.prod(shape[axis] for axis in pooled.axes) == 1 and len(shape) > 2:  # a mean of one value
            below = self.read(pooled.source)
            gone = 0 if pooled.keepdims else sum(axis < below.axis for axis in pooled.axes)
            return HeadTensor(below.expression, below.axis - gone, below.width)
        cells = cells_of(self.graph, pooled, described(node))
        if cells is None:
            return None
        channel = next(axis for axis in range(1, len(shape)) if axis not in pooled.axes)
        gone = 0 if pooled.keepdims else sum(axis < channel for axis in pooled.axes)
        return HeadTensor(Features(cells), channel - gone, cells.channels)

    def moved(self, node: Any, source: str) -> HeadTensor:
        """What ``node`` makes of ``source``: the same numbers in the same order, under other axes."""
        before, after = self.shape(source), self.shape(node.output[0])
        if len(wide(before)) > 1 or len(wide(after)) > 1 or len(after) < 2 or before[:1] != after[:1]:
            self.refuse(node)
        below, left = self.read(source), wide(after)
        return HeadTensor(below.expression, left[0] if left else min(below.axis, len(after) - 1), below.width)

    def flat(self, name: str) -> Features | None:
        """The features behind a tensor (N, C·h·w) that is their grid, flattened; None if it is none."""
        node = self.graph.makers.get(name)
        while node is not None and node.op_type in (*_PASSING, "DequantizeLinear", "QuantizeLinear"):
            node = self.graph.makers.get(node.input[0])
        if node is None or node.op_type not in ("Flatten", "Reshape"):
            return None
        before, after = self.shape(node.input[0]), self.shape(node.output[0])
        if len(before) != 4 or len(wide(before)) < 2 or after != (before[0], math.prod(before[1:])):
            return None
        return self.unpooled(node.input[0], node)

    def unpooled(self, name: str, node: Any) -> Features | None:
        """Features of rank 4 that ``node`` reads cell by cell; None if their layout is unclear."""
        layout = unpooled_layout(self.graph, name)
        return None if layout is None else Features(gridded(self.graph, name, layout, False, described(node)))

    # --- For the steps ---------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's size for the example input."""
        return self.graph.shape_of(name)

    def constant(self, name: str) -> bool:
        """Whether a tensor is the same for every picture."""
        return name not in self.graph.varying

    def value(self, node: Any, index: int) -> NDArray[Any]:
        """The value of a node's constant input."""
        if not self.constant(node.input[index]):
            self.refuse(node)
        return self.graph.value(node.input[index])

    def vector(self, node: Any, value: NDArray[Any], width: int, axis: int | None = None) -> NDArray[np.float64]:
        """A constant as one number for all channels, (), or one for each, (C,), along an axis of the node's output."""
        if value.size == 1:
            return np.asarray(value.astype(np.float64).reshape(()))
        rank = len(self.shape(node.output[0]))
        placed = axis is None or (rank - axis <= value.ndim <= rank and value.shape[axis - rank] == width)
        if value.size != width or not placed:
            self.refuse(node)
        return np.asarray(value.astype(np.float64).reshape(width))

    def refuse(self, node: Any) -> NoReturn:
        """Give up at a node."""
        raise ExportError(refusal(self.graph, node))


Step: TypeAlias = Callable[[HeadReader, Any], HeadTensor]
"""Reads a node's output as an expression in the features, by the reader's expressions of what the node reads."""
