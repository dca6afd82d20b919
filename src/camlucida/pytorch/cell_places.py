"""Where the cells of features lie on the picture: change the picture at known places, see which cells change.

Shapes and axes only propose layouts; a layout is believed where local changes of the picture show at their own place,
as it is or turned and mirrored. Where every change spreads over all cells, the proportions may tell, but only for
features whose axes no call has moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from camlucida.errors import FeaturesNotFoundError
from camlucida.pytorch.grid import Layout
from camlucida.pytorch.recorded import RecordedValue, some_layers
from camlucida.pytorch.tape import Place, Tape

_SHARP = 3.0
"""A change whose strongest cell is not this many times its mean over the cells says nothing about places."""
_FIRST, _SECOND = 4, 9
"""Places changed at once: at first, for layouts that are plausible; then, for all others and their symmetries."""
_CERTAIN = 0.95
"""Where every change ranks above this share of the cells, of at least ``_MANY``, it need not stand out."""
_MANY = 16
_ALONG = 0.9
"""How the middle of what changes must correlate with the place of the change, where it is blurred."""
_SHIFTED = 0.2
"""How far the middles may lie beside the places on the mean, a share of the picture's side."""
_MOST_GRIDS = 8
"""Implausible grids are tried up to so many."""
_PLAUSIBLE, _STRICT = (0.85, 0.6), (0.9, 0.75)
"""How the expected cells must rank among all cells, on the mean of all places and at the worst of them."""
_WINDOWS = 8
"""So many windows lie along a direction of the picture, or as many as the grid has cells, if those are fewer."""
_MOST_BLIND = 1 / 3
"""A larger share of changes that show nowhere means that the cells do not cover the picture."""
_AXIS_MOVERS = {
    "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "rot90", "flip", "fliplr", "flipud", "roll",
    "T", "mT", "einsum", "grid_sample", "index_select", "__getitem__", "gather",
}  # fmt: skip

FeaturesOf: TypeAlias = Callable[[Tensor], Tensor | None]
"""The features (N, …) of inputs (N, C, *space); None if there are none of the shape looked for."""


class Located(NamedTuple):
    """What changes of the picture say about where cells lie.

    Attributes:
        layout: the one on which they show in place; None if there is none.
        sharp: whether changes stand out somewhere, so that they say something.
        seen: the ranks of the expected cells on the first layouts, in words; 1 is in place, 0.5 by chance.
    """

    layout: Layout | None
    sharp: bool
    seen: str


def choose_layout(value: RecordedValue, layouts: Sequence[Layout]) -> Layout:
    """The layout on which a change of the picture shows in place; where changes show everywhere, the likeliest.

    Raises:
        FeaturesNotFoundError: nothing tells, or a change shows elsewhere on every grid.
    """
    located = locate(_features_of(value), value.run.batch, layouts)
    if located.layout is not None:
        return located.layout
    if located.sharp:
        raise FeaturesNotFoundError(
            f"features of shape {tuple(value.tensor.shape)} were found, but a change at a place of "
            f"the picture shows elsewhere on every grid they could form ({located.seen}; 1 is in place, 0.5 by "
            f"chance); name another layer with layer='…', one of {some_layers(value.run.model)}"
        )
    moved = any(step.name in _AXIS_MOVERS for step in value.run.steps[: value.index + 1])
    likely = [layout for layout in layouts if layout.likely]
    constant = [layout for layout in likely if layout.prefix == 0 and _is_constant(layout.on_grid(value.gradient))]
    trusted = [layout for layout in constant if layout.has_axes or value.was_grid(layout.grid)] or [
        layout
        for layout in likely
        if layout.has_axes or (layout.channel_axis != 1 and not moved and value.was_grid(layout.grid))
    ]
    if not trusted:
        raise FeaturesNotFoundError(
            f"features of shape {tuple(value.tensor.shape)} were found, but neither their axes nor "
            f"changes of the picture tell where their cells lie; name another layer with layer='…', "
            f"one of {some_layers(value.run.model)}"
        )
    return min(trusted, key=lambda layout: layout.offness)


def layout_in_place(value: RecordedValue, layouts: Sequence[Layout]) -> Layout | None:
    """The layout on which changes of the picture show sharply and in place."""
    return locate(_features_of(value), value.run.batch, layouts).layout


def locate(features_of: FeaturesOf, batch: Tensor, layouts: Sequence[Layout]) -> Located:
    """Find the layout on which changes of the picture show at their own place.

    Layouts of the input's proportions are held against few changes. If none fits, all layouts are held against more,
    turned and mirrored too, and must fit better, for among so many one may fit by chance.

    Cost: a forward pass of five inputs; where the plausible layouts do not fit, of ten for each of a few grids.
    """
    likely = [layout for layout in layouts if layout.likely]
    first = _held_against(features_of, batch, likely)
    if first.layout is not None or (likely and not first.sharp):
        return first
    sharp, seen = first.sharp, first.seen
    grids: dict[tuple[int, ...], list[Layout]] = {}
    for layout in layouts:
        for turned in layout.symmetric():
            grids.setdefault(turned.grid, []).append(turned)
    found = []
    for _, alike in zip(range(_MOST_GRIDS), grids.values(), strict=False):
        located = _held_against(features_of, batch, alike, strict=True)
        sharp, seen = sharp or located.sharp, seen or located.seen
        if located.layout is not None:
            found.append(located.layout)
    best = min(found, key=lambda layout: (bool(layout.order or layout.flipped), layout.offness), default=None)
    return Located(best, sharp, seen)


def _held_against(
    features_of: FeaturesOf, batch: Tensor, layouts: Sequence[Layout], *, strict: bool = False
) -> Located:
    """The layout, of some of one grid or of alike ones, on which a few changes, or more and better, show in place."""
    count, (mean, worst) = (_SECOND, _STRICT) if strict else (_FIRST, _PLAUSIBLE)
    frames = bool(layouts) and layouts[0].frames > 0
    batch = batch.transpose(1, 2) if frames else batch
    fits = [
        layout
        for layout in layouts
        if bool(layout.frames) == frames
        and all(cells <= size for cells, size in zip(layout.grid, batch.shape[2:], strict=True))
    ]
    if not fits:
        return Located(None, False, "")
    inputs, places = _changed(batch, count, fits[0].grid)
    features = features_of(inputs.transpose(1, 2).contiguous() if frames else inputs)
    if features is None or not bool(features.isfinite().all()):
        return Located(None, False, "")
    features = features.detach().float()
    measured = [(layout, *_ranks(layout, features, places)) for layout in fits]
    seen = ", ".join(f"{layout.name} {layout.grid}: {ranks.mean():.2f}" for layout, _, ranks in measured[:4])
    in_place = [
        (layout, ranks)
        for layout, stands_out, ranks in measured
        if (stands_out or (math.prod(layout.grid) >= _MANY and float(ranks.min()) > _CERTAIN))
        and float(ranks.mean()) > mean
        and float(ranks.min()) > worst
    ] or [
        (layout, ranks)
        for layout, stands_out, ranks in measured
        if stands_out and not strict and _moves_along(layout, features, places)
    ]
    best = max(in_place, key=lambda found: _preference(*found), default=(None, None))[0]
    return Located(best, any(stands_out for _, stands_out, _ in measured), seen)


def _preference(layout: Layout, ranks: Tensor) -> tuple[float, bool, float]:
    return round(float(ranks.mean()), 1), not (layout.order or layout.flipped), -layout.offness


def _features_of(value: RecordedValue) -> FeaturesOf:
    """The recorded value, of other inputs; before activations, which move nothing, but may hide a change."""
    value = value.before_activations
    place = Place(value.step.func, value.step.nth, value.output)

    def features_of(inputs: Tensor) -> Tensor | None:
        parts = []
        for call, part, count in value.run.call.portions(inputs):
            with torch.no_grad(), Tape([], [place]) as tape:
                call(part)
            features = tape.originals.get(place)
            if features is None or features.shape[1:] != value.tensor.shape[1:]:
                return None
            parts.append(features[: count * (len(features) // len(part))])  # as many rows as frames
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return features_of


def _is_constant(gradient: Tensor) -> bool:
    flat = gradient.flatten(2)
    return bool((flat - flat.mean(2, keepdim=True)).norm() <= 1e-3 * flat.norm())


def _changed(batch: Tensor, count: int, grid: Sequence[int]) -> tuple[Tensor, list[tuple[float, ...]]]:
    """An input as it is, then with noise in one small window each, and the middles of the windows.

    A window is a cell of the grid, or of a coarser one: a smaller one could fall between what strides read.
    """
    space = batch.shape[2:]
    counts = [min(_WINDOWS, cells) for cells in grid]
    windows = [
        [int(p * cells) for p, cells in zip(place, counts, strict=False)] for place in _places(count, len(space))
    ]
    places = [tuple((cell + 0.5) / cells for cell, cells in zip(window, counts, strict=True)) for window in windows]
    inputs = batch[:1].repeat(count + 1, *([1] * (batch.ndim - 1))).clone()
    generator = torch.Generator().manual_seed(0)
    for number, window in enumerate(windows, start=1):
        place_in_input: Any = (
            number, slice(None),
            *(slice(cell * size // cells, max(cell * size // cells + 1, (cell + 1) * size // cells))
              for cell, cells, size in zip(window, counts, space, strict=True)),
        )  # fmt: skip
        patch = inputs[place_in_input]
        noise = torch.randn(patch.shape, generator=generator).to(patch)
        inputs[place_in_input] = patch + 4 * noise * batch.float().std().clamp_min(1e-3).to(patch)
    return inputs, places


def _ranks(layout: Layout, features: Tensor, places: Sequence[tuple[float, ...]]) -> tuple[bool, Tensor]:
    """Whether changes stand out, and for each the share of cells that change no more than the expected one does (or
    its neighbours). A change that shows nowhere ranks 1 where only few do, else 0: the cells do not cover the picture.
    """
    on_grid = layout.on_grid(features)
    change = (on_grid[1:] - on_grid[:1]).square().sum(1, keepdim=True)
    flat = change.flatten(1)
    strongest = flat.amax(1)
    blind = strongest <= 1e-9 * strongest.amax()
    sharpness = float((strongest / flat.mean(1).clamp_min(1e-30))[~blind].median()) if not blind.all() else 0.0
    grid = change.shape[2:]
    pool: Callable[..., Tensor] = getattr(nn.functional, f"max_pool{len(grid)}d")
    kernel = [3 if cells > 4 else 1 for cells in grid]
    near = pool(change, kernel, 1, [size // 2 for size in kernel])[:, 0]
    ranks = []
    for changes, place in zip(near, places, strict=True):
        expected = changes[tuple(min(int(p * cells), cells - 1) for p, cells in zip(place, grid, strict=True))]
        is_strongest = expected >= (1 - 1e-6) * changes.amax()
        ranks.append(torch.where(is_strongest, 1.0, (changes < expected).float().mean()))
    missed = 1.0 if float(blind.float().mean()) <= _MOST_BLIND else 0.0
    return sharpness > min(_SHARP, 0.6 * flat.shape[1]), torch.stack(ranks).masked_fill(blind, missed).cpu()


def _moves_along(layout: Layout, features: Tensor, places: Sequence[tuple[float, ...]]) -> bool:
    """Whether the middle of what changes moves as the changes do, though it may be blurred over several cells."""
    on_grid = layout.on_grid(features)
    change = (on_grid[1:] - on_grid[:1]).square().sum(1)
    share = change / change.flatten(1).sum(1).clamp_min(1e-30).reshape(-1, *[1] * (change.ndim - 1))
    for axis, cells in enumerate(change.shape[1:], start=1):
        others = [other for other in range(1, change.ndim) if other != axis]
        along = share.sum(others) if others else share
        middle = (along * (torch.arange(cells).to(along) + 0.5)).sum(1) / cells
        expected = torch.tensor([place[axis - 1] for place in places]).to(middle)
        shifted = abs(float((middle - expected).mean())) > _SHIFTED
        if cells > 1 and (shifted or not float(torch.corrcoef(torch.stack((middle, expected)))[0, 1]) > _ALONG):
            return False
    return True


def _places(count: int, space: int) -> list[tuple[float, ...]]:
    """Places in the unit cube that no symmetry of it exchanges, away from the borders between few cells."""
    steps = ((0.1, 0.42, 0.9), (0.58, 0.9, 0.42), (0.9, 0.1, 0.1), (0.42, 0.58, 0.58), (0.1, 0.9, 0.42),
             (0.9, 0.58, 0.9), (0.42, 0.1, 0.1), (0.58, 0.42, 0.9), (0.1, 0.1, 0.58))  # fmt: skip
    return [step[:space] for step in steps[:count]]
