"""How a tensor lies on the picture: which axes are channels, which are space, and which tokens come before the grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import torch
from torch import Tensor

UNLIKELY = 10.0
"""The offness from which on a grid has not the input's proportions."""

MOST_PREFIX_TOKENS = 16
"""More class and register tokens than this are not believed (DINOv2 with registers has 5)."""


@dataclass(frozen=True)
class Layout:
    """Where channels and space are in a batch of features.

    Attributes:
        channel_axis: the channels' axis.
        spatial_axes: the axes of space: as many as the grid has, or one axis of tokens.
        grid: cells along each direction of space, (h, w) for pictures.
        prefix: tokens before the grid's, on the one token axis.
        offness: 0 if the grid has the input's proportions, more the less it has; for choosing among candidates.
        order: for each direction of the picture, which of the features' own directions it is; () for the same order.
        flipped: the directions of the picture along which the features' cells run backwards.
        frames: of inputs (B, T, C, *space) whose frames go through the network one by one, (B·T, …): T, the first
            direction of the grid; 0 for other inputs.
    """

    channel_axis: int
    spatial_axes: tuple[int, ...]
    grid: tuple[int, ...]
    prefix: int = 0
    offness: float = 0.0
    order: tuple[int, ...] = ()
    flipped: tuple[int, ...] = ()
    frames: int = 0

    @property
    def name(self) -> str:
        """``NCHW``, ``NHWC``, ``NLC (1+196)`` and the like."""
        space = "DHW"[-len(self.spatial_axes) :] if self.has_axes and len(self.grid) > 1 else "L"
        letters = f"NC{space}" if self.channel_axis == 1 else f"N{space}C"
        return letters + (f" ({self.prefix}+{math.prod(self.grid)})" if self.prefix else "")

    @property
    def has_axes(self) -> bool:
        """Whether the grid's directions are axes of their own, and not one axis of tokens."""
        return len(self.spatial_axes) == len(self.grid) - bool(self.frames)

    @property
    def likely(self) -> bool:
        """Whether the grid has about the input's proportions."""
        return self.offness < UNLIKELY

    def tokens(self, features: Tensor) -> Tensor:
        """Features as (B, C, prefix + cells), prefix tokens first."""
        return features.movedim(self.channel_axis, 1).flatten(2)

    def prefix_tokens(self, features: Tensor) -> Tensor:
        """The tokens before the grid's, (B, C, prefix)."""
        return self.tokens(features)[:, :, : self.prefix]

    def on_grid(self, features: Tensor) -> Tensor:
        """Features as (B, C, *grid), each cell where it lies on the picture, the prefix tokens left out."""
        cells = self.tokens(features)[:, :, self.prefix :]
        if self.frames:
            return cells.reshape(-1, self.frames, cells.shape[1], *self.grid[1:]).movedim(1, 2)
        own = cells.reshape(*cells.shape[:2], *self._own_grid(features))
        turned = own.permute(0, 1, *(2 + axis for axis in self.order)) if self.order else own
        return turned.flip([2 + axis for axis in self.flipped]) if self.flipped else turned

    def grid_of(self, features: Tensor) -> tuple[int, ...]:
        """The grid of other features of this layout: their own size where they have a grid's axes."""
        if self.frames:
            return self.grid
        own = self._own_grid(features)
        return tuple(own[axis] for axis in self.order) if self.order else own

    def _own_grid(self, features: Tensor) -> tuple[int, ...]:
        if self.has_axes:
            return tuple(features.shape[axis] for axis in self.spatial_axes)
        return tuple(self.grid[self.order.index(axis)] for axis in range(len(self.grid))) if self.order else self.grid

    def put(self, features: Tensor, on_grid: Tensor) -> Tensor:
        """Features in their own layout with the grid's cells taken from ``on_grid`` (B, C, *grid)."""
        turned = on_grid.flip([2 + axis for axis in self.flipped]) if self.flipped else on_grid
        if self.frames:
            turned = on_grid.movedim(2, 1).flatten(0, 1)
        if self.order:
            turned = turned.permute(0, 1, *(2 + self.order.index(axis) for axis in range(len(self.order))))
        tokens = turned.flatten(2)
        if self.prefix:
            tokens = torch.cat((self.prefix_tokens(features), tokens), 2)
        moved = features.movedim(self.channel_axis, 1).shape
        return tokens.reshape(turned.shape[0], turned.shape[1], *moved[2:]).movedim(1, self.channel_axis)

    def symmetric(self) -> Iterator[Layout]:
        """This layout, then the ways to turn and mirror it, for cells that lie elsewhere."""
        if self.frames:
            yield self
            return
        directions = range(len(self.grid))
        for order in permutations(directions):
            grid = tuple(self.grid[axis] for axis in order)
            turned = replace(self, grid=grid, order=() if order == tuple(directions) else order)
            long = [axis for axis in directions if grid[axis] > 1]
            for count in range(len(long) + 1):
                yield from (replace(turned, flipped=flipped) for flipped in combinations(long, count))


def candidates(
    shape: Sequence[int],
    batch: int,
    input_space: Sequence[int],
    prefixes: Iterable[int] = range(MOST_PREFIX_TOKENS + 1),
) -> list[Layout]:
    """The layouts in which features of this shape could lie over an input, most plausible first.

    The input's proportions are a hint: grids that have them come first (see ``Layout.likely``).

    Args:
        shape: the features' shape, batch axis first.
        batch: the batch size; other first axes (windows) are no features of pictures.
        input_space: the input's size in space: (H, W), or (L,), or (D, H, W).
        prefixes: how many tokens may stand before those of the grid.

    Returns:
        Possibly none. Grids of a single cell are none.

    Example:
        >>> [layout.name for layout in candidates((2, 512, 7, 7), 2, (224, 224)) if layout.likely]
        ['NCHW']
        >>> [(layout.name, layout.grid) for layout in candidates((2, 197, 192), 2, (224, 224), [0, 1]) if layout.likely]
        [('NLC (1+196)', (14, 14))]
    """
    space = len(input_space)
    if len(shape) < 3 or shape[0] != batch:
        return []
    layouts = []
    if len(shape) == space + 2:
        for channel_axis, axes in ((1, tuple(range(2, space + 2))), (space + 1, tuple(range(1, space + 1)))):
            grid = tuple(shape[axis] for axis in axes)
            off = _offness(grid, input_space)
            if off is not None and (channel_axis == 1 or shape[channel_axis] > 1):  # pooled B×C×1 is no grid of C cells
                layouts.append(Layout(channel_axis, axes, grid, 0, off))
    if len(shape) == 3 and space > 1 and min(shape[1:]) > 1:
        for channel_axis, axis in ((2, 1), (1, 2)):
            for prefix in prefixes:
                for grid in _grids(shape[axis] - prefix, space) if prefix < shape[axis] else ():
                    off = _offness(grid, input_space)
                    if off is not None:
                        # Inexact proportions with a few odd tokens explain any length: believe them least.
                        off = min(100 * off, 0.99 * UNLIKELY) if off < UNLIKELY else off
                        layouts.append(Layout(channel_axis, (axis,), grid, prefix, off + prefix * 1e-3))
    return sorted(layouts, key=lambda layout: layout.offness)


def frame_candidates(shape: Sequence[int], input_shape: Sequence[int]) -> list[Layout]:
    """The layouts of features (B·T, …) of inputs (B, T, C, H, W) whose frames go through the network one by one.

    >>> [(layout.name, layout.grid) for layout in frame_candidates((6, 8, 4, 4), (2, 3, 3, 16, 16)) if layout.likely]
    [('NCHW', (3, 4, 4))]
    """
    batch, frames, *_ = input_shape
    if len(input_shape) != 5 or len(shape) != 4 or shape[0] != batch * frames:
        return []
    of_one = candidates(shape, shape[0], input_shape[3:], [0])
    return [replace(layout, grid=(frames, *layout.grid), frames=frames) for layout in of_one]


def _grids(cells: int, space: int) -> Iterator[tuple[int, ...]]:
    """The grids of so many cells."""
    if space == 1:
        yield (cells,)
        return
    for row in range(1, cells + 1):
        if cells % row == 0:
            for rest in _grids(cells // row, space - 1):
                yield (row, *rest)


def _offness(grid: Sequence[int], input_space: Sequence[int]) -> float | None:
    """How far a grid is from the input's proportions, ``UNLIKELY`` and more if it has not about them; None if it cannot
    be a grid over that input.
    """
    if math.prod(grid) < 2 or any(cells > size for cells, size in zip(grid, input_space, strict=True)):
        return None
    strides = [size / cells for cells, size in zip(grid, input_space, strict=True)]
    coarsest = max(strides)
    off = max(abs(math.log(stride / coarsest)) for stride in strides)
    # Rounding at each of several strides of two moves a side by at most one cell.
    rounded = all(abs(size / coarsest - cells) <= 1.001 for cells, size in zip(grid, input_space, strict=True))
    square = len(set(input_space)) > 1 or len(set(grid)) == 1
    return off if rounded and square else UNLIKELY + off
