"""How features lie on the picture, where their shape does not tell: change the picture, see where they change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from camlucida.errors import FeaturesNotFoundError
from camlucida.pytorch.grid import Layout
from camlucida.pytorch.head import find_pooling
from camlucida.pytorch.recorded import RecordedValue, some_layers
from camlucida.pytorch.tape import Place, Tape

_IN_PLACE = 0.75
"""A change is in place if the expected cells rank above this share of all cells."""
_SHARP = 3.0
"""A change whose strongest cell is not this many times its mean over the cells says nothing about places."""
_AXIS_MOVERS = {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "rot90", "flip", "T", "mT",
                "einsum"}  # fmt: skip


FeaturesOf: TypeAlias = Callable[[Tensor], Tensor | None]
"""The features (N, …) of inputs (N, C, *space); None if there are none of the shape looked for."""


class Locality(NamedTuple):
    """How local changes of the input are on a layout's grid.

    Attributes:
        layout: the layout.
        place: how the expected cells (with their neighbours) rank among all cells, 1 first, 0.5 by chance.
        sharpness: how sharply a change stands out where it is strongest: its maximum over its mean, the median.
    """

    layout: Layout
    place: float
    sharpness: float


def choose_layout(value: RecordedValue, layouts: list[Layout]) -> Layout:
    """The layout that fits: by its axes' sizes, by where the gradient is constant, or by where a patch shows.

    Raises:
        FeaturesNotFoundError: nothing tells, or a patch shows elsewhere on every grid.
    """
    moved = any(step.name in _AXIS_MOVERS for step in value.run.steps[: value.index + 1])
    if len(layouts) == 1 and layouts[0].has_axes and not moved:
        return layouts[0]
    constant = [layout for layout in layouts if layout.prefix == 0 and _is_constant(layout.on_grid(value.gradient))]
    if len(constant) == 1 and constant[0].has_axes and not moved:
        return constant[0]
    measured = localities(_features_of(value), value.run.batch, layouts)
    if sharp(measured):
        best = in_place(measured)
        if best is not None:
            return best
        seen = ", ".join(f"{layout.name} {layout.grid}: {place:.2f}" for layout, place, _ in measured)
        raise FeaturesNotFoundError(
            f"features of shape {tuple(value.tensor.shape)} were found, but a change at a place of "
            f"the picture shows elsewhere on every grid they could form ({seen}; 1 is in place, 0.5 by chance); "
            f"name another layer with layer='…', one of {some_layers(value.run.model)}"
        )
    # Every change spreads over all cells: only the axes and the proportions can tell.
    likely = constant or [layout for layout in layouts if layout.has_axes or layout.channel_axis != 1]
    if not likely:
        raise FeaturesNotFoundError(
            f"features of shape {tuple(value.tensor.shape)} were found, but neither their axes nor "
            f"changes of the picture tell where their cells lie; name another layer with layer='…', "
            f"one of {some_layers(value.run.model)}"
        )
    return min(likely, key=lambda layout: layout.offness)


def certain_layout(value: RecordedValue, layouts: Sequence[Layout]) -> Layout | None:
    """The layout that is certain: changes show in place, or its axes' sizes fit and the head takes the mean of them."""
    best = layout_in_place(value, layouts)
    if best is None and len(layouts) == 1 and layouts[0].has_axes:
        return layouts[0] if find_pooling(value.head, layouts[0]) else None
    return best


def layout_in_place(value: RecordedValue, layouts: Sequence[Layout]) -> Layout | None:
    """The layout on which changes of the picture show sharply and in place."""
    return in_place(localities(_features_of(value), value.run.batch, layouts))


def localities(features_of: FeaturesOf, batch: Tensor, layouts: Sequence[Layout]) -> list[Locality]:
    """How local changes of the picture are on each layout, until one is right beyond doubt."""
    measured: list[Locality] = []
    for layout in layouts:
        measured.append(_locality(features_of, batch, layout))
        if sharp(measured[-1:]) and round(measured[-1].place, 1) == 1:
            break  # the less plausible layouts behind it cannot do better
    return measured


def sharp(measured: Sequence[Locality]) -> list[Locality]:
    """Those that say something about places."""
    return [locality for locality in measured if locality.sharpness > _SHARP]


def in_place(measured: Sequence[Locality]) -> Layout | None:
    """The layout on which changes show sharply and most in place, if there is one."""
    best = max(sharp(measured), key=lambda local: (round(local.place, 1), -local.layout.offness), default=None)
    return best.layout if best is not None and best.place > _IN_PLACE else None


def _features_of(value: RecordedValue) -> FeaturesOf:
    """The recorded value, of other inputs."""
    place = Place(value.step.func, value.step.nth, value.output)

    def features_of(inputs: Tensor) -> Tensor | None:
        made = []
        for call, part, count in value.run.call.portions(inputs):
            with torch.no_grad(), Tape([], cut=place) as tape:
                call(part)
            if tape.original is None or tape.original.shape[1:] != value.tensor.shape[1:]:
                return None
            made.append(tape.original[:count])
        return made[0] if len(made) == 1 else torch.cat(made)

    return features_of


def _is_constant(gradient: Tensor) -> bool:
    flat = gradient.flatten(2)
    return bool((flat - flat.mean(2, keepdim=True)).norm() <= 1e-3 * flat.norm())


def _locality(features_of: FeaturesOf, batch: Tensor, layout: Layout) -> Locality:
    """Change one cell's worth of input at spread-out places, and see where the features change.

    0 and 0 where there are no such features.
    """
    space = batch.shape[2:]
    places = list(_spread(len(space)))
    inputs = batch[:1].repeat(len(places) + 1, *([1] * (batch.ndim - 1))).clone()
    generator = torch.Generator().manual_seed(0)
    cells = []
    for number, place in enumerate(places, start=1):
        cell = tuple(min(int(p * c), c - 1) for p, c in zip(place, layout.grid, strict=True))
        window = tuple(
            slice(c * size // count, max(c * size // count + 1, (c + 1) * size // count))
            for c, size, count in zip(cell, space, layout.grid, strict=True)
        )
        place_in_input: Any = (number, slice(None), *window)
        patch = inputs[place_in_input]
        noise = torch.randn(patch.shape, generator=generator).to(patch)
        inputs[place_in_input] = patch + 2 * noise * batch.std().clamp_min(1e-3)
        cells.append(cell)
    changed = features_of(inputs)
    if changed is None:
        return Locality(layout, 0.0, 0.0)
    features = layout.on_grid(changed.detach().float())
    change = (features[1:] - features[:1]).square().sum(1, keepdim=True)
    pool: Callable[..., Tensor] = getattr(nn.functional, f"max_pool{len(space)}d")
    near = pool(change, 3, 1, 1)[:, 0]
    ranks = []
    for i, cell in enumerate(cells):
        expected = near[(i, *cell)]
        ranks.append(float((near[i] < expected).float().mean() + 0.5 * (near[i] == expected).float().mean()))
    flat = change.flatten(1)
    sharpness = (flat.amax(1) / flat.mean(1).clamp_min(1e-30)).median()
    return Locality(layout, sum(ranks) / len(ranks), float(sharpness))


def _spread(space: int) -> Iterator[tuple[float, ...]]:
    """Places in the unit cube away from its middle and from its diagonal's symmetry."""
    if space == 1:
        yield from ((0.12,), (0.38,), (0.63,), (0.87,))
    elif space == 2:
        yield from ((0.15, 0.15), (0.2, 0.8), (0.8, 0.3), (0.6, 0.85), (0.45, 0.1), (0.9, 0.6))
    else:
        yield from ((0.2, 0.2, 0.8), (0.8, 0.3, 0.2), (0.3, 0.8, 0.7), (0.7, 0.7, 0.2))
