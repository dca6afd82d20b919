"""Why a head has no exact maps, in words: which node it is, and what to do instead."""

from __future__ import annotations

from typing import Any

from camlucida.export.cells import described
from camlucida.onnx.graph import Graph

ADVICE = "; a method that needs no gradient (rise, occlusion) explains such a model"

RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_PICKING = ("Gather", "Slice", "Split", "GatherND", "GatherElements")
_MAXIMA = ("GlobalMaxPool", "MaxPool", "ReduceMax", "GlobalLpPool", "LpPool", "ReduceLogSumExp")
_CURVED = (
    "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Tanh", "Sigmoid",
    "HardSigmoid", "HardSwish", "Clip", "Erf", "Softplus", "Softsign", "Mish", "Swish", "Softmax", "ThresholdedRelu",
    "Pow", "Exp", "Sqrt", "Max", "Min", "Where",
)  # fmt: skip
_PRODUCTS = ("MatMul", "Mul", "Div", "Gemm", "Einsum")


def refusal(graph: Graph, node: Any) -> str:
    """What stands at a node between the features and the logits that is not affine, or not known."""
    shapes = [graph.shapes.get(name, ()) for name in node.input if name in graph.varying]
    on_grid = any(len(wide(shape)) > 1 for shape in shapes)
    what = described(node)
    if node.op_type in _MAXIMA:
        why = f"{what} removes the grid by a maximum, which is not affine"
    elif node.op_type in _PICKING and on_grid:
        why = f"{what} takes a class token or another part of the grid, so no pooling carries it to the logits"
    elif node.op_type in RESHAPING and on_grid:
        why = f"{what} flattens the grid, and what follows is not one linear layer whose cells can be told apart"
    elif node.op_type in _PRODUCTS and len(shapes) > 1:
        why = f"{what} multiplies two values of the picture (attention, gating, hidden layers), which is not affine"
    elif node.op_type in _CURVED:
        why = f"{what} stands between the pooled features and the logits (hidden layers), which is not affine"
    else:
        why = f"{what} stands between the features and the logits, and is not known to be affine"
    return f"{graph.name}: has no exact maps: {why}{ADVICE}"


def wide(shape: tuple[int, ...]) -> list[int]:
    """The axes, but for the first, that are longer than 1.

    >>> wide((8, 3, 1, 5))
    [1, 3]
    """
    return [axis for axis in range(1, len(shape)) if shape[axis] != 1]
