"""How a tensor lies on the picture: which axes are channels, which are space, and which tokens come before the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """

    channel_axis: int
    spatial_axes: tuple[int, ...]
    grid: tuple[int, ...]
    prefix: int = 0
    offness: float = 0.0

    @property
    def name(self) -> str:
        """``NCHW``, ``NHWC``, ``NLC (1+196)`` and the like."""
        space = "DHW"[-len(self.grid) :] if self.has_axes and len(self.grid) > 1 else "L"
        letters = f"NC{space}" if self.channel_axis == 1 else f"N{space}C"
        return letters + (f" ({self.prefix}+{math.prod(self.grid)})" if self.prefix else "")

    @property
    def has_axes(self) -> bool:
        """Whether the grid's directions are axes of their own, and not one axis of tokens."""
        return len(self.spatial_axes) == len(self.grid)

    def tokens(self, features: Tensor) -> Tensor:
        """Features as (B, C, prefix + cells), prefix tokens first."""
        return features.movedim(self.channel_axis, 1).flatten(2)

    def prefix_tokens(self, features: Tensor) -> Tensor:
        """The tokens before the grid's, (B, C, prefix)."""
        return self.tokens(features)[:, :, : self.prefix]

    def on_grid(self, features: Tensor) -> Tensor:
        """Features as (B, C, *grid), the prefix tokens left out."""
        cells = self.tokens(features)[:, :, self.prefix :]
        return cells.reshape(*cells.shape[:2], *self.grid_of(features))

    def grid_of(self, features: Tensor) -> tuple[int, ...]:
        """The grid of other features of this layout: their own size where they have a grid's axes."""
        return tuple(features.shape[axis] for axis in self.spatial_axes) if self.has_axes else self.grid

    def put(self, features: Tensor, on_grid: Tensor) -> Tensor:
        """Features in their own layout with the grid's cells taken from ``on_grid`` (B, C, *grid)."""
        tokens = on_grid.flatten(2)
        if self.prefix:
            tokens = torch.cat((self.prefix_tokens(features), tokens), 2)
        moved = features.movedim(self.channel_axis, 1).shape
        return tokens.reshape(on_grid.shape[0], on_grid.shape[1], *moved[2:]).movedim(1, self.channel_axis)


def candidates(shape: Sequence[int], batch: int, input_space: Sequence[int]) -> list[Layout]:
    """The layouts in which features of this shape could lie over an input, most plausible first.

    Args:
        shape: the features' shape, batch axis first.
        batch: the batch size; other first axes (windows) are no features of pictures.
        input_space: the input's size in space: (H, W), or (L,), or (D, H, W).

    Returns:
        Possibly none. Grids of a single cell are none.

    Example:
        >>> [layout.name for layout in candidates((2, 512, 7, 7), 2, (224, 224))]
        ['NCHW']
        >>> [(layout.name, layout.grid) for layout in candidates((2, 197, 192), 2, (224, 224))]
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
            for prefix in range(min(MOST_PREFIX_TOKENS, shape[axis] - 1) + 1):
                for grid in _grids(shape[axis] - prefix, input_space):
                    off = _offness(grid, input_space)
                    if off is not None:
                        # Inexact proportions with a few odd tokens explain any length: believe them least.
                        layouts.append(Layout(channel_axis, (axis,), grid, prefix, off * 100 + prefix * 1e-3))
        layouts = [layout for layout in layouts if layout.offness < 1] or layouts
    return sorted(layouts, key=lambda layout: layout.offness)


def _grids(cells: int, input_space: Sequence[int]) -> list[tuple[int, ...]]:
    """The grids of so many cells nearest to the input's proportions."""
    side = (cells / math.prod(input_space)) ** (1 / len(input_space))
    rows = {max(1, math.floor(input_space[0] * side)), max(1, math.ceil(input_space[0] * side))}
    if len(input_space) == 1:
        return [(cells,)]
    return [(row, *rest) for row in sorted(rows) if cells % row == 0 for rest in _grids(cells // row, input_space[1:])]


def _offness(grid: Sequence[int], input_space: Sequence[int]) -> float | None:
    """How far a grid is from the input's proportions; None if it cannot be a grid over that input."""
    if math.prod(grid) < 2 or any(cells > size for cells, size in zip(grid, input_space, strict=True)):
        return None
    strides = [size / cells for cells, size in zip(grid, input_space, strict=True)]
    coarsest = max(strides)
    if len(set(input_space)) == 1 and len(set(grid)) > 1:
        return None
    # Rounding at each of several strides of two moves a side by at most one cell.
    for cells, size in zip(grid, input_space, strict=True):
        if abs(size / coarsest - cells) > 1.001:
            return None
    return max(abs(math.log(stride / coarsest)) for stride in strides)
