"""A graph to ask questions of: who makes a tensor, whether it depends on the picture, its value, its size."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ExportError
from camlucida.onnx.extra import onnx

_NO_TENSORS = ("SplitToSequence", "SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase",
               "SequenceMap", "ConcatFromSequence", "Optional", "OptionalGetElement", "ZipMap")  # fmt: skip
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
_CHANNELS = (1, 3, 4)


class Graph:
    """A model's graph, read only.

    Args:
        model: a ``ModelProto``.
        name: what messages call it.
        folder: where its external data lie, if it has any.
        size_hw: the pictures' height and width, where the graph leaves them open; None takes 224 pixels.

    Raises:
        ExportError: it does not take one batch of pictures.
    """

    def __init__(
        self, model: Any, name: str, folder: Path | None = None, size_hw: tuple[int, int] | None = None
    ) -> None:
        self.model, self.name, self._folder = model, name, folder
        graph = model.graph
        self.initializers: dict[str, Any] = {one.name: one for one in graph.initializer}
        self.makers: dict[str, Any] = {output: node for node in graph.node for output in node.output if output}
        inputs = [one for one in graph.input if one.name not in self.initializers]
        if len(inputs) != 1:
            raise ExportError(f"{name}: expected one input of pictures, got {', '.join(one.name for one in inputs)}")
        self.input = inputs[0]
        self.outputs: list[str] = [one.name for one in graph.output]
        self.opset: int = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
        self._values: dict[str, NDArray[Any]] = {}
        self._set_input(size_hw)

    def _set_input(self, size_hw: tuple[int, int] | None) -> None:
        kind = self.input.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in kind.shape.dim]
        if len(sizes) != 4:
            raise ExportError(
                f"{self.name}: expected an input of pictures (N, C, H, W) or (N, H, W, C), got {len(sizes)} axes; "
                "maps are made of image classifiers"
            )
        self.channels_last = sizes[3] in _CHANNELS and sizes[1] not in _CHANNELS
        batch, *rest = sizes
        channels, space = (rest[2], rest[:2]) if self.channels_last else (rest[0], rest[1:])
        self.batch: int | None = batch
        self.input_type: int = kind.elem_type
        self.channels: int = channels or 3
        self.fixed_hw = (space[0], space[1]) if space[0] and space[1] else None
        self.size_hw: tuple[int, int] = self.fixed_hw or size_hw or (space[0] or 224, space[1] or 224)

    def example(self, batch: int = 2, size_hw: tuple[int, int] | None = None, seed: int = 0) -> NDArray[Any]:
        """Random pictures as the graph takes them, (N, C, H, W) or (N, H, W, C); a fixed batch is kept."""
        height, width = size_hw or self.size_hw
        random = np.random.default_rng(seed).normal(size=(self.batch or batch, self.channels, height, width))
        return self.fed(random.astype(np.float32))

    def fed(self, pictures: NDArray[np.float32]) -> NDArray[Any]:
        """Pictures (N, C, H, W) in the layout and type of the graph's input."""
        laid = pictures.transpose(0, 2, 3, 1) if self.channels_last else pictures
        dtype = onnx.helper.tensor_dtype_to_np_dtype(self.input_type)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            laid = np.clip(np.rint(laid), limits.min, limits.max)
        return np.ascontiguousarray(laid.astype(dtype))

    @cached_property
    def varying(self) -> frozenset[str]:
        """Every tensor that is not a constant."""
        found = {self.input.name}
        for node in self.model.graph.node:
            if node.op_type in _RANDOM or not found.isdisjoint(read_by(node)):
                found.update(node.output)
        return frozenset(found - {""})

    @cached_property
    def types(self) -> dict[str, int]:
        """Element types of tensors, as far as they can be told."""
        known = onnx.shape_inference.infer_shapes(self.model).graph
        values = (*known.input, *known.value_info, *known.output)
        found = {value.name: value.type.tensor_type.elem_type for value in values}
        return {name: kind for name, kind in found.items() if kind} | {
            name: tensor.data_type for name, tensor in self.initializers.items()
        }

    def type_of(self, name: str) -> int:
        """A tensor's element type; float where nothing says."""
        return int(self.types.get(name, onnx.TensorProto.FLOAT))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The size of every tensor that depends on the picture, as one run on ``example()`` shows it.

        Raises:
            ExportError: the model does not run.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        plain = [
            output
            for node in model.graph.node
            if node.op_type not in _NO_TENSORS and not any(attribute.HasField("g") for attribute in node.attribute)
            for output in node.output
            if output in self.varying
        ]
        del model.graph.output[:]
        for i, tensor in enumerate(plain):
            model.graph.node.append(onnx.helper.make_node("Shape", [tensor], [f"camlucida_shape_{i}"]))
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(f"camlucida_shape_{i}", onnx.TensorProto.INT64, None)
            )
        found = run(model, self.name, {self.input.name: self.example()}, self._folder, optimize=False)
        shapes = {tensor: tuple(int(size) for size in shape) for tensor, shape in zip(plain, found, strict=True)}
        return shapes | {self.input.name: self.example().shape}

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The size of one such tensor.

        Raises:
            ExportError: it is no tensor, or made in a branch or loop.
        """
        if name not in self.shapes:
            raise ExportError(f"{self.name}: {name!r}, on the way to the logits, is made where its size cannot be told")
        return self.shapes[name]

    def at_example(self, name: str) -> NDArray[Any]:
        """The value that a tensor has for ``example()``."""
        if name not in self.varying:
            return self.value(name)
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, self.type_of(name), None))
        feed = {self.input.name: self.example()}
        return np.asarray(run(model, self.name, feed, self._folder, optimize=False)[0])

    def value(self, name: str) -> NDArray[Any]:
        """The value of a constant tensor, computed where the graph computes it."""
        if name not in self._values:
            self._values[name] = self._computed(name)
        return self._values[name]

    def _computed(self, name: str) -> NDArray[Any]:
        needed, nodes, weights, seen = [name], [], [], set()
        while needed:
            one = needed.pop()
            if one in seen:
                continue
            seen.add(one)
            if one in self.initializers:
                weights.append(self.initializers[one])
            elif one in self.makers:
                nodes.append(self.makers[one])
                needed.extend(read_by(self.makers[one]))
        chosen = {id(node) for node in nodes}
        ordered = [node for node in self.model.graph.node if id(node) in chosen]
        if not ordered and weights and self._folder is None:
            return np.asarray(onnx.numpy_helper.to_array(weights[0]))
        out = onnx.helper.make_tensor_value_info("camlucida_value", self.type_of(name), None)
        copied = onnx.helper.make_node("Identity", [name], ["camlucida_value"])
        made = onnx.helper.make_graph([*ordered, copied], "constant", [], [out], weights)
        model = onnx.helper.make_model(made, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        return np.asarray(run(model, self.name, {}, self._folder, optimize=False)[0])


def session(model: Any, name: str, folder: Path | None, *, optimize: bool = True) -> Any:
    """An ONNX Runtime session.

    Args:
        model: a ``ModelProto``, or the path of a file.
        name: what messages call it.
        folder: where the external data of a ``ModelProto`` lie.
        optimize: whether ONNX Runtime may rewrite the graph.

    Raises:
        ExportError: ONNX Runtime does not take it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    try:
        given = str(model) if isinstance(model, Path) else model.SerializeToString()
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own types, none of them public
        raise ExportError(f"{name}: ONNX Runtime does not take it ({first_line(error)})") from error


def run(
    model: Any, name: str, feed: dict[str, NDArray[Any]], folder: Path | None, *, optimize: bool = True
) -> list[Any]:
    """One run of all outputs (see ``session``).

    Raises:
        ExportError: it fails.
    """
    return outputs_of(session(model, name, folder, optimize=optimize), name, feed)


def outputs_of(opened: Any, name: str, feed: dict[str, NDArray[Any]]) -> list[Any]:
    """All outputs of a session.

    Raises:
        ExportError: it fails.
    """
    try:
        made: list[Any] = opened.run(None, feed)
    except Exception as error:
        sizes = ", ".join("×".join(map(str, value.shape)) for value in feed.values())
        raise ExportError(f"{name}: does not run on an input of {sizes} ({first_line(error)})") from error
    return made


def first_line(error: BaseException) -> str:
    """The beginning of what a library says."""
    from camlucida.images.picture import shown

    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return shown(lines[0][:200])


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes by name; text as ``str``."""
    found = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    return {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value for name, value in found.items()
    }


def read_by(node: Any) -> set[str]:
    """What a node reads, its subgraphs too."""
    found, open_nodes = set(node.input), [node]
    while open_nodes:
        for attribute in open_nodes.pop().attribute:
            for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                for inner in graph.node:
                    found.update(inner.input)
                    open_nodes.append(inner)
                found.update(output.name for output in graph.output)
    return found - {""}
