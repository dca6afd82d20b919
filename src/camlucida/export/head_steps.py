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

_ROOT_MEAN_SQUARE = ("RMSNormalization", "SimplifiedLayerNormalization")


def read_head(graph: Graph, logits: str) -> HeadTensor:
    """The logits as an expression in the features.

    Raises:
        ExportError: they are not affine in pooled features; the message says what stands in the way.
    """
    return HeadReader(graph, STEPS).read(logits)


def _gathered(reader: HeadReader, node: Any) -> HeadTensor:
    """All numbers of a flattened tensor in their order: how torch.export writes strides that change nothing."""
    flat, shape = reader.graph.makers.get(node.input[0]), reader.shape(node.input[0])
    if flat is None or flat.op_type != "Reshape" or len(shape) != 1:
        reader.refuse(node)
    if not np.array_equal(reader.graph.at_example(node.input[1]).reshape(-1), np.arange(shape[0])):
        reader.refuse(node)
    return reader.moved(node, flat.input[0])


def _transpose(reader: HeadReader, node: Any) -> HeadTensor:
    shape = reader.shape(node.output[0])
    order = list(attributes(node).get("perm") or range(len(shape))[::-1])
    if order[0] != 0 or len(wide(shape)) > 1:
        reader.refuse(node)
    below = reader.read(node.input[0])
    return HeadTensor(below.expression, order.index(below.axis), below.width)


def _gemm(reader: HeadReader, node: Any) -> HeadTensor:
    options = attributes(node)
    if options.get("transA") or not reader.constant(node.input[1]):
        reader.refuse(node)
    product = _product(reader, node, "KC" if options.get("transB") else "CK")
    product = product.scaled(float(options.get("alpha", 1.0)))
    if len(node.input) > 2 and node.input[2]:
        return _shifted(reader, node, product, node.input[2], float(options.get("beta", 1.0)))
    return product


def _matmul(reader: HeadReader, node: Any) -> HeadTensor:
    shape = reader.graph.value(node.input[1]).shape if reader.constant(node.input[1]) else ()
    if len(shape) < 2 or math.prod(shape[:-2]) != 1:
        reader.refuse(node)
    return _product(reader, node, "CK")


def _product(reader: HeadReader, node: Any, form: WeightForm) -> HeadTensor:
    (x, weight), after = node.input[:2], reader.shape(node.output[0])
    shape, rows = reader.shape(x), after[-1]
    flat = reader.flat(x) if len(shape) == 2 else None
    if flat is not None:
        return HeadTensor(Matrix(flat, weight, form, rows, flat=True), 1, rows)
    below = reader.read(x)
    if below.axis != len(shape) - 1 or below.width != shape[-1]:
        reader.refuse(node)
    return HeadTensor(Matrix(below.expression, weight, form, rows), len(after) - 1, rows)


def _conv(reader: HeadReader, node: Any) -> HeadTensor:
    options, before, after = attributes(node), reader.shape(node.input[0]), reader.shape(node.output[0])
    kernel = tuple(options.get("kernel_shape") or reader.value(node, 1).shape[2:])
    grid, rows = before[2:], after[1]
    whole = kernel == grid and math.prod(after[2:]) == 1 and not any(options.get("pads", ()))
    if not whole or options.get("group", 1) != 1 or not reader.constant(node.input[1]):
        reader.refuse(node)
    flat = math.prod(grid) > 1
    source: Expression | None
    if flat:
        source = reader.unpooled(node.input[0], node) if len(before) == 4 else None
    else:
        source = reader.read(node.input[0]).expression
    if source is None:
        reader.refuse(node)
    product = HeadTensor(Matrix(source, node.input[1], "KC", rows, flat), 1, rows)
    if len(node.input) > 2 and node.input[2]:
        return product.become(Shift(product.expression, reader.value(node, 2).astype(np.float64)))
    return product


def _batch_norm(reader: HeadReader, node: Any) -> HeadTensor:
    below = reader.read(node.input[0])
    scale, bias, mean, variance = (reader.value(node, i).astype(np.float64) for i in range(1, 5))
    if below.axis != 1 or scale.shape != (below.width,):
        reader.refuse(node)
    factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    return below.become(Shift(Scale(below.expression, factor), bias - mean * factor))


def _norm(reader: HeadReader, node: Any) -> HeadTensor:
    """LayerNormalization and its kin over the channels of pooled features."""
    options, shape, kind = attributes(node), reader.shape(node.input[0]), node.op_type
    below = reader.read(node.input[0])
    if kind == "GroupNormalization":
        covered = below.width // int(options["num_groups"])
    else:  # InstanceNormalization covers what is behind axis 1
        covered = math.prod(shape[2:] if kind == "InstanceNormalization" else shape[options.get("axis", -1) :])
    if covered != below.width or below.width == 1:
        reader.refuse(node)
    root = kind in _ROOT_MEAN_SQUARE
    divisor = NormDivisor(node.input[0], "rms" if root else "std", float(options.get("epsilon", 1e-5)))
    mean = ChannelMean(below.expression)
    centred = below.expression if root else SignedSum(((below.expression, 1), (mean, -1)))
    normed: Expression = FrozenScale(centred, divisor, divide=True)
    normed = Scale(normed, reader.vector(node, reader.value(node, 1), below.width))
    if len(node.input) > 2 and node.input[2]:
        normed = Shift(normed, reader.vector(node, reader.value(node, 2), below.width))
    return below.become(normed)


def _lp_norm(reader: HeadReader, node: Any) -> HeadTensor:
    below, options = reader.read(node.input[0]), attributes(node)
    if options.get("p", 2) != 2 or options.get("axis", -1) % len(reader.shape(node.output[0])) != below.axis:
        reader.refuse(node)
    return below.become(FrozenScale(below.expression, NormDivisor(node.input[0], "length", 0.0), divide=True))


def _cast(reader: HeadReader, node: Any) -> HeadTensor:
    below, to = reader.read(node.input[0]), attributes(node)["to"]
    if onnx.helper.tensor_dtype_to_np_dtype(to).kind != "f" and to != onnx.TensorProto.BFLOAT16:
        reader.refuse(node)
    return below.become(Cast(below.expression, to))


def _dequantize(reader: HeadReader, node: Any) -> HeadTensor:
    before = reader.graph.makers.get(node.input[0])
    if before is None or before.op_type != "QuantizeLinear":
        reader.refuse(node)
    return reader.read(before.input[0])


def _negative(reader: HeadReader, node: Any) -> HeadTensor:
    return reader.read(node.input[0]).scaled(-1.0)


def _add(reader: HeadReader, node: Any) -> HeadTensor:
    sign = -1 if node.op_type == "Sub" else 1
    constants = [name for name in node.input if reader.constant(name)]
    if len(constants) == 1:
        below = reader.read(next(name for name in node.input if name != constants[0]))
        if node.input[0] == constants[0]:
            return _shifted(reader, node, below.scaled(sign), constants[0], 1.0)
        return _shifted(reader, node, below, constants[0], sign)
    parts = [reader.read(name) for name in node.input]
    widest = max(parts, key=lambda part: part.width)
    if len({part.width for part in parts} - {1}) > 1 or widest.width != reader.shape(node.output[0])[widest.axis]:
        reader.refuse(node)
    signs = [1, sign] if len(parts) == 2 else [1] * len(parts)
    total = SignedSum(tuple((part.expression, each) for part, each in zip(parts, signs, strict=True)))
    return widest.become(total).scaled(1 / len(parts) if node.op_type == "Mean" else 1.0)


def _multiply(reader: HeadReader, node: Any) -> HeadTensor:
    first, second = node.input
    divide = node.op_type == "Div"
    if reader.constant(first) and not divide:
        first, second = second, first
    if reader.constant(second):
        below = reader.read(first)
        factor = reader.vector(node, reader.graph.value(second), below.width, below.axis)
        return below.become(Scale(below.expression, 1 / factor if divide else factor))
    if reader.constant(first):
        reader.refuse(node)
    if not divide and not wide(reader.shape(_unexpanded(reader, first))):
        first, second = second, first
    second = _unexpanded(reader, second)
    if wide(reader.shape(second)) or not wide(reader.shape(first)):
        reader.refuse(node)
    below = reader.read(first)
    return below.become(FrozenScale(below.expression, second, divide))


def _unexpanded(reader: HeadReader, name: str) -> str:
    """A number for each picture, where it was spread over the channels."""
    node = reader.graph.makers.get(name)
    return node.input[0] if node is not None and node.op_type == "Expand" else name


def _channel_mean(reader: HeadReader, node: Any) -> HeadTensor:
    removed = reduction(reader.graph, node)
    if removed is None or not attributes(node).get("keepdims", 1):
        reader.refuse(node)
    below = reader.read(node.input[0])
    if below.axis not in removed.axes or 0 in removed.axes:
        reader.refuse(node)
    mean = HeadTensor(ChannelMean(below.expression), below.axis, 1)
    return mean if removed.mean else mean.scaled(below.width)


def _shifted(reader: HeadReader, node: Any, below: HeadTensor, constant: str, factor: float) -> HeadTensor:
    by = reader.vector(node, reader.graph.value(constant), below.width, below.axis) * factor
    return below.become(Shift(below.expression, by))


STEPS: dict[str, Step] = {
    "Transpose": _transpose, "Gather": _gathered, "Gemm": _gemm, "MatMul": _matmul, "Conv": _conv,
    "BatchNormalization": _batch_norm, "LpNormalization": _lp_norm, "Cast": _cast, "DequantizeLinear": _dequantize,
    "Neg": _negative, "ReduceMean": _channel_mean, "ReduceSum": _channel_mean, "Mul": _multiply, "Div": _multiply,
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean"), _add),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization", "InstanceNormalization", *_ROOT_MEAN_SQUARE), _norm),
}  # fmt: skip
"""What may stand between pooled features and logits. Add your own: a line here, and how it acts on every cell."""
