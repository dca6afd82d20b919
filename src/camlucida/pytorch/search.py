"""Where a recorded pass is cut: at the last spatial features, all branches of them, and at what leads past them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from camlucida.errors import FeaturesNotFoundError
from camlucida.pytorch.cell_places import choose_layout, layout_in_place
from camlucida.pytorch.grid import Layout
from camlucida.pytorch.head import Call, Kind, Pooling, RecordedFunction, classify, find_pooling
from camlucida.pytorch.recorded import RecordedPass, RecordedValue, some_layers
from camlucida.pytorch.tape import Value

_VIEWS = {"permute", "transpose", "flatten", "reshape", "view", "contiguous", "movedim", "moveaxis", "swapaxes",
          "rearrange", "unflatten", "T", "mT", "clone", "to", "float", "dropout"}  # fmt: skip
_NEAR = 4
"""Calls between a grid and the mean over one of its directions, at most."""
_MOST_VALUES = 200
"""More values that could be grids on the last way to the logits are not gone through."""


class FoundFeatures(NamedTuple):
    """Spatial features in a recorded pass: the value, how it lies, and whether tokens before its grid are read."""

    value: RecordedValue
    layout: Layout
    token: bool


@dataclass(frozen=True, eq=False)
class FeatureCut:
    """A set of values through which everything passes on its way to the logits.

    Attributes:
        run: the recorded pass.
        branches: those with a grid, the finest first.
        sides: those without: evidence that no cell carries.
    """

    run: RecordedPass
    branches: tuple[FoundFeatures, ...]
    sides: tuple[RecordedValue, ...] = ()

    @property
    def values(self) -> tuple[RecordedValue, ...]:
        """All of them, branches first."""
        return (*(features.value for features in self.branches), *self.sides)

    @cached_property
    def head(self) -> RecordedFunction:
        """The steps from here to the logits, as a function of the first value and the others."""
        if len(self.values) == 1:
            return self.values[0].head
        begins = {value.name: value.index for value in self.values}
        wanted = {self.run.end}
        behind = []
        for index in range(len(self.run.steps) - 1, -1, -1):
            step = self.run.steps[index]
            if any(name in wanted and index > begins.get(name, -1) for name in step.outputs):
                wanted.update(step.inputs)
                behind.append(step)
        first, *others = (value.tensor for value in self.values)
        return RecordedFunction(tuple(behind[::-1]), first, self.run.logits, tuple(others))

    @cached_property
    def pooling(self) -> Pooling | None:
        """Where the pooled vector stands behind a single grid, if everything is read through it."""
        (value, layout, token), *others = self.branches
        return None if token or others or self.sides else find_pooling(value.head, layout)

    @cached_property
    def joint_kind(self) -> tuple[Kind, frozenset[Call]]:
        """What the head is as a function of all values, those without a grid too, and its statistics."""
        if len(self.values) == 1:
            if self.branches[0].token:
                return "token", frozenset()
            if self.pooling is None:
                return "nonlinear", frozenset()
            return classify(self.head.behind(self.pooling.index, self.pooling.output))
        return classify(self.head)

    @property
    def kind(self) -> Kind:
        """What stands between the features and the logits; no map is exact where evidence leads past the grids."""
        return "nonlinear" if self.sides else self.joint_kind[0]

    @property
    def statistics(self) -> frozenset[Call]:
        """The calls behind them that measure how large the features are."""
        return self.joint_kind[1]


def search(run: RecordedPass) -> FeatureCut:
    """The last spatial features: one value that everything passes through, or the branches that meet in the head.

    Raises:
        FeaturesNotFoundError: nothing spatial was found, or its grid is not certain.
    """
    whole, doubt = _last_bottleneck(run)
    if whole is None and doubt is None:
        whole, doubt = _last_bottleneck(run, unlearned=True)
    alone = None if whole is None else FeatureCut(run, (whole,))
    if alone is not None and alone.kind in ("affine", "normalized"):
        return alone
    branched = None if whole is not None and whole.token else _branches(run)
    if branched is not None and (alone is None or _says_more(branched, alone)):
        return branched
    if alone is not None:
        return alone
    if doubt is not None:
        raise doubt
    shapes = [tuple(value.tensor.shape) for value in run.bottlenecks[-6:]]
    raise FeaturesNotFoundError(
        f"no spatial features lead to the logits {tuple(run.logits.shape)} of input {tuple(run.batch.shape)}; "
        f"the last values on the way had shapes {shapes}; name the layer whose output to use with layer='…', "
        f"one of {some_layers(run.model)}"
    )


def cut_at(value: RecordedValue, layout: Layout) -> FeatureCut:
    """The cut at a value that was named, with all that leads past it."""
    features = FoundFeatures(value, layout, layout.prefix > 0)
    return FeatureCut(value.run, (features,), _past(value.run, {value.name}))


def _last_bottleneck(
    run: RecordedPass, *, unlearned: bool = False
) -> tuple[FoundFeatures | None, FeaturesNotFoundError | None]:
    """The last value that everything passes through, whose grid the logits read at more than one cell.

    Where nothing is learned before the head, features that are computed without weights will do (``unlearned``).
    """
    values = run.bottlenecks
    doubt: FeaturesNotFoundError | None = None
    token = False
    for at in range(len(values) - 1, -1, -1):
        value = values[at]
        if not value.layouts or (not unlearned and not value.learned()):
            continue
        if value.only_prefix_read(value.layouts):
            token = True
            continue
        layouts = value.cells_read(value.layouts)
        if not layouts:
            continue
        value, layouts = _before_views(values[: at + 1], layouts)
        value, layouts = _before_means(values[: at + 1], value, layouts)
        try:
            layout = layout_in_place(value, layouts) if doubt else choose_layout(value, layouts)
        except FeaturesNotFoundError as error:
            layout = None
            if any(layout.likely for layout in layouts):
                doubt = error
        if layout is not None:
            return FoundFeatures(value, layout, token or layout.prefix > 0), None
        # A chance likeness to a grid, or an order that is not the picture's: from here on only places of changes count.
    return None, doubt


def _branches(run: RecordedPass) -> FeatureCut | None:
    """The last grids on every way to the logits, where a network goes on in branches that meet only in its head.

    Walks back from the logits. A learned value whose cells are read and lie where they should is a branch; what is no
    grid, or not confirmed as one, is walked through to what it was made of.
    """
    made = run.makers
    branches: dict[Value, FoundFeatures] = {}
    waiting = [(-len(run.steps), run.end)]
    seen = {run.end}
    values = 0
    while waiting:
        _, name = heapq.heappop(waiting)
        if name not in made:
            continue
        value = made[name]
        if name != run.end and value.layouts and value.learned():
            values += 1
            if values > _MOST_VALUES:
                return None
            features = _features_at(value)
            if features is not None:
                branches[name] = features
                continue
        for before in set(value.step.inputs) - seen:
            seen.add(before)
            heapq.heappush(waiting, (-made[before].index if before in made else 1, before))
    if not branches:
        return None
    cut = _cut_at_all(run, branches.values())
    if len(branches) == 1 or cut.joint_kind[0] in ("affine", "normalized"):
        return cut
    # What was read before the last of them was made (the states of earlier stages, say) is no last feature.
    last = max(features.value.index for features in branches.values())
    last_use = {name: index for index, step in enumerate(run.steps) for name in step.inputs}
    return _cut_at_all(run, [features for name, features in branches.items() if last_use[name] > last])


def _cut_at_all(run: RecordedPass, branches: Iterable[FoundFeatures]) -> FeatureCut:
    finest_first = sorted(branches, key=lambda features: -math.prod(features.layout.grid))
    return FeatureCut(run, tuple(finest_first), _past(run, {features.value.name for features in finest_first}))


def _features_at(value: RecordedValue) -> FoundFeatures | None:
    """The value as spatial features, if it is a grid that the logits read at more than one cell."""
    likely = [layout for layout in value.layouts if layout.likely]
    layouts = value.cells_read(likely) if likely and not value.only_prefix_read(likely) else []
    if not layouts:
        return None
    try:
        layout = choose_layout(value, layouts)
    except FeaturesNotFoundError:
        return None
    return FoundFeatures(value, layout, layout.prefix > 0)


def _past(run: RecordedPass, starts: Iterable[Value]) -> tuple[RecordedValue, ...]:
    """The last values that depend on the input, but on none of these, and are read on the way to the logits."""
    made = run.makers
    behind = set(starts)
    for step in run.steps:
        if behind.intersection(step.inputs):
            behind.update(output for output in step.outputs if output not in starts)
    sides: dict[Value, RecordedValue] = {}
    wanted, seen = [run.end], set(starts)
    while wanted:
        name = wanted.pop()
        if name in seen or name not in made:
            continue
        seen.add(name)
        if name in behind:
            wanted += made[name].step.inputs
        else:
            sides[name] = made[name]
    return tuple(sorted(sides.values(), key=lambda value: value.index))


def _says_more(branched: FeatureCut, alone: FeatureCut) -> bool:
    """Whether the branches say more than the one value before them: they are exact, or of other grids.

    Keys and values of an attention, say, are branches of the one grid that both were made of: that says more.
    """
    whole = alone.branches[0]
    if {features.value for features in branched.branches} == {whole.value}:
        return False
    values = [features.value for features in branched.branches if features.value != whole.value]
    if not all(value.learned(whole.value) for value in values):
        return False  # only pooled or weighed from it
    if branched.joint_kind[0] in ("affine", "normalized"):
        return True
    return any(features.layout.grid != whole.layout.grid for features in branched.branches)


def _before_views(values: Sequence[RecordedValue], layouts: list[Layout]) -> tuple[RecordedValue, list[Layout]]:
    """If flattened features are a mere view of an unflattened grid, take that: its axes leave nothing to guess."""
    flattened = values[-1]
    end = flattened.index
    for value in () if layouts[0].has_axes else reversed(values[:-1]):
        if any(step.name not in _VIEWS for step in value.run.steps[value.index + 1 : end + 1]):
            break
        unflattened = [layout for layout in value.layouts if layout.has_axes]
        if value.tensor.numel() == flattened.tensor.numel() and unflattened:
            return value, unflattened
        end = value.index
    return flattened, layouts


def _before_means(
    values: Sequence[RecordedValue], value: RecordedValue, layouts: list[Layout]
) -> tuple[RecordedValue, list[Layout]]:
    """If the value is a mean over one direction of a grid whose mean the head takes in the end, take that grid."""
    if layouts[0].has_axes:
        return value, layouts
    for before in reversed(values[:-1]):
        if not 0 < value.index - before.index <= _NEAR:
            continue
        whole = [layout for layout in before.cells_read(before.layouts) if layout.has_axes]
        if any(find_pooling(before.head, layout) for layout in whole):
            return before, whole
    return value, layouts
