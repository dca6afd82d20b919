"""How features lie on the picture, where their shape does not tell: change the picture, look where they change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from camlucida.errors import FeaturesNotFoundError
from camlucida.pytorch.grid import Layout
from camlucida.pytorch.head import find_pooling
from camlucida.pytorch.recorded import RecordedPass, some_layers
from camlucida.pytorch.tape import Place, Tape

_IN_PLACE = 0.75
"""A change is in place if the expected cells rank above this share of all cells."""
_SHARP = 3.0
"""A change whose strongest cell is not this many times its mean over the cells says nothing about places."""
_AXIS_MOVERS = {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "rot90", "flip", "T", "mT",
                "einsum"}  # fmt: skip


See: TypeAlias = Callable[[Tensor], Tensor | None]
"""The features (N, …) of inputs (N, C, *space); None if there are none of the shape looked for."""


class Look(NamedTuple):
    """What a look at a layout showed; see ``locality``."""

    layout: Layout
    place: float
    sharpness: float


def choose_layout(run: RecordedPass, index: int, output: int, layouts: list[Layout], gradient: Tensor) -> Layout:
    """The layout that fits: by its axes' sizes, by where the gradient is constant, or by looking where a patch goes."""
    moved = any(step.name in _AXIS_MOVERS for step in run.steps[: index + 1])
    certain = len(layouts) == 1 and _has_axes(layouts[0]) and not moved
    if certain:
        return layouts[0]
    constant = [layout for layout in layouts if layout.prefix == 0 and _is_constant(layout.on_grid(gradient))]
    if len(constant) == 1 and _has_axes(constant[0]) and not moved:
        return constant[0]
    looks = look(_seeing(run, index, output), run.batch, layouts)
    if sharp(looks):
        best = in_place(looks)
        if best is not None:
            return best
        seen = ", ".join(f"{layout.name} {layout.grid}: {place:.2f}" for layout, place, _ in looks)
        raise FeaturesNotFoundError(
            f"features of shape {tuple(run.steps[index].tensors[output].shape)} were found, but a change at a place of "
            f"the picture shows elsewhere on every grid they could form ({seen}; 1 is in place, 0.5 by chance); "
            f"name another layer with layer='…', one of {some_layers(run.model)}"
        )
    # Every change spreads over all cells: only the axes and the proportions can tell.
    likely = constant or [layout for layout in layouts if _has_axes(layout) or layout.channel_axis != 1]
    if not likely:
        raise FeaturesNotFoundError(
            f"features of shape {tuple(run.steps[index].tensors[output].shape)} were found, but neither their axes nor "
            f"changes of the picture tell where their cells lie; name another layer with layer='…', "
            f"one of {some_layers(run.model)}"
        )
    return min(likely, key=lambda layout: layout.offness)


def _has_axes(layout: Layout) -> bool:
    """Whether the grid's directions are axes of their own, and not one axis of tokens."""
    return len(layout.spatial_axes) == len(layout.grid)


def certain_layout(run: RecordedPass, index: int, output: int, layouts: Sequence[Layout]) -> Layout | None:
    """The layout that is certain: changes show in place, or its axes' sizes fit and the head takes the mean of them."""
    best = layout_in_place(run, index, output, layouts)
    if best is None and len(layouts) == 1 and _has_axes(layouts[0]):
        pooling = find_pooling(run.part(index, output), layouts[0])
        return layouts[0] if pooling else None
    return best


def layout_in_place(run: RecordedPass, index: int, output: int, layouts: Sequence[Layout]) -> Layout | None:
    """The layout on which changes of the picture show sharply and in place."""
    return in_place(look(_seeing(run, index, output), run.batch, layouts))


def look(see: See, batch: Tensor, layouts: Sequence[Layout]) -> list[Look]:
    """Look at each layout where changes of the picture show (see ``locality``), until one is right beyond doubt."""
    looks = []
    for layout in layouts:
        looks.append(Look(layout, *locality(see, batch, layout)))
        if sharp(looks[-1:]) and round(looks[-1].place, 1) == 1:
            break  # the less plausible layouts behind it cannot do better
    return looks


def sharp(looks: Sequence[Look]) -> list[Look]:
    """Those that say something about places."""
    return [one for one in looks if one.sharpness > _SHARP]


def in_place(looks: Sequence[Look]) -> Layout | None:
    """The layout on which changes show sharply and most in place, if there is one."""
    best = max(sharp(looks), key=lambda one: (round(one.place, 1), -one.layout.offness), default=None)
    return best.layout if best is not None and best.place > _IN_PLACE else None


def _seeing(run: RecordedPass, index: int, output: int) -> See:
    """How a recorded pass sees other inputs: its value at the ``output``-th tensor of step ``index``."""
    step = run.steps[index]

    def see(inputs: Tensor) -> Tensor | None:
        with torch.no_grad(), Tape([], cut=Place(step.func, step.nth, output)) as tape:
            run.model(inputs)
        same = tape.original is not None and tape.original.shape[1:] == step.tensors[output].shape[1:]
        return tape.original if same else None

    return see


def _is_constant(gradient: Tensor) -> bool:
    flat = gradient.flatten(2)
    return bool((flat - flat.mean(2, keepdim=True)).norm() <= 1e-3 * flat.norm())


def locality(see: See, batch: Tensor, layout: Layout) -> tuple[float, float]:
    """Whether a change at a place of the input shows at the same place of the grid.

    Changes one cell's worth of input at spread-out places, and looks where the features change. Nothing is seen where
    there are none.

    Returns:
        How the expected cells (with their neighbours) rank among all cells, 1 first, 0.5 by chance; and how sharply the
        change stands out where it is strongest: its maximum over its mean, the median of the places.
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
    seen = see(inputs)
    if seen is None:
        return 0.0, 0.0
    features = layout.on_grid(seen.detach().float())
    change = (features[1:] - features[:1]).square().sum(1, keepdim=True)
    pool: Callable[..., Tensor] = getattr(nn.functional, f"max_pool{len(space)}d")
    near = pool(change, 3, 1, 1)[:, 0]
    ranks = []
    for i, cell in enumerate(cells):
        expected = near[(i, *cell)]
        ranks.append(float((near[i] < expected).float().mean() + 0.5 * (near[i] == expected).float().mean()))
    flat = change.flatten(1)
    sharpness = (flat.amax(1) / flat.mean(1).clamp_min(1e-30)).median()
    return sum(ranks) / len(ranks), float(sharpness)


def _spread(space: int) -> Iterator[tuple[float, ...]]:
    """Places in the unit cube away from its middle and from its diagonal's symmetry."""
    if space == 1:
        yield from ((0.12,), (0.38,), (0.63,), (0.87,))
    elif space == 2:
        yield from ((0.15, 0.15), (0.2, 0.8), (0.8, 0.3), (0.6, 0.85), (0.45, 0.1), (0.9, 0.6))
    else:
        yield from ((0.2, 0.2, 0.8), (0.8, 0.3, 0.2), (0.3, 0.8, 0.7), (0.7, 0.7, 0.2))
