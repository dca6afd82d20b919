"""Add class activation maps to any classifier's graph: find its head, apply it to every cell, name the outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from camlucida.errors import ExportError
from camlucida.export import picture_outputs as views
from camlucida.export.cells import Cells
from camlucida.export.emit import Builder, Emitter
from camlucida.export.expression import Held, features_of, offset, ordered
from camlucida.export.head_reader import HeadReader
from camlucida.export.picture_outputs import Views
from camlucida.onnx.extra import onnx
from camlucida.onnx.graph import Graph
from camlucida.targets import Activation

AFFINE = "affine after pooling: the map is exact"
NORMALIZED = "affine once this input's normalization statistics are held: the map is exact at those statistics"

_ACTIVATIONS: dict[str, Activation] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
_BEHIND = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "QuantizeLinear", "DequantizeLinear")
_NAMES = ("logits", "maps", "bias", "top_ids", "heatmaps", "boxes")


@dataclass(frozen=True)
class Found:
    """What was found in a graph, and what it takes.

    Attributes:
        head: the kind of head, in words.
        pooling: the node that removes the spatial axes, in words.
        features: layout and size of the features, for the example input.
        grid: rows and columns of the maps, for the example input.
        classes: how many logits.
        activation: how the graph makes probabilities of its logits; None if it does not.
        outputs: the graph's outputs as they were.
        graph: the graph as it was, to make inputs for it.
        coarse: float16 and the like ("half") or integers ("int8") have a part in the head; else "".
    """

    head: str
    pooling: str
    features: str
    grid: tuple[int, int]
    classes: int
    activation: Activation | None
    outputs: tuple[str, ...]
    graph: Graph
    coarse: str


def add_maps(
    model: Any,
    *,
    top: int | None = None,
    upsample: views.Upsample | None = None,
    boxes: float | None = None,
    size_hw: tuple[int, int] | None = None,
    name: str = "the model",
    folder: Path | None = None,
) -> tuple[Any, Found]:
    """A classifier's graph with its class activation maps among the outputs.

    The new outputs are ``logits`` (N, K), ``maps`` (N, K, h, w) float32 in logits per cell, and ``bias`` (K,) float32,
    with ``maps.sum((2, 3)) + bias == logits``. All outputs that there were stay as they are.

    Args:
        model: a ``ModelProto``, as ``load.read`` gives it; not changed.
        top: maps of the so many likeliest classes alone: ``top_ids`` (N, k) int64, ``maps`` (N, k, h, w), ``bias``
            (N, k).
        upsample: also ``heatmaps`` (N, K or k, H, W), at this height and width or that of the input.
        boxes: also ``boxes`` (N, K or k, 4), xyxy in pixels of the input, around what is above this share of the
            maximum.
        size_hw: the pictures' size to look at it with, where the graph leaves it open; None takes 224 pixels.
        name: what messages call the model.
        folder: where its external data lie, if it has any.

    Returns:
        The new model and what was found.

    Raises:
        ExportError: the head is not affine, or the graph is not understood; the message says which node it is.
    """
    asked = Views(top, upsample, boxes)
    graph = Graph(model, name, folder, size_hw)
    tensor, activation = _logits(graph)
    shape = graph.shape_of(tensor)
    reader = HeadReader(graph)
    lifted = reader.lift(tensor)
    cells = features_of(lifted.expression)
    if len({one.tensor for one in cells}) != 1:
        raise ExportError(f"{name}: its logits are made of several grids: {', '.join(_words(one) for one in cells)}")
    if lifted.width != math.prod(shape[1:]):
        raise ExportError(f"{name}: its {math.prod(shape[1:])} logits are not the head's {lifted.width} channels")
    if top is not None and top > lifted.width:
        raise ExportError(f"{name}: has {lifted.width} classes, fewer than the {top} asked")
    new = onnx.ModelProto()
    new.CopyFrom(model)
    build = Builder(graph)
    taken = _take_names(new, graph, tensor)
    made = _outputs(graph, build, tensor, lifted, cells[0], asked)
    new.graph.node.extend(build.nodes)
    new.graph.initializer.extend(build.constants)
    constants = {one.name for one in new.graph.initializer}
    for output, (source, _, _) in made.items():
        if source not in graph.outputs and source not in constants:
            taken[source] = output
    _rename(new, taken)
    batch = graph.input.type.tensor_type.shape.dim[0]
    for output, (source, kind, sizes) in made.items():
        if source != output and taken.get(source) != output:
            new.graph.node.append(onnx.helper.make_node("Identity", [source], [output], name=build.free(output)))
        if output not in graph.outputs:
            info = onnx.helper.make_tensor_value_info(output, kind, sizes)
            if sizes[0] == "N":
                info.type.tensor_type.shape.dim[0].CopyFrom(batch)
            new.graph.output.append(info)
    held = any(isinstance(one, Held) for one in ordered(lifted.expression))
    found = Found(
        NORMALIZED if held else AFFINE, cells[0].pooling, _words(cells[0]), cells[0].grid, lifted.width, activation,
        tuple(graph.outputs), graph, _coarse(graph, tensor, cells[0]),
    )  # fmt: skip
    return new, found


def _outputs(
    graph: Graph, build: Builder, tensor: str, lifted: Any, cells: Cells, asked: Views
) -> dict[str, tuple[str, int, list[Any]]]:
    """The new outputs: name -> the tensor that holds it, its type and its sizes."""
    kind, float32 = graph.type_of(tensor), onnx.TensorProto.FLOAT
    logits = tensor if len(graph.shape_of(tensor)) == 2 else build.reshape(tensor, 0, lifted.width)
    constant = np.broadcast_to(offset(lifted.expression, graph), (lifted.width,)).astype(np.float32)
    bias = build.constant(constant, "bias")
    ids, rows = None, lifted.width
    made: dict[str, tuple[str, int, list[Any]]] = {}
    if asked.top is not None:
        rows = asked.top
        values, ids = build.free("top_values"), build.free("top_ids")
        build.nodes.append(onnx.helper.make_node("TopK", [logits, build.whole(rows)], [values, ids], name=ids))
        made["top_ids"] = ids, onnx.TensorProto.INT64, ["N", rows]
        bias = build.node("Gather", [bias, ids], {"axis": 0})
    maps = Emitter(graph, build).maps(lifted.expression, cells, ids)
    if kind != float32 and tensor != "logits":
        logits, kind = build.node("Cast", [logits], {"to": float32}), float32
    grid: list[Any] = list(cells.grid) if graph.fixed_hw else ["h", "w"]
    made["logits"] = logits, kind, ["N", lifted.width]
    made["maps"] = maps, float32, ["N", rows, *grid]
    made["bias"] = bias, float32, [lifted.width] if ids is None else ["N", rows]
    laid = maps
    if asked.upsample is not None:
        laid = views.heatmaps(graph, build, maps, asked.upsample)
        size = asked.upsample if isinstance(asked.upsample, tuple) else graph.fixed_hw or ("H", "W")
        made["heatmaps"] = laid, float32, ["N", rows, *size]
    if asked.boxes is not None:
        made["boxes"] = views.boxes(graph, build, laid, asked.boxes), float32, ["N", rows, 4]
    return made


def _logits(graph: Graph) -> tuple[str, Activation | None]:
    """The tensor of the logits, and what the graph makes of them: one named "logits", else the first output of size
    (N, K); of both logits and probabilities, the same are found.
    """
    likely = [one for one in graph.outputs if one in graph.varying and _is_row(graph, one)]
    for output in sorted(likely, key=lambda one: one != "logits"):
        tensor, activation = _before_activation(graph, output)
        return tensor, activation or _used_activation(graph, tensor)
    raise ExportError(f"{graph.name}: none of its outputs ({', '.join(graph.outputs)}) is one row of logits a picture")


def _is_row(graph: Graph, output: str) -> bool:
    shape, kind = graph.shapes.get(output, ()), graph.type_of(output)
    floating = kind == onnx.TensorProto.BFLOAT16 or onnx.helper.tensor_dtype_to_np_dtype(kind).kind == "f"
    wide = [size for size in shape[1:] if size != 1]
    return floating and len(shape) >= 2 and len(wide) <= 1 and shape[0] == graph.example().shape[0]


def _before_activation(graph: Graph, output: str) -> tuple[str, Activation | None]:
    """What a final softmax or sigmoid was made of, past steps that only change the form; else the output itself."""
    name = output
    for _ in range(20):
        node = graph.makers.get(name)
        if node is None or (node.op_type not in _BEHIND and node.op_type not in _ACTIVATIONS):
            break
        if node.op_type in _ACTIVATIONS:
            return node.input[0], _ACTIVATIONS[node.op_type]
        name = node.input[0]
    return output, None


def _used_activation(graph: Graph, tensor: str) -> Activation | None:
    """What another output makes of the same logits."""
    for output in graph.outputs:
        before, activation = _before_activation(graph, output)
        if before == tensor and activation:
            return activation
    return None


def _take_names(new: Any, graph: Graph, logits: str) -> dict[str, str]:
    """New names for inner tensors that are called as the new outputs will be.

    Raises:
        ExportError: an output or the input is called so.
    """
    taken: dict[str, str] = {}
    for name in _NAMES:
        if name == logits and name in graph.outputs and len(graph.shape_of(name)) == 2:
            continue
        if name in graph.outputs or name == graph.input.name:
            raise ExportError(f"{graph.name}: already has an input or output {name!r} of its own; give it another name")
        if name in graph.makers or name in graph.initializers:
            number = 0
            while (other := f"{name}_inner{number or ''}") in graph.makers or other in graph.initializers:
                number += 1
            taken[name] = other
    return taken


def _rename(new: Any, taken: dict[str, str]) -> None:
    """Rename tensors of a graph, in its subgraphs too."""
    if not taken:
        return
    for one in (*new.graph.initializer, *new.graph.value_info):
        one.name = taken.get(one.name, one.name)
    nodes = list(new.graph.node)
    while nodes:
        node = nodes.pop()
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name in taken:
                    names[i] = taken[name]
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                nodes.extend(inner.node)
                for output in inner.output:
                    output.name = taken.get(output.name, output.name)


def _coarse(graph: Graph, tensor: str, cells: Cells) -> str:
    """Whether what lies from the features to the logits computes in fewer than float32's digits."""
    kinds, waiting, seen = set(), [tensor, cells.tensor], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in graph.varying:  # a weight may be stored in half precision and used in whole
            continue
        seen.add(name)
        kinds.add(graph.type_of(name))
        node = graph.makers.get(name)
        if node is not None and name != cells.tensor:
            if node.op_type == "DequantizeLinear" and node.input[0] in graph.varying:
                return "int8"
            waiting.extend(node.input)
    half = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    return "half" if half & kinds else ""


def _words(cells: Cells) -> str:
    """Layout and sizes: ``NCHW 2048×7×7``."""
    h, w = cells.grid
    sizes = {
        "NCHW": f"{cells.channels}×{h}×{w}", "NHWC": f"{h}×{w}×{cells.channels}",
        "NLC": f"{cells.count}×{cells.channels} ({h}×{w})", "NCL": f"{cells.channels}×{cells.count} ({h}×{w})",
    }  # fmt: skip
    return f"{cells.layout} {sizes[cells.layout]}"
