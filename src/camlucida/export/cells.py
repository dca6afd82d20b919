"""Where a graph removes the spatial axes: from the node that does it to the features, their layout and their grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from camlucida.errors import ExportError
from camlucida.images.picture import shown
from camlucida.onnx.graph import Graph, attributes

FeatureLayout = Literal["NCHW", "NHWC", "NLC", "NCL"]

# Which axes hold rows and columns (of tokens: both in one), and which the channels.
AXES: dict[FeatureLayout, tuple[tuple[int, ...], int]] = {
    "NCHW": ((2, 3), 1), "NHWC": ((1, 2), 3), "NLC": ((1,), 2), "NCL": ((2,), 1),
}  # fmt: skip

_KEEPS_LAYOUT = (
    "Relu", "Clip", "Sigmoid", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Add", "Mul", "Dropout", "Identity",
    "BatchNormalization", "Cast", "PRelu", "Gelu", "DequantizeLinear", "QuantizeLinear",
)  # fmt: skip
_MAKES_NCHW = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "ConvTranspose")


@dataclass(frozen=True)
class Cells:
    """Features with their spatial axes, as the graph has them.

    Attributes:
        tensor: their name.
        shape: their size for the example input.
        layout: what their axes are.
        mean: whether the pooling takes the mean over the cells; else their sum.
        pooling: the node that removes the spatial axes, in words.
        grid: rows and columns for the example input.
        grid_from: where the grid can be read off for any input: a tensor and the first of its two axes.
    """

    tensor: str
    shape: tuple[int, ...]
    layout: FeatureLayout
    mean: bool
    pooling: str
    grid: tuple[int, int]
    grid_from: tuple[str, int]

    @property
    def channels(self) -> int:
        """How many there are."""
        return self.shape[AXES[self.layout][1]]

    @property
    def count(self) -> int:
        """How many cells the grid has."""
        return math.prod(self.grid)

    @property
    def words(self) -> str:
        """Layout and sizes: ``NCHW 2048×7×7``."""
        h, w = self.grid
        sizes = {
            "NCHW": f"{self.channels}×{h}×{w}", "NHWC": f"{h}×{w}×{self.channels}",
            "NLC": f"{self.count}×{self.channels} ({h}×{w})", "NCL": f"{self.channels}×{self.count} ({h}×{w})",
        }  # fmt: skip
        return f"{self.layout} {sizes[self.layout]}"


@dataclass(frozen=True)
class Reduction:
    """A reduction: the tensor it starts from, the axes it removes there, and whether they stay as axes of size 1."""

    source: str
    axes: tuple[int, ...]
    mean: bool
    keepdims: bool


def reduction(graph: Graph, node: Any) -> Reduction | None:
    """A mean or sum over axes, several in a row taken together; None for any other node.

    Max pooling is none: its share of a logit is one cell's alone, and which cell it is differs from channel to channel.
    """
    if node.op_type not in ("GlobalAveragePool", "AveragePool", "ReduceMean", "ReduceSum"):
        return None
    source = node.input[0]
    shape = graph.shape_of(source)
    options = attributes(node)
    if node.op_type == "AveragePool":
        whole = tuple(options["kernel_shape"]) == shape[2:] and not any(options.get("pads", ()))
        if not whole or math.prod(graph.shape_of(node.output[0])[2:]) != 1:
            return None
    if node.op_type in ("GlobalAveragePool", "AveragePool"):
        return Reduction(source, tuple(range(2, len(shape))), True, True)
    axes = _axes(graph, node, options, len(shape))
    if axes is None:
        return None
    own = Reduction(source, axes, node.op_type == "ReduceMean", bool(options.get("keepdims", 1)))
    before = graph.makers.get(source)
    first = reduction(graph, before) if before is not None and before.op_type == node.op_type else None
    covers = first is not None and first.keepdims and set(first.axes) <= set(own.axes)  # rows first, kept, then both
    if first is None or (first.keepdims != own.keepdims and not covers):
        return own
    left = [axis for axis in range(len(graph.shape_of(first.source))) if first.keepdims or axis not in first.axes]
    return Reduction(
        first.source, tuple(sorted({*first.axes, *(left[axis] for axis in own.axes)})), own.mean, own.keepdims
    )


def cells_of(graph: Graph, pooled: Reduction, pooling: str) -> Cells | None:
    """The features that a reduction pools; None if it does not remove a grid and leave channels.

    Raises:
        ExportError: it removes the tokens' axis, but what grid they are of is unclear.
    """
    shape = graph.shape_of(pooled.source)
    layout = next(
        (name for name, (space, channel) in AXES.items() if space == pooled.axes and len(shape) == len(space) + 2), None
    )
    if layout is None:
        return None
    space, channel = AXES[layout]
    if math.prod(shape[axis] for axis in space) == 1 or (len(shape) == 3 and shape[channel] == 1):
        return None
    return gridded(graph, pooled.source, layout, pooled.mean, pooling)


def gridded(graph: Graph, tensor: str, layout: FeatureLayout, mean: bool, pooling: str) -> Cells:
    """Features of a known layout with their grid."""
    shape = graph.shape_of(tensor)
    space, channel = AXES[layout]
    if len(space) == 2:
        return Cells(tensor, shape, layout, mean, pooling, (shape[space[0]], shape[space[1]]), (tensor, space[0]))
    grid, grid_from = _token_grid(graph, tensor, shape[space[0]], shape[channel])
    return Cells(tensor, shape, layout, mean, pooling, grid, grid_from)


def unpooled_layout(graph: Graph, tensor: str) -> FeatureLayout | None:
    """The layout of rank-4 features, told by what made them; None if that is unclear."""
    node = graph.makers.get(tensor)
    for _ in range(100):
        if node is None:
            return None
        if node.op_type in _MAKES_NCHW:
            return "NCHW"
        if node.op_type == "Transpose" and tuple(attributes(node).get("perm", ())) == (0, 2, 3, 1):
            return "NHWC" if unpooled_layout(graph, node.input[0]) == "NCHW" else None
        if node.op_type not in _KEEPS_LAYOUT:
            return None
        read = [name for name in node.input if name in graph.varying]
        node = graph.makers.get(read[0]) if read else None
    return None


def described(node: Any) -> str:
    """A node as messages name it."""
    return f"{node.op_type} ({shown(node.name or node.output[0])})"


def _token_grid(graph: Graph, tensor: str, count: int, channels: int) -> tuple[tuple[int, int], tuple[str, int]]:
    """The grid that tokens come from: the one pair of rows and columns among the tensors before them that fits."""
    by_convolution: dict[tuple[int, int], tuple[str, int]] = {}
    by_shape: dict[tuple[int, int], tuple[str, int]] = {}
    waiting, seen = [tensor], {tensor}
    while waiting:
        name = waiting.pop()
        shape, node = graph.shapes.get(name, ()), graph.makers.get(name)
        for first, channel in ((2, 1), (1, 3)) if len(shape) == 4 else ():
            grid = (shape[first], shape[first + 1])
            if math.prod(grid) == count and min(grid) > 1:
                if first == 2 and node is not None and node.op_type == "Conv":
                    by_convolution[grid] = (name, first)
                elif shape[channel] == channels:
                    by_shape[grid] = (name, first)
        for source in node.input if node is not None else ():
            if source in graph.varying and source not in seen:
                seen.add(source)
                waiting.append(source)
    fitting = by_convolution or by_shape
    if len(fitting) != 1:
        grids = " or ".join(f"{h}×{w}" for h, w in fitting) or "nowhere in the graph"
        raise ExportError(
            f"{graph.name}: pools {count} tokens whose rows and columns are unclear ({grids}); "
            "export the model with its features as N×C×H×W"
        )
    return next(iter(fitting.items()))


def _axes(graph: Graph, node: Any, options: dict[str, Any], rank: int) -> tuple[int, ...] | None:
    """The axes of a reduction, an attribute or (since opset 13 or 18) an input; counted from the front."""
    axes = options.get("axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        if node.input[1] in graph.varying:
            return None
        axes = graph.value(node.input[1]).tolist()
    if not axes:
        return None if options.get("noop_with_empty_axes") else tuple(range(rank))
    return tuple(sorted(axis % rank for axis in axes))
