"""What may stand between pooled features and logits, and how each acts on every cell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from camlucida.export.cells import reduction
from camlucida.export.expression import (
    Cast,
    ChannelMean,
    Expression,
    FrozenScale,
    HeadTensor,
    Matrix,
    NormDivisor,
    Scale,
    Shift,
    SignedSum,
    WeightForm,
)
from camlucida.export.head_reader import HeadReader, Step
from camlucida.export.refusals import wide
from camlucida.onnx.extra import onnx
from camlucida.onnx.graph import Graph, attributes


def read_head(graph: Graph, logits: str) -> HeadTensor:
    """The logits as an expression in the features.

    Raises:
        ExportError: they are not affine in pooled features; the message says what stands in the way.
    """
    return HeadReader(graph, STEPS).read(logits)


def _gathered(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    """All numbers of a flattened tensor in their order: how torch.export writes strides that change nothing."""
    flat = reader.graph.makers.get(node.input[0])
    if flat is None or flat.op_type != "Reshape" or len(reader.graph.shape_of(node.input[0])) != 1:
        reader.refuse(node)
    index = reader.graph.at_example(node.input[1])
    if not np.array_equal(index.reshape(-1), np.arange(reader.graph.shape_of(node.input[0])[0])):
        reader.refuse(node)
    return reader.moved(node, flat.input[0], name)


def _transpose(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    rank = len(reader.graph.shape_of(name))
    order = attributes(node).get("perm") or list(range(rank))[::-1]
    if order[0] != 0 or len(wide(reader.graph.shape_of(name))) > 1:
        reader.refuse(node)
    below = reader.read(node.input[0])
    return HeadTensor(below.expression, list(order).index(below.axis), below.width)


def _gemm(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    given = attributes(node)
    if given.get("transA") or not reader.constant(node.input[1]):
        reader.refuse(node)
    form: WeightForm = "KC" if given.get("transB") else "CK"
    made = _product(reader, node, name, node.input[0], node.input[1], form)
    made = _scaled(reader, made, float(given.get("alpha", 1.0)))
    if len(node.input) > 2 and node.input[2]:
        made = _shifted(reader, node, name, made, node.input[2], float(given.get("beta", 1.0)))
    return made


def _matmul(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    x, weight = node.input
    shape = reader.graph.value(weight).shape if reader.constant(weight) else ()
    if len(shape) < 2 or math.prod(shape[:-2]) != 1:
        reader.refuse(node)
    return _product(reader, node, name, x, weight, "CK")


def _product(reader: HeadReader, node: Any, name: str, x: str, weight: str, form: WeightForm) -> HeadTensor:
    shape, rank = reader.graph.shape_of(x), len(reader.graph.shape_of(name))
    rows = reader.graph.shape_of(name)[-1]
    flat = reader.flat(x) if len(shape) == 2 else None
    if flat is not None:
        return HeadTensor(Matrix(flat, weight, form, rows, flat=True), 1, rows)
    below = reader.read(x)
    if below.axis != len(shape) - 1 or below.width != shape[-1]:
        reader.refuse(node)
    return HeadTensor(Matrix(below.expression, weight, form, rows), rank - 1, rows)


def _conv(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    given, before, after = attributes(node), reader.graph.shape_of(node.input[0]), reader.graph.shape_of(name)
    kernel = tuple(given.get("kernel_shape") or reader.value(node, 1).shape[2:])
    grid, rows = before[2:], after[1]
    whole = kernel == grid and math.prod(after[2:]) == 1 and not any(given.get("pads", ()))
    if not whole or given.get("group", 1) != 1 or not reader.constant(node.input[1]):
        reader.refuse(node)
    if math.prod(grid) > 1:
        features = reader.unpooled(node.input[0], node) if len(before) == 4 else None
        if features is None:
            reader.refuse(node)
        made = HeadTensor(Matrix(features, node.input[1], "KC", rows, flat=True), 1, rows)
    else:
        made = HeadTensor(Matrix(reader.read(node.input[0]).expression, node.input[1], "KC", rows), 1, rows)
    if len(node.input) > 2 and node.input[2]:
        made = HeadTensor(Shift(made.expression, reader.value(node, 2).astype(np.float64)), 1, rows)
    return made


def _batch_norm(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    below = reader.read(node.input[0])
    scale, bias, mean, variance = (reader.value(node, i).astype(np.float64) for i in range(1, 5))
    if below.axis != 1 or scale.shape != (below.width,):
        reader.refuse(node)
    factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    return HeadTensor(Shift(Scale(below.expression, factor), bias - mean * factor), 1, below.width)


def _norm(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    """LayerNormalization and its kin over the channels of pooled features."""
    given, shape, kind = attributes(node), reader.graph.shape_of(node.input[0]), node.op_type
    below = reader.read(node.input[0])
    if kind in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"):
        covered = math.prod(shape[given.get("axis", -1) :])
    elif kind == "GroupNormalization":
        covered = below.width // int(given["num_groups"])
    else:  # InstanceNormalization: over what is behind axis 1
        covered = math.prod(shape[2:])
    if covered != below.width or below.width == 1:
        reader.refuse(node)
    root = kind in ("RMSNormalization", "SimplifiedLayerNormalization")
    spread = NormDivisor(node.input[0], "rms" if root else "std", float(given.get("epsilon", 1e-5)))
    centred = below.expression if root else _centred(below.expression)
    made: Expression = FrozenScale(centred, spread, divide=True)
    made = Scale(made, reader.vector(node, reader.value(node, 1), below.width))
    if len(node.input) > 2 and node.input[2]:
        made = Shift(made, reader.vector(node, reader.value(node, 2), below.width))
    return HeadTensor(made, below.axis, below.width)


def _lp_norm(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    below, given = reader.read(node.input[0]), attributes(node)
    if given.get("p", 2) != 2 or given.get("axis", -1) % len(reader.graph.shape_of(name)) != below.axis:
        reader.refuse(node)
    return HeadTensor(
        FrozenScale(below.expression, NormDivisor(node.input[0], "length", 0.0), divide=True), below.axis, below.width
    )


def _cast(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    below, to = reader.read(node.input[0]), attributes(node)["to"]
    if onnx.helper.tensor_dtype_to_np_dtype(to).kind != "f" and to != onnx.TensorProto.BFLOAT16:
        reader.refuse(node)
    return HeadTensor(Cast(below.expression, to), below.axis, below.width)


def _dequantize(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    before = reader.graph.makers.get(node.input[0])
    if before is None or before.op_type != "QuantizeLinear":
        reader.refuse(node)
    return reader.read(before.input[0])


def _negative(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    return _scaled(reader, reader.read(node.input[0]), -1.0)


def _add(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    sign = -1 if node.op_type == "Sub" else 1
    fixed = [one for one in node.input if reader.constant(one)]
    if len(fixed) == 1:
        below = reader.read(next(one for one in node.input if one != fixed[0]))
        first = node.input[0] == fixed[0]
        moved = _scaled(reader, below, sign) if first else below
        return _shifted(reader, node, name, moved, fixed[0], 1.0 if first else sign)
    parts = [reader.read(one) for one in node.input]
    widths = {part.width for part in parts}
    whole = max(parts, key=lambda part: part.width)
    if len(widths - {1}) > 1 or whole.width != reader.graph.shape_of(name)[whole.axis]:
        reader.refuse(node)
    signs = [1, sign] if len(parts) == 2 else [1] * len(parts)
    made = SignedSum(tuple((part.expression, each) for part, each in zip(parts, signs, strict=True)))
    mean = 1 / len(parts) if node.op_type == "Mean" else 1.0
    return _scaled(reader, HeadTensor(made, whole.axis, whole.width), mean)


def _multiply(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    first, second = node.input
    divide = node.op_type == "Div"
    if reader.constant(first) and not divide:
        first, second = second, first
    if reader.constant(second):
        below = reader.read(first)
        factor = reader.vector(node, reader.graph.value(second), below.width, below.axis, name)
        return HeadTensor(Scale(below.expression, 1 / factor if divide else factor), below.axis, below.width)
    if reader.constant(first):
        reader.refuse(node)
    if not divide and not wide(reader.graph.shape_of(_unexpanded(reader, first))):
        first, second = second, first
    second = _unexpanded(reader, second)
    if wide(reader.graph.shape_of(second)) or not wide(reader.graph.shape_of(first)):
        reader.refuse(node)
    below = reader.read(first)
    return HeadTensor(FrozenScale(below.expression, second, divide), below.axis, below.width)


def _unexpanded(reader: HeadReader, name: str) -> str:
    """A number for each picture, where it was spread over the channels."""
    node = reader.graph.makers.get(name)
    return node.input[0] if node is not None and node.op_type == "Expand" else name


def _channel_mean(reader: HeadReader, node: Any, name: str) -> HeadTensor:
    found = reduction(reader.graph, node)
    if found is None or not attributes(node).get("keepdims", 1):
        reader.refuse(node)
    below = reader.read(node.input[0])
    if below.axis not in found.axes or 0 in found.axes:
        reader.refuse(node)
    mean = ChannelMean(below.expression)
    made: Expression = mean if found.mean else Scale(mean, np.asarray(float(below.width)))
    return HeadTensor(made, below.axis, 1)


def _scaled(reader: HeadReader, below: HeadTensor, factor: float) -> HeadTensor:
    if factor == 1:
        return below
    return HeadTensor(Scale(below.expression, np.asarray(factor)), below.axis, below.width)


def _shifted(reader: HeadReader, node: Any, name: str, below: HeadTensor, constant: str, factor: float) -> HeadTensor:
    by = reader.vector(node, reader.graph.value(constant), below.width, below.axis, name) * factor
    return HeadTensor(Shift(below.expression, by), below.axis, below.width)


def _centred(expression: Expression) -> Expression:
    return SignedSum(((expression, 1), (ChannelMean(expression), -1)))


STEPS: dict[str, Step] = {
    "Transpose": _transpose,
    "Gather": _gathered,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _norm,
    "RMSNormalization": _norm,
    "SimplifiedLayerNormalization": _norm,
    "GroupNormalization": _norm,
    "InstanceNormalization": _norm,
    "LpNormalization": _lp_norm,
    "Cast": _cast,
    "DequantizeLinear": _dequantize,
    "Neg": _negative,
    "Add": _add,
    "Sub": _add,
    "Sum": _add,
    "Mean": _add,
    "Mul": _multiply,
    "Div": _multiply,
    "ReduceMean": _channel_mean,
    "ReduceSum": _channel_mean,
}
"""What may stand between pooled features and logits. Add your own: a line here, and how it acts on every cell."""
