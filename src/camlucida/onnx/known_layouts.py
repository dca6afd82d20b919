"""How tensors of a graph lie on the picture, where the operations that made them tell: no proportions are asked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, TypeAlias

from camlucida.onnx.graph import attributes

MadeLayout: TypeAlias = "Literal['reduced'] | tuple[int, ...]"
"""Which axis of (N, C, H, W) each axis is; ``reduced`` where a mean, sum or maximum over axes left no grid."""

CHANNELS_FIRST, CHANNELS_LAST = (0, 1, 2, 3), (0, 2, 3, 1)

_SAME = {
    "Relu", "Clip", "Sigmoid", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Selu", "Celu", "Softplus", "Mish",
    "Swish", "Tanh", "Erf", "Exp", "Sqrt", "Abs", "Neg", "Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Dropout",
    "Identity",
    "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LayerNormalization", "LpNormalization", "LRN",
    "Cast", "PRelu", "Gelu", "QuickGelu", "DequantizeLinear", "QuantizeLinear", "Resize", "Upsample", "Pad", "Concat",
    "MatMul",
}  # fmt: skip
_OF_CHANNELS_FIRST = {
    "Conv", "ConvInteger", "QLinearConv", "FusedConv", "MaxPool", "AveragePool", "LpPool", "ConvTranspose",
    "QLinearAveragePool",
}  # fmt: skip
_REDUCING = {
    "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "QLinearGlobalAveragePool", "ReduceMean", "ReduceSum",
    "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare", "ReduceProd",
}  # fmt: skip
_MOVING = {
    "Einsum", "DepthToSpace", "SpaceToDepth", "Slice", "Gather", "GatherND", "GatherElements", "ReverseSequence",
    "GridSample", "ScatterND", "ScatterElements", "RoiAlign", "MaxUnpool",
}  # fmt: skip
"""Operations that may put cells elsewhere, as a flip does."""


def made_layouts(
    nodes: Iterable[Any], varying: Collection[str], given: Mapping[str, MadeLayout] | None = None
) -> dict[str, MadeLayout]:
    """The layouts of a graph's tensors, as far as the operations tell.

    Args:
        nodes: in order.
        varying: the tensors that depend on the picture.
        given: what is known before, such as the picture's.
    """
    layouts = dict(given or {})
    for node in nodes:
        read = [layouts[name] for name in node.input if name in varying and name in layouts]
        grids = [layout for layout in read if layout != "reduced"]
        made: MadeLayout | None = None
        if node.op_type in _OF_CHANNELS_FIRST:
            made = grids[0] if grids else CHANNELS_FIRST
        elif node.op_type in _REDUCING:
            made = "reduced"
        elif node.op_type == "Transpose" and grids:
            order = tuple(attributes(node).get("perm", ()))
            made = tuple(grids[0][axis] for axis in order) if sorted(order) == [0, 1, 2, 3] else None
        elif node.op_type in _SAME and read:
            made = grids[0] if grids else "reduced"
        if made is not None:
            layouts.update(dict.fromkeys(node.output, made))
    return layouts


def may_move(node: Any) -> bool:
    """Whether an operation may put cells elsewhere than they are in the picture."""
    if node.op_type == "Transpose":  # all but those between channels first and last
        return tuple(attributes(node).get("perm", ())) not in (CHANNELS_LAST, (0, 3, 1, 2))
    return node.op_type in _MOVING
