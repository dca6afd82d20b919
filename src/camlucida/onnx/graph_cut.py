"""Cutting an ONNX graph in two: what leads to a value, and what makes the logits of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from camlucida.errors import ModelError
from camlucida.onnx.extra import onnx
from camlucida.onnx.graph import before_activation, leading_to, part_of, reads
from camlucida.onnx.known_layouts import MadeLayout, made_layouts, may_move
from camlucida.onnx.load import sort_nodes
from camlucida.targets import Activation

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_SIZES = {"Shape", "Size"}
VIEWS = {"Identity", "Cast", "Dropout", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
"""Operations that leave every number as it is."""


_WEIGHTED = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv", "MatMul", "MatMulInteger",
             "QLinearMatMul", "Gemm", "LSTM", "GRU", "Einsum", "Attention", "FusedMatMul"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Route:
    """The part of a classifier's graph that leads from its pictures to its logits.

    Attributes:
        model: the whole file.
        input: the pictures' name.
        logits: the logits' name.
        activation: what the file applies to its logits, if it ends in such an operation.
        nodes: on the way from the pictures to the logits, in order; constants and sizes are not on the way.
    """

    model: ModelProto
    input: str
    logits: str
    activation: Activation | None
    nodes: tuple[NodeProto, ...]

    def bottlenecks(self) -> tuple[str, ...]:
        """The values through which every path from the pictures to the logits leads, first to last."""
        last_use = {name: i for i, node in enumerate(self.nodes) for name in reads(node)}
        last_use[self.logits] = len(self.nodes)
        alive: set[str] = {self.input}
        found: list[str] = []
        for i, node in enumerate(self.nodes):
            alive = {name for name in (*alive, *node.output) if last_use.get(name, -1) > i}
            if len(alive) == 1 and alive <= set(node.output):
                found += alive
        return tuple(found)

    def keeps_axes(self, name: str) -> bool:
        """Whether no operation up to a bottleneck changes the order of axes, or moves cells along them."""
        made = {value: i for i, node in enumerate(self.nodes) for value in node.output}
        before = self.nodes[: made[name] + 1]
        return not any(node.op_type == "Transpose" or may_move(node) for node in before)

    def learned(self, name: str) -> bool:
        """Whether an operation with weights stands before a value."""
        return any(node.op_type in _WEIGHTED for node in leading_to([name], self.nodes))

    @cached_property
    def layouts(self) -> dict[str, MadeLayout]:
        """How values on the way lie on the picture, as far as the operations that made them tell."""
        return made_layouts(self.nodes, {self.input}.union(*(node.output for node in self.nodes)))

    def only_views_between(self, first: str, second: str) -> bool:
        """Whether all that stands between two bottlenecks leaves every number as it is."""
        made = {name: i for i, node in enumerate(self.nodes) for name in node.output}
        return all(node.op_type in VIEWS for node in self.nodes[made[first] + 1 : made[second] + 1])


def route_of(content: bytes, name: str, pictures: str, output: str) -> Route:
    """Read a file for cutting; a final softmax or sigmoid is left out, so that its logits are seen.

    Args:
        content: the file; ONNX Runtime has opened it.
        name: what messages call it.
        pictures: its input.
        output: what it says of the classes.

    Raises:
        ModelError: the output does not depend on the pictures.
        MissingExtraError: onnx is not installed.
    """
    model = onnx.load_model_from_string(content)
    sort_nodes(model.graph, name)
    makers = {value: node for node in model.graph.node for value in node.output}
    logits, activation = before_activation(makers, output)
    moved = {pictures}
    nodes = []
    for node in model.graph.node:
        if node.op_type not in _SIZES and any(value in moved for value in reads(node)):
            moved.update(node.output)
            nodes.append(node)
    kept = leading_to([logits], nodes)
    if not kept:
        raise ModelError(f"{name}: its output {output} does not depend on its input")
    return Route(model, pictures, logits, activation, tuple(kept))


def showing(route: Route, values: Iterable[str]) -> bytes:
    """The file with these values as its outputs, and nothing that they do not need."""
    content: bytes = part_of(route.model, leading_to(values, route.model.graph.node), values).SerializeToString()
    return content


def sizes_read(route: Route, value: str) -> tuple[str, ...]:
    """Values behind a bottleneck that depend on the pictures' size alone: shapes for reshaping, mostly."""
    return _behind(route, value)[1]


def behind(route: Route, value: str, rank: int, batch: int | None, types: Mapping[str, int]) -> bytes:
    """What makes the logits of a bottleneck, as a graph of its own.

    Args:
        route: of the file.
        value: the bottleneck, which becomes the input.
        rank: how many axes it has.
        batch: the size of the first, if that is fixed.
        types: ONNX element types of the value and of ``sizes_read``, which become inputs too.
    """
    nodes, sizes = _behind(route, value)
    given = [onnx.helper.make_tensor_value_info(value, types[value], [batch, *[None] * (rank - 1)])]
    given += [onnx.helper.make_tensor_value_info(name, types[name], None) for name in sizes]
    content: bytes = part_of(route.model, nodes, [route.logits], given).SerializeToString()
    return content


def _behind(route: Route, value: str) -> tuple[list[NodeProto], tuple[str, ...]]:
    """The nodes behind a bottleneck, in order, and what they read that depends on sizes alone."""
    every = route.model.graph.node
    moved = {route.input}.union(*(node.output for node in route.nodes))
    by_size = {route.input}
    for node in every:
        if any(name in by_size for name in reads(node)):
            by_size.update(node.output)
    makers = {name: i for i, node in enumerate(every) for name in node.output}
    wanted, sizes, found = [route.logits], [], set()
    while wanted:
        name = wanted.pop()
        if name == value or name in sizes or name not in makers or makers[name] in found:
            continue
        if name in by_size and name not in moved:
            sizes.append(name)
        else:
            found.add(makers[name])
            wanted += reads(every[makers[name]])
    return [every[i] for i in sorted(found)], tuple(sizes)
