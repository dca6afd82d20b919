"""A graph to ask questions of: who makes a tensor, whether it depends on the picture, its value, its size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ExportError, ModelError, first_line
from camlucida.images.picture import shown
from camlucida.onnx.extra import onnx
from camlucida.onnx.session import input_layout, open_session
from camlucida.targets import Activation

_NO_TENSORS = ("SplitToSequence", "SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase",
               "SequenceMap", "ConcatFromSequence", "Optional", "OptionalGetElement", "ZipMap")  # fmt: skip
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")
_ACTIVATIONS: dict[str, Activation] = {"Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
_SAME_LOGITS = ("Identity", "Cast", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "QuantizeLinear",
                "DequantizeLinear", "Clip")  # fmt: skip


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
        self.model, self.name, self.folder = model, name, folder
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
        layout = input_layout(sizes)
        self.batch, self.channels, self.channels_last = layout.batch, layout.channels, layout.channels_last
        self.input_type: int = kind.elem_type
        self.fixed_hw = layout.fixed_hw
        self.takes = layout.pictures(onnx.helper.tensor_dtype_to_np_dtype(self.input_type).kind in "iu")
        wanted = size_hw or (224, 224)
        self.size_hw: tuple[int, int] = (self.takes.height or wanted[0], self.takes.width or wanted[1])

    def example(self, batch: int = 2, size_hw: tuple[int, int] | None = None, seed: int = 0) -> NDArray[Any]:
        """Random pictures as the graph takes them, (N, C, H, W) or (N, H, W, C); a fixed batch is kept."""
        return self.fed(self.random_pictures(self.batch or batch, size_hw, seed))

    def random_pictures(self, count: int, size_hw: tuple[int, int] | None = None, seed: int = 0) -> NDArray[np.float32]:
        """Random pictures (N, C, H, W) in the graph's range."""
        height, width = size_hw or self.size_hw
        random = np.random.default_rng(seed).normal(size=(count, self.channels, height, width))
        return (random * 60 + 128 if self.takes.whole_numbers else random).astype(np.float32)

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
        varying = {self.input.name}
        for node in self.model.graph.node:
            if node.op_type in _RANDOM or not varying.isdisjoint(reads(node)):
                varying.update(node.output)
        return frozenset(varying - {""})

    @cached_property
    def types(self) -> dict[str, int]:
        """Element types of tensors, as far as they can be told."""
        known = onnx.shape_inference.infer_shapes(self.model).graph
        values = (*known.input, *known.value_info, *known.output)
        kinds = {value.name: value.type.tensor_type.elem_type for value in values}
        stored = {name: tensor.data_type for name, tensor in self.initializers.items()}
        return {name: kind for name, kind in kinds.items() if kind} | stored

    def type_of(self, name: str) -> int:
        """A tensor's element type; float where nothing says."""
        return int(self.types.get(name, onnx.TensorProto.FLOAT))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The size of every tensor that depends on the picture, as one run on ``example()`` shows it.

        Raises:
            ExportError: the model does not run.
        """
        plain = [
            output
            for node in self.model.graph.node
            if node.op_type not in _NO_TENSORS and not any(attribute.HasField("g") for attribute in node.attribute)
            for output in node.output
            if output in self.varying
        ]
        outputs = [f"camlucida_shape_{i}" for i in range(len(plain))]
        asking = [onnx.helper.make_node("Shape", [name], [out]) for name, out in zip(plain, outputs, strict=True)]
        model = part_of(self.model, [*self.model.graph.node, *asking], outputs)
        shapes = self._run(model, {self.input.name: self.example()})
        sizes = {name: tuple(map(int, shapes[out])) for name, out in zip(plain, outputs, strict=True)}
        return sizes | {self.input.name: self.example().shape}

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
        model = part_of(self.model, leading_to([name], self.model.graph.node), [name])
        return np.asarray(self._run(model, {self.input.name: self.example()})[name])

    def value(self, name: str) -> NDArray[Any]:
        """The value of a constant tensor, computed where the graph computes it."""
        if name not in self._values:
            nodes = leading_to([name], self.model.graph.node)
            if not nodes and name in self.initializers and self.folder is None:
                self._values[name] = np.asarray(onnx.numpy_helper.to_array(self.initializers[name]))
            else:
                copy = onnx.helper.make_node("Identity", [name], ["camlucida_value"])
                model = part_of(self.model, [*nodes, copy], ["camlucida_value"], inputs=())
                self._values[name] = np.asarray(self._run(model, {})["camlucida_value"])
        return self._values[name]

    def _run(self, model: Any, feed: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        return GraphRun(model, self.name, self.folder, optimize=False)(feed)


class GraphRun:
    """A graph that is looked at or was rewritten, run on the CPU: all its outputs by name, as they are.

    Args:
        model: a ``ModelProto``, or the path of a file.
        name: what messages call it.
        folder: where the external data of a ``ModelProto`` lie.
        optimize: whether ONNX Runtime may rewrite the graph.

    Raises:
        ExportError: ONNX Runtime does not take it.
    """

    def __init__(self, model: Any, name: str, folder: Path | None = None, *, optimize: bool = True) -> None:
        content = model if isinstance(model, Path) else model.SerializeToString()
        try:
            self._session = open_session(content, name, optimize=optimize, folder=folder)
        except ModelError as error:
            why = shown(first_line(error.__cause__ or error))
            raise ExportError(f"{name}: ONNX Runtime does not take it ({why})") from error
        self._name = name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The outputs of inputs by name.

        Raises:
            ExportError: it fails.
        """
        try:
            return dict(zip(self._outputs, self._session.run(None, feed), strict=True))
        except Exception as error:
            sizes = ", ".join("×".join(map(str, value.shape)) for value in feed.values())
            why = shown(first_line(error))
            raise ExportError(f"{self._name}: does not run on an input of {sizes} ({why})") from error


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes by name; text as ``str``."""
    values = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    return {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value for name, value in values.items()
    }


def inner_graphs(node: Any) -> Iterator[Any]:
    """The branches or the loop body that a node has."""
    for attribute in node.attribute:
        yield from ([attribute.g] if attribute.HasField("g") else [])
        yield from attribute.graphs


def reads(node: Any) -> Iterator[str]:
    """The tensors that a node reads, also inside its branches and loops."""
    yield from filter(None, node.input)
    for inner in inner_graphs(node):
        own = {value.name for value in (*inner.input, *inner.initializer)}
        for part in inner.node:
            yield from (name for name in reads(part) if name not in own)
            own.update(part.output)
        yield from (output.name for output in inner.output if output.name not in own)


def leading_to(names: Iterable[str], nodes: Sequence[Any]) -> list[Any]:
    """The nodes that tensors need, out of nodes in order."""
    wanted, needed = set(names), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(reads(node))
            needed.append(node)
    return needed[::-1]


def part_of(model: Any, nodes: Sequence[Any], outputs: Iterable[str], inputs: Sequence[Any] | None = None) -> Any:
    """A ``ModelProto`` of some of a model's nodes and the constants that they read; None takes its inputs."""
    part, old, outputs = onnx.ModelProto(), model.graph, list(outputs)
    part.ir_version = model.ir_version
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    read = {name for node in nodes for name in reads(node)}.union(outputs)
    part.graph.name = old.name
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(one for one in old.initializer if one.name in read)
    part.graph.sparse_initializer.extend(one for one in old.sparse_initializer if one.values.name in read)
    stored = {one.name for one in old.initializer}  # files of IR 3 list them among the inputs
    part.graph.input.extend([one for one in old.input if one.name not in stored] if inputs is None else inputs)
    part.ir_version = max(part.ir_version, 4)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return part


def before_activation(makers: Mapping[str, Any], output: str) -> tuple[str, Activation | None]:
    """What a final softmax or sigmoid was made of, past steps that only change the form; else the output itself.

    Args:
        makers: the graph's nodes by the tensors that they make.
        output: what the graph says of the classes.
    """
    name, logged = output, False
    while name in makers and (makers[name].op_type in _SAME_LOGITS or (makers[name].op_type == "Log" and not logged)):
        logged |= makers[name].op_type == "Log"
        name = makers[name].input[0]
    if name in makers and makers[name].op_type in (("Softmax",) if logged else _ACTIVATIONS):
        return makers[name].input[0], _ACTIVATIONS[makers[name].op_type]
    return output, None
