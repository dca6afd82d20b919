"""Write an expression into the graph as nodes that apply it to every cell: maps, from the graph's own weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from camlucida.export.cells import Cells
from camlucida.export.expression import (
    Cast,
    ChannelMean,
    Expression,
    Features,
    FrozenScale,
    Matrix,
    NormDivisor,
    Scale,
    Shift,
    SignedSum,
    ordered,
)
from camlucida.onnx.extra import onnx
from camlucida.onnx.graph import Graph

PREFIX = "camlucida"

Attribute: TypeAlias = int | float | str | Sequence[int]


class Builder:
    """New nodes and constants of a graph, under names that it does not use."""

    def __init__(self, graph: Graph) -> None:
        self.opset = graph.opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        names = (node.name for node in graph.model.graph.node)
        self._used = {PREFIX, *graph.varying, *graph.makers, *graph.initializers, *names}

    def free(self, stem: str) -> str:
        """A name that nothing has yet."""
        name, number = f"{PREFIX}_{stem}", 1
        while name in self._used:
            number += 1
            name = f"{PREFIX}_{stem}_{number}"
        self._used.add(name)
        return name

    def node(self, op: str, inputs: Sequence[str], attributes: Mapping[str, Attribute] | None = None) -> str:
        """Add a node; its one output."""
        name = self.free(op.lower())
        self.nodes.append(onnx.helper.make_node(op, list(inputs), [name], name=name, **(attributes or {})))
        return name

    def constant(self, value: NDArray[Any], stem: str = "constant") -> str:
        """Add a constant."""
        name = self.free(stem)
        self.constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def number(self, value: Any, kind: int, stem: str = "factor") -> str:
        """Add floating-point numbers of an ONNX type."""
        if kind == onnx.TensorProto.BFLOAT16:  # NumPy has none of these
            return self.node("Cast", [self.constant(np.asarray(value, np.float32), stem)], {"to": kind})
        return self.constant(np.asarray(value, onnx.helper.tensor_dtype_to_np_dtype(kind)), stem)

    def whole(self, *numbers: int) -> str:
        """Add a list of int64."""
        return self.constant(np.array(numbers, np.int64), "sizes")

    def reshape(self, tensor: str, *sizes: int) -> str:
        """Reshape; 0 keeps an axis, -1 takes the rest."""
        return self.node("Reshape", [tensor, self.whole(*sizes)])

    def reduced(self, op: str, tensor: str, axis: int, *, keepdims: bool = True) -> str:
        """A reduction over one axis, as the opset has it."""
        since = {"ReduceSum": 13}.get(op, 18)
        if self.opset >= since:
            return self.node(op, [tensor, self.whole(axis)], {"keepdims": int(keepdims)})
        return self.node(op, [tensor], {"axes": [axis], "keepdims": int(keepdims)})

    def sizes(self, tensor: str, first: int, last: int) -> str:
        """Some sizes of a tensor, int64."""
        shape = self.node("Shape", [tensor])
        return self.node("Slice", [shape, self.whole(first), self.whole(last)])

    def joined(self, *parts: str) -> str:
        """Lists of int64 in a row."""
        return self.node("Concat", parts, {"axis": 0})


class Emitter:
    """Writes expressions in the cells of one graph.

    Values are (N, C, cells) tensors; with ``ids`` (N, k) they are (N, k, cells), the rows of these classes alone.
    """

    def __init__(self, graph: Graph, builder: Builder) -> None:
        self.graph, self.build = graph, builder
        self._tensors: dict[tuple[int, bool], str] = {}
        self._kinds: dict[int, int] = {}

    def maps(self, expression: Expression, cells: Cells, ids: str | None) -> str:
        """Maps (N, K, h, w), or (N, k, h, w) of the classes ``ids``, in logits per cell, float32."""
        for part in ordered(expression):
            self._kinds[id(part)] = self._kind(part)
        tensor, kind = self._emit(expression, ids), self._kinds[id(expression)]
        fixed = self.graph.fixed_hw is not None
        if cells.mean and fixed:
            tensor = self.build.node("Mul", [tensor, self.build.number(1 / cells.count, kind, "share")])
        elif cells.mean:
            count = self.build.node("Cast", [self.build.sizes(tensor, 2, 3)], {"to": kind})
            tensor = self.build.node("Div", [tensor, count])
        if kind != onnx.TensorProto.FLOAT:
            tensor = self.build.node("Cast", [tensor], {"to": onnx.TensorProto.FLOAT})
        if fixed:
            return self.build.reshape(tensor, 0, 0, *cells.grid)
        source, first = cells.grid_from
        sizes = self.build.joined(self.build.whole(0, 0), self.build.sizes(source, first, first + 2))
        return self.build.node("Reshape", [tensor, sizes])

    def _kind(self, expression: Expression) -> int:
        match expression:
            case Features(cells=cells):
                return self.graph.type_of(cells.tensor)
            case Cast(to=to):
                return to
            case SignedSum(parts=parts):
                return self._kinds[id(parts[0][0])]
            case _:
                return self._kinds[id(expression.of)]

    def _emit(self, expression: Expression, ids: str | None) -> str:
        key = (id(expression), ids is not None)
        if key not in self._tensors:
            self._tensors[key] = self._written(expression, ids)
        return self._tensors[key]

    def _written(self, expression: Expression, ids: str | None) -> str:
        kind = self._kinds[id(expression)]
        match expression:
            case Features(cells=cells):
                return self._cells(cells) if ids is None else self._rows(self._emit(expression, None), ids)
            case Matrix(of=of, flat=flat):
                if flat:
                    return self._flat(expression) if ids is None else self._rows(self._emit(expression, None), ids)
                return self.build.node("MatMul", [self._weight(expression, ids), self._emit(of, None)])
            case Scale(of=of, factor=factor):
                return self.build.node("Mul", [self._emit(of, ids), self._vector(factor, kind, ids)])
            case Shift(of=of):
                return self._emit(of, ids)
            case FrozenScale(of=of, by=by, divide=divide):
                number = self.build.reshape(by if isinstance(by, str) else self._divisor(by, kind), -1, 1, 1)
                return self.build.node("Div" if divide else "Mul", [self._emit(of, ids), number])
            case ChannelMean(of=of):
                return self.build.reduced("ReduceMean", self._emit(of, None), 1)
            case Cast(of=of):
                return self.build.node("Cast", [self._emit(of, ids)], {"to": kind})
            case SignedSum(parts=parts):
                (first, sign), *others = parts
                tensor = self._emit(first, ids)
                tensor = tensor if sign > 0 else self.build.node("Neg", [tensor])
                for part, sign in others:
                    tensor = self.build.node("Add" if sign > 0 else "Sub", [tensor, self._emit(part, ids)])
                return tensor

    def _cells(self, cells: Cells) -> str:
        channels = cells.channels
        match cells.layout:
            case "NCHW":
                return self.build.reshape(cells.tensor, 0, channels, -1)
            case "NHWC":
                row = self.build.reshape(cells.tensor, 0, -1, channels)
                return self.build.node("Transpose", [row], {"perm": [0, 2, 1]})
            case "NLC":
                return self.build.node("Transpose", [cells.tensor], {"perm": [0, 2, 1]})
            case "NCL":
                return cells.tensor

    def _weight(self, matrix: Matrix, ids: str | None) -> str:
        """The graph's own matrix as (K, C), or (N, k, C): turned where it lies, as ONNX Runtime does on loading."""
        name = matrix.weight
        shape = self._weight_shape(name)
        if matrix.form == "CK":
            name = name if len(shape) == 2 else self.build.reshape(name, shape[-2], shape[-1])
            name = self.build.node("Transpose", [name], {"perm": [1, 0]})
        elif len(shape) > 2:
            name = self.build.reshape(name, shape[0], -1)
        return name if ids is None else self.build.node("Gather", [name, ids], {"axis": 0})

    def _weight_shape(self, name: str) -> tuple[int, ...]:
        stored = self.graph.initializers.get(name)
        return tuple(stored.dims) if stored is not None else self.graph.value(name).shape

    def _flat(self, matrix: Matrix) -> str:
        """Each cell by its own matrix: (cells, N, C) @ (cells, C, K) -> (N, K, cells)."""
        assert isinstance(matrix.of, Features)
        cells = matrix.of.cells
        form, channels, count = matrix.form, cells.channels, cells.count
        channels_first = cells.layout == "NCHW"
        inner = (channels, count) if channels_first else (count, channels)
        if form == "KC":
            order = [2, 1, 0] if channels_first else [1, 2, 0]
            weight = self.build.reshape(matrix.weight, matrix.rows, *inner)
        else:
            order = [1, 0, 2] if channels_first else [0, 1, 2]
            weight = self.build.reshape(matrix.weight, *inner, matrix.rows)
        weight = self.build.node("Transpose", [weight], {"perm": order})
        features = self.build.node("Transpose", [self._emit(matrix.of, None)], {"perm": [2, 0, 1]})
        return self.build.node("Transpose", [self.build.node("MatMul", [features, weight])], {"perm": [1, 2, 0]})

    def _vector(self, factor: NDArray[np.float64], kind: int, ids: str | None) -> str:
        if factor.ndim == 0:
            return self.build.number(factor, kind)
        if ids is None:
            return self.build.number(factor[:, None], kind)
        return self.build.reshape(
            self.build.node("Gather", [self.build.number(factor, kind), ids], {"axis": 0}), 0, -1, 1
        )

    def _rows(self, every: str, ids: str) -> str:
        """The rows of the classes ``ids`` out of (N, K, cells)."""
        sizes = self.build.joined(self.build.whole(1, 1), self.build.sizes(every, 2, 3))
        index = self.build.node("Expand", [self.build.reshape(ids, 0, -1, 1), sizes])
        return self.build.node("GatherElements", [every, index], {"axis": 1})

    def _divisor(self, divisor: NormDivisor, kind: int) -> str:
        """What a fused normalization divides by, (N, 1)."""
        pooled = self.build.reshape(divisor.pooled, 0, -1)
        if divisor.kind == "std":
            pooled = self.build.node("Sub", [pooled, self.build.reduced("ReduceMean", pooled, 1)])
        square = self.build.node("Mul", [pooled, pooled])
        if divisor.kind == "length":
            return self.build.node("Sqrt", [self.build.reduced("ReduceSum", square, 1)])
        mean = self.build.reduced("ReduceMean", square, 1)
        return self.build.node("Sqrt", [self.build.node("Add", [mean, self.build.number(divisor.eps, kind, "eps")])])
