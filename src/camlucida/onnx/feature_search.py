"""Where an ONNX classifier's spatial features are: found by numbers, as ``pytorch.split`` finds a torch model's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camlucida.errors import FeaturesNotFoundError
from camlucida.onnx.extra import onnx
from camlucida.onnx.graph_cut import Route, behind, showing, sizes_read
from camlucida.onnx.known_layouts import CHANNELS_FIRST, CHANNELS_LAST
from camlucida.onnx.session import OnnxSession
from camlucida.pytorch.cell_places import locate
from camlucida.pytorch.grid import Layout, candidates

_AT_ONCE = 8
"""How many values are made outputs of one graph while the features are sought."""
_READ = 1e-6
"""Logits that change by less than this share of their size do not read what was changed."""


@dataclass(frozen=True, eq=False)
class Cut:
    """A classifier's graph, cut at one value.

    Attributes:
        value: its name.
        shape: its shape, without the batch axis.
        layout: how it lies on the picture.
        body: from pictures to the value and ``sizes``.
        head: from the value and ``sizes`` to the logits.
        sizes: values that the head reads beside, which depend on the pictures' size alone.
    """

    value: str
    shape: tuple[int, ...]
    layout: Layout
    body: OnnxSession
    head: OnnxSession
    sizes: tuple[str, ...]

    def run(self, batch: NDArray[Any]) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
        """The value and the sizes for a batch (N, C, *space)."""
        return self.body.run([self.value], batch)[0], _sizes_of(self.body, self.sizes, batch)


def find_cut(network: OnnxSession, route: Route, batch: Tensor) -> Cut:
    """The last value that everything passes through, whose grid the logits read at more than one cell.

    Args:
        network: the file; parts of it run on the same device.
        route: its way to the logits.
        batch: two inputs (2, C, *space), float32.

    Raises:
        FeaturesNotFoundError: there is none, or its grid is not certain.
    """
    spots = route.bottlenecks()
    doubt = False
    for last in range(len(spots), 0, -_AT_ONCE):
        names = spots[max(0, last - _AT_ONCE) : last]
        sizes = {name: sizes_read(route, name) for name in names}
        body = network.other(showing(route, [route.logits, *names, *chain(*sizes.values())]))
        values = dict(zip(names, body.run(names, batch.numpy()), strict=True))
        for at in range(last - 1, last - 1 - len(names), -1):
            spot = _Spot(route, body, spots[at], sizes[spots[at]], values[spots[at]], batch)
            reading = [layout for layout in spot.layouts if spot.reads(layout)] if route.learned(spots[at]) else []
            if not reading:
                continue
            if not reading[0].has_axes:
                spot, reading = _before_views(spot, spots[:at], reading)
            layout = _layout(spot, reading, certain=doubt)
            if layout is not None:
                return spot.cut(layout)
            doubt = True  # a chance likeness to a grid: from here on only places of changes count
    raise FeaturesNotFoundError(
        f"{network.name}: no spatial features lead to its logits for input {tuple(batch.shape[1:])}; choose a method "
        "that looks at no features: rise or occlusion"
    )


@dataclass(frozen=True, eq=False)
class _Spot:
    """A value on the way to the logits, as the search sees it."""

    route: Route
    body: OnnxSession
    name: str
    sizes: tuple[str, ...]
    array: NDArray[Any]
    batch: Tensor

    @cached_property
    def value(self) -> Tensor:
        return torch.from_numpy(self.array)

    @cached_property
    def layouts(self) -> list[Layout]:
        known = self.route.layouts.get(self.name)
        if self.array.dtype != np.float32 or known == "reduced":
            return []  # what is left of a grid where its rows or columns were pooled is no grid
        if known in (CHANNELS_FIRST, CHANNELS_LAST) and self.array.ndim == 4:
            channel = known.index(1)
            space = tuple(axis for axis in (1, 2, 3) if axis != channel)
            grid = tuple(self.array.shape[axis] for axis in space)
            return [Layout(channel, space, grid)] if math.prod(grid) > 1 else []
        return candidates(self.array.shape, len(self.batch), self.batch.shape[2:])

    def cut(self, layout: Layout) -> Cut:
        body = self.body.other(showing(self.route, [self.name, *self.sizes]))
        return Cut(self.name, self.array.shape[1:], layout, body, self._head, self.sizes)

    @cached_property
    def _head(self) -> OnnxSession:
        kinds = {name: self.body.types[name] for name in (self.name, *self.sizes)}  # tensor(float), tensor(int64)
        types = {name: onnx.TensorProto.DataType.Value(kind[7:-1].upper()) for name, kind in kinds.items()}
        content = behind(self.route, self.name, self.array.ndim, self.body.batch, types)
        return self.body.other(content, beside=self.sizes)

    @cached_property
    def _head_sizes(self) -> dict[str, NDArray[Any]]:
        return _sizes_of(self.body, self.sizes, self.batch.numpy())

    def reads(self, layout: Layout) -> bool:
        """Whether the logits change with either half of the grid's cells, every other one."""
        cells = layout.on_grid(self.value)
        noise = torch.randn(cells.shape, generator=torch.Generator().manual_seed(0)) * cells.std().clamp_min(1e-6)
        odd = (torch.arange(cells[0, 0].numel()) % 2).reshape(cells.shape[2:])
        before = self._logits(self.value)
        for half in (odd, 1 - odd):
            change = self._logits(layout.put(self.value, cells + noise * half)) - before
            if not float(change.abs().max()) > _READ * float(before.abs().max()):
                return False
        return True

    def of(self, inputs: Tensor) -> Tensor | None:
        """The value of other inputs."""
        value = torch.from_numpy(self.body.run([self.name], inputs.numpy())[0])
        return value if value.shape == (len(inputs), *self.value.shape[1:]) else None

    def _logits(self, value: Tensor) -> Tensor:
        return torch.from_numpy(self._head.run([self.route.logits], value.numpy(), self._head_sizes)[0])


def _sizes_of(body: OnnxSession, names: Sequence[str], batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Values that depend on sizes alone, from as many inputs as the head is to see at once."""
    if not names:
        return {}
    seen = batch if body.batch is None else np.resize(batch, (body.batch, *batch.shape[1:]))
    return dict(zip(names, body.run(names, seen), strict=True))


def _before_views(spot: _Spot, before: Sequence[str], layouts: list[Layout]) -> tuple[_Spot, list[Layout]]:
    """If flattened features are a mere view of an unflattened grid, take that: its axes leave nothing to guess."""
    for name in reversed(before):
        if not spot.route.only_views_between(name, spot.name):
            break
        sizes = sizes_read(spot.route, name)
        body = spot.body.other(showing(spot.route, [name, *sizes]))
        (value,) = body.run([name], spot.batch.numpy())
        earlier = _Spot(spot.route, body, name, sizes, value, spot.batch)
        whole = [layout for layout in earlier.layouts if layout.has_axes]
        if whole and value.size == spot.array.size:
            return earlier, whole
    return spot, layouts


def _layout(spot: _Spot, layouts: list[Layout], *, certain: bool) -> Layout | None:
    """The layout on which changes of the picture show in place; where they show everywhere, the likeliest."""
    located = locate(spot.of, spot.batch, layouts)
    if certain or located.sharp:
        return located.layout
    likely = [layout for layout in layouts if layout.likely and (layout.has_axes or layout.channel_axis != 1)]
    return min(likely, key=lambda layout: layout.offness, default=None)
