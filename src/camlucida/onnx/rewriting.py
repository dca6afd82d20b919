"""Files as they must be for their scores to be read: without dictionaries of classes (ZipMap), sizes of 0 made free."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from camlucida.errors import ModelError
from camlucida.onnx.extra import onnx
from camlucida.onnx.graph import attributes
from camlucida.onnx.load import free_sizes

_MOST_NAMES = 10**6


def zipmaps(model: Any) -> list[Any]:
    """The nodes that make a graph's outputs dictionaries."""
    outputs = {output.name for output in model.graph.output}
    return [node for node in model.graph.node if node.op_type == "ZipMap" and outputs.intersection(node.output)]


def zipped_names(nodes: Iterable[Any]) -> tuple[str, ...] | None:
    """The classes' names that dictionaries have; None if they have numbers that count from 0."""
    for node in nodes:
        found = attributes(node)
        if "classlabels_strings" in found:
            return tuple(name.decode(errors="replace") for name in found["classlabels_strings"][:_MOST_NAMES])
        numbers = list(found.get("classlabels_int64s", ()))
        if numbers and numbers != list(range(len(numbers))):
            return tuple(map(str, numbers))
    return None


def with_free_sizes(content: bytes) -> bytes:
    """A file whose sizes of 0 are free, which ONNX Runtime would take for none at all."""
    model = onnx.load_model_from_string(content)
    free_sizes(model)
    return bytes(model.SerializeToString())


def without_zipmap(content: bytes, name: str) -> tuple[bytes, tuple[str, ...] | None]:
    """A file whose outputs are the scores that its dictionaries are made of, and the classes' names.

    Raises:
        ModelError: its dictionaries are made otherwise.
    """
    model = onnx.load_model_from_string(content)
    nodes = zipmaps(model)
    if len(nodes) != 1:
        raise ModelError(f"{name}: its outputs are dictionaries that no single ZipMap makes; export it without them "
                         "(zipmap=False)")  # fmt: skip
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=nodes[0].input[0]))
    return model.SerializeToString(), zipped_names(nodes)
