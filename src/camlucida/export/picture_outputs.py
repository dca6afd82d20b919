"""What a picture needs of maps, inside the graph: heatmaps of its size, and boxes around what is above a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from camlucida.errors import ExportError
from camlucida.export.emit import Builder
from camlucida.onnx.extra import onnx
from camlucida.onnx.graph import Graph

Upsample = tuple[int, int] | Literal["input"]

_FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class PictureOutputs:
    """What a file gives beside all classes' maps.

    Attributes:
        top: maps of the so many likeliest classes alone; None for all.
        upsample: height and width of ``heatmaps``, or "input" for the picture's own; None for no heatmaps.
        boxes: share of a map's maximum that a box is drawn around, in [0, 1); None for no boxes.

    Raises:
        ExportError: a value is none of these.
    """

    top: int | None = None
    upsample: Upsample | None = None
    boxes: float | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise ExportError(f"top: expected at least 1 class, got {self.top}")
        if isinstance(self.upsample, tuple) and not all(1 <= size <= 4096 for size in self.upsample):
            raise ExportError(f"upsample: expected a height and width of 1 to 4096 pixels, got {self.upsample}")
        if self.boxes is not None and not 0 <= self.boxes < 1:
            raise ExportError(f"boxes: expected a share of the maximum in [0, 1), got {self.boxes}")


def heatmap_nodes(graph: Graph, build: Builder, maps: str, size: Upsample) -> str:
    """Maps (N, K, h, w) laid over the input: half-pixel bilinear, held at the edge cells' values, (N, K, H, W)."""
    wanted = _input_sizes(graph, build, 2, 3) if size == "input" else build.whole(*size)
    sizes = build.joined(build.sizes(maps, 0, 2), wanted)
    return build.node("Resize", [maps, "", "", sizes] if build.opset >= 13 else [maps, *_no_scales(build), sizes],
                      {"mode": "linear", "coordinate_transformation_mode": "half_pixel"})  # fmt: skip


def box_nodes(graph: Graph, build: Builder, maps: str, threshold: float) -> str:
    """The box around all cells of each map above a share of its maximum (Zhou et al., CVPR 2016, section 3.2).

    The paper takes the largest connected part; a graph cannot, so this box holds every part. It equals the paper's
    where there is one part.

    Args:
        graph: for the input's size.
        build: where the nodes go.
        maps: maps or heatmaps (N, K, h, w).
        threshold: share of the maximum; strictly above it, and nothing where the maximum is not positive.

    Returns:
        Half-open xyxy in pixels of the network's input, float32 (N, K, 4); zeros where nothing is above.
    """
    highest = build.reduced("ReduceMax", build.reduced("ReduceMax", maps, 3), 2)
    zero = build.number([0.0], _FLOAT, "zero")
    cut = build.node("Max", [build.node("Mul", [highest, build.number([threshold], _FLOAT)]), zero])
    above = build.node("Cast", [build.node("Greater", [maps, cut])], {"to": _FLOAT})
    sides = []
    # First and last column (then row) with a cell above: the greatest n - i, and the greatest i + 1.
    for axis, other in ((3, 2), (2, 3)):
        seen = build.reduced("ReduceMax", above, other, keepdims=False)
        count = build.node("Cast", [build.sizes(maps, axis, axis + 1)], {"to": _FLOAT})
        unit = build.number([1.0], _FLOAT, "one")
        stop = build.node("Add", [build.reshape(count), unit])
        ends = build.node("Range", [build.reshape(unit), stop, build.reshape(unit)])
        starts = build.node("Sub", [build.reshape(stop, 1), ends])
        last = build.reduced("ReduceMax", build.node("Mul", [seen, ends]), 2)
        some = build.node("Cast", [build.node("Greater", [last, zero])], {"to": _FLOAT})
        reach = build.reduced("ReduceMax", build.node("Mul", [seen, starts]), 2)
        first = build.node("Mul", [build.node("Sub", [count, reach]), some])
        pixels = build.node("Cast", [_input_sizes(graph, build, axis, axis)], {"to": _FLOAT})
        scale = build.node("Div", [pixels, count])
        sides.append([build.node("Mul", [one_side, scale]) for one_side in (first, last)])
    (x0, x1), (y0, y1) = sides
    return build.node("Concat", [x0, y0, x1, y1], {"axis": 2})


def _input_sizes(graph: Graph, build: Builder, first: int, last: int) -> str:
    """The input's height and width, axes 2 and 3, or one of them."""
    if graph.fixed_hw:
        return build.whole(*graph.fixed_hw[first - 2 : last - 1])
    before = 1 if graph.channels_last else 0
    return build.sizes(graph.input.name, first - before, last + 1 - before)


def _no_scales(build: Builder) -> list[str]:
    """Opset 11 asks for both, even where the sizes say all."""
    return [build.number([], _FLOAT, "roi"), build.number([], _FLOAT, "scales")]
