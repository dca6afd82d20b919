"""Read an ONNX file as what it is, somebody's data: bounded, checked, and following nothing out of its folder."""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from camlucida.errors import ExportError, ModelError, first_line
from camlucida.images.picture import shown
from camlucida.onnx.external_data import BITS, ExternalTensor, checked_place
from camlucida.onnx.extra import DecodeError, onnx
from camlucida.onnx.graph import inner_graphs, reads

LARGEST = 2**31 - 2**20
"""Bytes of one protobuf message, a little below its limit: what is added must fit too."""

LARGEST_VALUE = 2**29
"""Elements of one tensor, constant or computed, of a few pictures."""

OLDEST_OPSET = 11
"""What graphs are rewritten in; files of older ones are converted as they are read."""

OLDEST_READ = 7
"""ONNX Runtime runs none that is older."""

_MOST_NODES = 10**6

_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


@dataclass(frozen=True, eq=False)
class GraphFile:
    """An ONNX model as it was read.

    Attributes:
        name: what messages call it.
        model: the ``ModelProto``, its local functions written out.
        sha256: of the file itself, without external data.
        original: as it was before its opset was converted; None where it was not.
        folder: where the external data lie that were too large to take in; None where all weights are inside.
    """

    name: str
    model: Any
    sha256: str
    folder: Path | None = None
    original: Any = None


def read(path: Path, name: str | None = None) -> GraphFile:
    """Read a model, with its external data where the whole fits into one file.

    Args:
        path: of the file.
        name: what messages call it; None takes the path.

    Raises:
        ExportError: no such file, not ONNX, damaged, too large, or pointing outside its folder.
    """
    name = shown(path) if name is None else name
    if not path.is_file():
        raise ExportError(f"{name}: no such file")
    if path.stat().st_size > LARGEST:
        raise ExportError(f"{name}: larger than 2 GiB, which no ONNX file in one piece is")
    data = path.read_bytes()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RecursionError) as error:
        raise ExportError(f"{name}: not a readable ONNX model (damaged, cut short, or another kind of file)") from error
    sha256 = hashlib.sha256(data).hexdigest()
    del data
    _check_header(model, name)
    total = sum(_check_tensor(tensor, path.parent, name) for tensor in tensors(model))
    outside = [tensor for tensor in tensors(model) if _is_external(tensor)]
    folder = path.parent if outside and total + model.ByteSize() > LARGEST else None
    if folder is None:
        for tensor in outside:
            tensor.raw_data = external_bytes(tensor, path.parent)
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    free_sizes(model)
    sort_nodes(model.graph, name)
    original, converted = model, _of_a_newer_opset(model, name)
    model = converted or model
    try:
        onnx.checker.check_model(model if folder is None else str(path))
    except Exception as error:  # its own errors, and those of the C++ library below
        raise ExportError(f"{name}: not a valid ONNX model ({shown(first_line(error))})") from error
    model = _without_functions(model, name)
    _check_values(model, name)
    return GraphFile(name, model, sha256, folder, None if converted is None else original)


def tensors(model: Any) -> Iterator[Any]:
    """Every stored tensor of a model, those of subgraphs and functions too."""
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes.extend(graph.node)
            continue
        node = nodes.pop()
        graphs.extend(inner_graphs(node))
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            yield from attribute.tensors


def external_bytes(tensor: Any, folder: Path) -> bytes:
    """The data of a tensor that lies in another file; checked when the model was read."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    with (folder / place["location"]).open("rb") as file:
        file.seek(int(place.get("offset", 0)))
        data: bytes = file.read(_bytes_of(tensor))
    return data


def _check_header(model: Any, name: str) -> None:
    if not model.graph.node:
        raise ExportError(f"{name}: not a readable ONNX model (it has no graph)")
    if len(model.graph.node) > _MOST_NODES:
        raise ExportError(f"{name}: has {len(model.graph.node)} nodes; no classifier has more than {_MOST_NODES}")
    opset, newest = opset_of(model), onnx.defs.onnx_opset_version()
    if not OLDEST_READ <= opset <= newest:
        raise ExportError(
            f"{name}: is of opset {opset}, expected {OLDEST_READ} to {newest}; export it again with another"
        )
    if model.graph.sparse_initializer:
        raise ExportError(f"{name}: has sparse weights, which are not read; store them dense")


def opset_of(model: Any) -> int:
    """The version of ONNX's own operations that a model uses; 0 if it does not say."""
    return next((int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)


def _of_a_newer_opset(model: Any, name: str) -> Any:
    """The same model in the oldest opset that is rewritten; None if it is new enough.

    Raises:
        ExportError: onnx's converter does not know one of its operations.
    """
    if opset_of(model) >= OLDEST_OPSET:
        return None
    try:
        converted = onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:
        raise ExportError(
            f"{name}: is of opset {opset_of(model)}, and onnx's converter to {OLDEST_OPSET} does not take it "
            f"({shown(first_line(error))}); export it again with a newer opset, or explain it by occlusion or rise"
        ) from error
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted


def free_sizes(model: Any) -> None:
    """Sizes of -1 and 0 are how some writers say that a size is free; initializers that are inputs too are none."""
    graph = model.graph
    model.ir_version = max(model.ir_version, 4)  # before, initializers had to be inputs
    stored = {one.name for one in graph.initializer}
    kept = [one for one in graph.input if one.name not in stored]
    del graph.input[:]
    graph.input.extend(kept)
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 1:
                dim.ClearField("dim_value")


def _check_tensor(tensor: Any, folder: Path, name: str) -> int:
    """Whether a tensor holds what it claims; how many bytes that is."""
    what = f"{name}: tensor {shown(tensor.name)!r}"
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > LARGEST:
        raise ExportError(f"{what} claims the size {'×'.join(map(str, tensor.dims))}, which no weight has")
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    expected = _bytes_of(tensor, what)
    if _is_external(tensor):
        entries = tuple((entry.key, entry.value) for entry in tensor.external_data)
        try:
            checked_place(ExternalTensor(tensor.name, tuple(tensor.dims), tensor.data_type, entries), folder, name)
        except ModelError as error:
            raise ExportError(str(error)) from error
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != expected:
            raise ExportError(f"{what} claims {expected} bytes and holds {len(tensor.raw_data)}")
    else:
        held = sum(len(getattr(tensor, field)) for field in _TYPED_FIELDS)
        parts = 2 if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128) else 1
        small = BITS[tensor.data_type] < 8  # several elements in each entry
        if held != (expected if small else math.prod(tensor.dims) * parts):
            raise ExportError(f"{what} claims {math.prod(tensor.dims)} elements and holds {held}")
    return expected


def sort_nodes(graph: Any, name: str) -> None:
    """Put nodes behind those whose outputs they read, as ONNX asks and not every writer does; others stay in order.

    Raises:
        ExportError: nodes read each other in a circle.
    """
    nodes = list(graph.node)
    makers = {output: i for i, node in enumerate(nodes) for output in node.output if output}
    needed = [{makers[name] for name in reads(node) if name in makers} for node in nodes]
    if all(max(before, default=-1) < i for i, before in enumerate(needed)):
        return
    sorter = TopologicalSorter(dict(enumerate(needed)))
    try:
        sorter.prepare()
    except CycleError as error:
        raise ExportError(f"{name}: not a valid ONNX model (its nodes read each other in a circle)") from error
    ready: list[int] = []
    order: list[int] = []
    while sorter.is_active():
        for i in sorter.get_ready():
            heapq.heappush(ready, i)
        order.append(heapq.heappop(ready))
        sorter.done(order[-1])
    del graph.node[:]
    graph.node.extend(nodes[i] for i in order)


def _without_functions(model: Any, name: str) -> Any:
    """The model with its local functions written out; those that call themselves or multiply are refused."""
    if not model.functions:
        return model
    bodies = {(one.domain, one.name): one.node for one in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    open_calls: set[tuple[str, str]] = set()

    def size_of(nodes: Any, depth: int) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in open_calls or depth > 100:
                raise ExportError(f"{name}: its function {shown(node.op_type)!r} calls itself")
            if key in bodies and key not in sizes:
                open_calls.add(key)
                sizes[key] = size_of(bodies[key], depth + 1)
                open_calls.remove(key)
            total += sizes.get(key, 1)
            total += sum(size_of(graph.node, depth + 1) for graph in inner_graphs(node))
        return total

    if size_of(model.graph.node, 0) > _MOST_NODES:
        raise ExportError(f"{name}: its functions stand for more than {_MOST_NODES} nodes")
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:
        raise ExportError(f"{name}: its functions cannot be written out ({shown(first_line(error))})") from error


def _check_values(model: Any, name: str) -> None:
    """No computed tensor of a known size may be one that would fill the memory."""
    try:
        known = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:
        raise ExportError(f"{name}: its shapes do not fit together ({shown(first_line(error))})") from error
    for value in (*known.input, *known.value_info, *known.output):
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if any(size < 0 for size in sizes) or math.prod(sizes) > LARGEST_VALUE:
            size = "×".join(map(str, sizes))
            raise ExportError(f"{name}: would compute {shown(value.name)!r} of size {size}, as no classifier does")


def _is_external(tensor: Any) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _bytes_of(tensor: Any, what: str = "a tensor") -> int:
    if tensor.data_type not in BITS:
        raise ExportError(f"{what} is of the unknown type {tensor.data_type}")
    bits: int = math.prod(tensor.dims) * BITS[tensor.data_type]
    return -(-bits // 8)
