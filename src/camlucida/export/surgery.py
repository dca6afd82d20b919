"""Add class activation maps to any classifier's graph: find its head, apply it to every cell, name the outputs."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ExportError, ModelError
from camlucida.export.cells import AXES, Cells, described
from camlucida.export.emit import Builder, Emitter
from camlucida.export.expression import FrozenScale, HeadTensor, features_of, offset, ordered
from camlucida.export.head_steps import read_head
from camlucida.export.picture_outputs import PictureOutputs, box_nodes, heatmap_nodes
from camlucida.export.refusals import ADVICE
from camlucida.onnx.class_output import ChosenOutput, choose_output, sums_to_one
from camlucida.onnx.extra import onnx
from camlucida.onnx.graph import Graph, GraphRun, before_activation, inner_graphs, leading_to, part_of
from camlucida.onnx.known_layouts import may_move
from camlucida.onnx.rewriting import zipmaps
from camlucida.onnx.seen_places import seen_in_place
from camlucida.targets import Activation

AFFINE = "affine after pooling: the map is exact"
NORMALIZED = "affine once this input's normalization statistics are held: the map is exact at those statistics"

_NO_ROWS = "{}: none of its outputs ({}) is one row of logits a picture, of shape (pictures, classes)"
_NAMES = ("logits", "maps", "bias", "top_ids", "heatmaps", "boxes")


@dataclass(frozen=True)
class GraphFacts:
    """What is known of a classifier's graph.

    Attributes:
        head: the kind of head, in words.
        pooling: the node that removes the spatial axes, in words.
        features: layout and size of the features, for the example input.
        grid: rows and columns of the maps, for the example input.
        classes: how many logits.
        activation: how the graph makes probabilities of its logits; None if it does not.
        output: which of its outputs is explained.
        graph: the graph as it was, to make inputs for it.
        precision: "half" or "int8" where float16 and the like or integers have a part in the head; else "".
    """

    head: str
    pooling: str
    features: str
    grid: tuple[int, int]
    classes: int
    activation: Activation | None
    output: ChosenOutput
    graph: Graph
    precision: str


def add_maps(
    model: Any,
    wanted: PictureOutputs | None = None,
    *,
    size_hw: tuple[int, int] | None = None,
    name: str = "the model",
    folder: Path | None = None,
    output: str | None = None,
    named: Collection[int] = (),
) -> tuple[Any, GraphFacts]:
    """A classifier's graph with its class activation maps among the outputs.

    The new outputs are ``logits`` (N, K), ``maps`` (N, K, h, w) float32 in logits per cell, and ``bias`` (K,) float32,
    with ``maps.sum((2, 3)) + bias == logits``. All outputs that there were stay as they are.

    Args:
        model: a ``ModelProto``, as ``load.read`` gives it; not changed.
        wanted: outputs beside these: of the likeliest classes alone ``top_ids`` (N, k) int64, ``maps`` (N, k, h, w) and
            ``bias`` (N, k); ``heatmaps`` (N, K or k, H, W); ``boxes`` (N, K or k, 4), xyxy in pixels of the input.
        size_hw: the pictures' size to look at it with, where the graph leaves it open; None takes 224 pixels.
        name: what messages call the model.
        folder: where its external data lie, if it has any.
        output: the output that scores the classes, by name or number; None finds it.
        named: how many class names are known, one number for each list.

    Returns:
        The new model and what is known of the graph.

    Raises:
        ExportError: the head is not affine, or the graph is not understood; the message says which node it is.
    """
    wanted = wanted or PictureOutputs()
    graph = Graph(model, name, folder, size_hw)
    chosen = class_output(graph, output, named)
    tensor, activation = _logits(graph, chosen)
    count = math.prod(graph.shape_of(tensor)[1:])
    head = read_head(graph, tensor)
    features = features_of(head.expression)
    if len({cells.tensor for cells in features}) != 1:
        raise ExportError(f"{name}: its logits are made of several grids: {', '.join(each.words for each in features)}")
    if head.width != count:
        raise ExportError(f"{name}: its {count} logits are not the head's {head.width} channels")
    if wanted.top is not None and wanted.top > head.width:
        raise ExportError(f"{name}: has {head.width} classes, fewer than the {wanted.top} asked")
    cells = features[0]
    _check_places(graph, cells)
    new = onnx.ModelProto()
    new.CopyFrom(model)
    build = Builder(graph)
    renamed = _clashing_names(graph, tensor)
    outputs = _outputs(graph, build, tensor, head, cells, wanted)
    new.graph.node.extend(build.nodes)
    new.graph.initializer.extend(build.constants)
    constants = {tensor.name for tensor in new.graph.initializer}
    for output, (source, _, _) in outputs.items():
        if source not in graph.outputs and source not in constants:
            renamed[source] = output
    _rename(new, renamed)
    batch = graph.input.type.tensor_type.shape.dim[0]
    for output, (source, kind, sizes) in outputs.items():
        if source != output and renamed.get(source) != output:
            new.graph.node.append(onnx.helper.make_node("Identity", [source], [output], name=build.free(output)))
        if output not in graph.outputs:
            info = onnx.helper.make_tensor_value_info(output, kind, sizes)
            if sizes[0] == "N":
                info.type.tensor_type.shape.dim[0].CopyFrom(batch)
            new.graph.output.append(info)
    frozen = any(isinstance(part, FrozenScale) for part in ordered(head.expression))
    return new, GraphFacts(
        NORMALIZED if frozen else AFFINE, cells.pooling, cells.words, cells.grid, head.width, activation, chosen, graph,
        _precision(graph, tensor, cells),
    )  # fmt: skip


def _check_places(graph: Graph, cells: Cells) -> None:
    """See that cells lie where the picture is that drives them, where an operation before them may move them.

    Raises:
        ExportError: they lie elsewhere.
    """
    nodes = leading_to([cells.tensor], graph.model.graph.node)
    on_the_way = [node for node in nodes if node.op_type != "Shape" and not graph.varying.isdisjoint(node.input)]
    movers = [node for node in on_the_way if may_move(node)]
    if not movers:
        return
    run = GraphRun(part_of(graph.model, nodes, [cells.tensor]), graph.name, graph.folder)
    space, channel = AXES[cells.layout]

    def features_of(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        fed = graph.fed(np.repeat(pictures, graph.batch or 1, 0))
        value = np.asarray(run({graph.input.name: fed})[cells.tensor], np.float32)[:1]
        return np.moveaxis(value, (channel, *space), range(1, value.ndim)).reshape(1, cells.channels, *cells.grid)

    picture = graph.random_pictures(1)
    if not seen_in_place(features_of, picture):
        words = ", ".join(map(described, movers))
        raise ExportError(
            f"{graph.name}: its features {cells.words} do not lie over the parts of the picture that they are made of; "
            f"something before them turns, flips or shuffles pictures ({words[:200]}), so maps would be misplaced; "
            f"export the model without it{ADVICE}"
        )


def _outputs(
    graph: Graph, build: Builder, tensor: str, head: HeadTensor, cells: Cells, wanted: PictureOutputs
) -> dict[str, tuple[str, int, list[Any]]]:
    """The new outputs: name -> the tensor that holds it, its type and its sizes."""
    kind, float32 = graph.type_of(tensor), onnx.TensorProto.FLOAT
    logits = tensor if len(graph.shape_of(tensor)) == 2 else build.reshape(tensor, 0, head.width)
    constant = np.broadcast_to(offset(head.expression, graph), (head.width,)).astype(np.float32)
    bias = build.constant(constant, "bias")
    ids, rows = None, head.width
    outputs: dict[str, tuple[str, int, list[Any]]] = {}
    if wanted.top is not None:
        rows = wanted.top
        values, ids = build.free("top_values"), build.free("top_ids")
        build.nodes.append(onnx.helper.make_node("TopK", [logits, build.whole(rows)], [values, ids], name=ids))
        outputs["top_ids"] = ids, onnx.TensorProto.INT64, ["N", rows]
        bias = build.node("Gather", [bias, ids], {"axis": 0})
    maps = Emitter(graph, build).maps(head.expression, cells, ids)
    if kind != float32 and tensor != "logits":
        logits, kind = build.node("Cast", [logits], {"to": float32}), float32
    grid: list[Any] = list(cells.grid) if graph.fixed_hw else ["h", "w"]
    outputs["logits"] = logits, kind, ["N", head.width]
    outputs["maps"] = maps, float32, ["N", rows, *grid]
    outputs["bias"] = bias, float32, [head.width] if ids is None else ["N", rows]
    drawn = maps
    if wanted.upsample is not None:
        drawn = heatmap_nodes(graph, build, maps, wanted.upsample)
        size = wanted.upsample if isinstance(wanted.upsample, tuple) else graph.fixed_hw or ("H", "W")
        outputs["heatmaps"] = drawn, float32, ["N", rows, *size]
    if wanted.boxes is not None:
        outputs["boxes"] = box_nodes(graph, build, drawn, wanted.boxes), float32, ["N", rows, 4]
    return outputs


def class_output(graph: Graph, asked: str | None = None, named: Collection[int] = ()) -> ChosenOutput:
    """Which of a graph's outputs scores the classes: those of dictionaries count by what they are made of.

    Raises:
        ExportError: none does, or several may.
    """
    declared = {output.name: len(output.type.tensor_type.shape.dim) for output in graph.model.graph.output}
    if set(declared.values()) == {3}:
        raise ExportError(_NO_ROWS.format(graph.name, ", ".join(declared)))
    zipped = [node.input[0] for node in zipmaps(graph.model)]
    known = list(dict.fromkeys([*graph.outputs, *zipped]))
    likely = [output for output in known if output in graph.varying and _is_row(graph, output)]
    if not likely:
        made = [graph.makers[one] for one in known if one in graph.makers]
        inside = next((node for node in made if any(inner_graphs(node))), None)
        if inside is not None:
            raise ExportError(
                f"{graph.name}: its logits come out of {described(inside)}, whose branches are not read; export the "
                f"model again without it{ADVICE}"
            )
        raise ExportError(_NO_ROWS.format(graph.name, ", ".join(graph.outputs)))
    rows = {output: math.prod(graph.shape_of(output)[1:]) for output in likely}

    def values() -> dict[str, NDArray[Any]]:
        found = {output: graph.at_example(output) for output in likely}
        return {output: np.asarray(value, np.float64).reshape(len(value), -1) for output, value in found.items()}

    try:
        return choose_output(graph.name, rows, values, asked=asked, named=named)
    except ModelError as error:
        raise ExportError(str(error)) from error


def _logits(graph: Graph, chosen: ChosenOutput) -> tuple[str, Activation | None]:
    """The tensor of the logits, and what the graph makes of them, at this output or another."""
    tensor, activation = before_activation(graph.makers, chosen.name)
    others = (before_activation(graph.makers, output) for output in graph.outputs)
    used = activation or next((used for before, used in others if before == tensor and used), None)
    if used is None and sums_to_one(graph.at_example(tensor).reshape(graph.shape_of(tensor)[0], -1)):
        return tensor, "none"  # probabilities already, of no one softmax
    return tensor, used


def _is_row(graph: Graph, output: str) -> bool:
    shape, kind = graph.shapes.get(output, ()), graph.type_of(output)
    flat = len(shape) == 2 or (len(shape) == 4 and 1 in (math.prod(shape[1:3]), math.prod(shape[2:])))
    floating = kind == onnx.TensorProto.BFLOAT16 or onnx.helper.tensor_dtype_to_np_dtype(kind).kind == "f"
    return floating and flat and shape[0] == graph.example().shape[0]


def _clashing_names(graph: Graph, logits: str) -> dict[str, str]:
    """New names for inner tensors that are called as the new outputs will be.

    Raises:
        ExportError: an output or the input is called so.
    """
    renamed: dict[str, str] = {}
    for name in _NAMES:
        if name == logits and name in graph.outputs and len(graph.shape_of(name)) == 2:
            continue
        if name in graph.outputs or name == graph.input.name:
            raise ExportError(f"{graph.name}: already has an input or output {name!r} of its own; give it another name")
        if name in graph.makers or name in graph.initializers:
            number = 0
            while (other := f"{name}_inner{number or ''}") in graph.makers or other in graph.initializers:
                number += 1
            renamed[name] = other
    return renamed


def _rename(new: Any, renamed: dict[str, str]) -> None:
    """Rename tensors of a graph, in its subgraphs too."""
    if not renamed:
        return
    for tensor in (*new.graph.initializer, *new.graph.value_info):
        tensor.name = renamed.get(tensor.name, tensor.name)
    nodes = list(new.graph.node)
    while nodes:
        node = nodes.pop()
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
        for inner in inner_graphs(node):
            nodes.extend(inner.node)
            for output in inner.output:
                output.name = renamed.get(output.name, output.name)


def _precision(graph: Graph, tensor: str, cells: Cells) -> str:
    """What lies from the features to the logits computes in, where that has fewer than float32's digits."""
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
