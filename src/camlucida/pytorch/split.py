"""Find where a classifier's spatial features end and its head begins, from one recorded forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from camlucida.errors import FeaturesNotFoundError
from camlucida.pytorch.cell_places import certain_layout, choose_layout, layout_in_place
from camlucida.pytorch.grid import Layout
from camlucida.pytorch.head import Kind, Pooling, classify, find_pooling
from camlucida.pytorch.model_call import ModelCall
from camlucida.pytorch.outputs import Ending, as_rows, find_ending
from camlucida.pytorch.recorded import RecordedPass, RecordedValue, some_layers
from camlucida.pytorch.tape import Place, Tape, frontiers, on_the_way, tensors_in, value_of
from camlucida.targets import Activation

_VIEWS = {"permute", "transpose", "flatten", "reshape", "view", "contiguous", "movedim", "moveaxis", "swapaxes",
          "rearrange", "unflatten", "T", "mT", "clone", "to", "float", "dropout"}  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Where to cut a forward pass, found once and used for every input of the same shape.

    Attributes:
        place: the call that makes the features.
        logits: the call that makes the logits.
        layout: how the features lie on the picture.
        shape: the features' shape without the batch axis.
        tail: the names of the calls from the features to the logits, to recognize the same cut in another pass.
        ending: what follows the logits (a final softmax), which the tail leaves out.
        kind: what the head is.
        pooling: where the pooled vector stands in the tail, for affine and normalized heads.
        classes: how many logits there are.
        blind: whether the logits were the same for every input (a head of zeros), so that the kind may change.
    """

    place: Place
    logits: Place
    layout: Layout
    shape: tuple[int, ...]
    tail: tuple[str, ...]
    ending: Ending
    kind: Kind
    pooling: Pooling | None
    classes: int
    blind: bool

    @property
    def activation(self) -> Activation | None:
        """What the model itself applies to its logits, if it ends in one."""
        return self.ending.activation


class FoundFeatures(NamedTuple):
    """Spatial features in a recorded pass: the value, how it lies, and whether tokens before its grid are read."""

    value: RecordedValue
    layout: Layout
    token: bool


@dataclass(frozen=True)
class Recording:
    """One recorded pass, before it is decided where to cut it.

    Attributes:
        run: the pass, up to the logits.
        named: what the named layer gave, call after call.
        ending: what follows the logits.
    """

    run: RecordedPass
    named: tuple[Tensor, ...]
    ending: Ending

    def split(self, features: FoundFeatures) -> Split:
        """The split at these features."""
        value, layout, token = features
        pooling = None if token else find_pooling(value.head, layout)
        kind: Kind = "token" if token else classify(value.head, layout, pooling)
        last = self.run.steps[-1]
        return Split(
            Place(value.step.func, value.step.nth, value.output), Place(last.func, last.nth, 0), layout,
            tuple(value.tensor.shape[1:]), tuple(step.name for step in value.head.steps), self.ending, kind, pooling,
            as_rows(self.run.logits, len(self.run.batch)).shape[1], self.run.readout is not self.run.logits,
        )  # fmt: skip


def trace(call: ModelCall, batch: Tensor, layer: nn.Module | None = None) -> Split:
    """Run the model once on a small batch and find the split.

    Args:
        call: of the model, in evaluation mode.
        batch: preprocessed input (B, C, *space).
        layer: take this module's (last) output as the features instead of searching.

    Raises:
        FeaturesNotFoundError: nothing spatial was found, or its grid is not certain.
    """
    recording = record(call, batch, layer)
    return recording.split(search(recording.run) if layer is None else _named(recording.run, recording.named))


def record(call: ModelCall, batch: Tensor, layer: nn.Module | None = None) -> Recording:
    """Run the model once on a small batch; see ``trace``."""
    named: list[Tensor] = []
    hooks = []
    if layer is not None:
        hooks.append(layer.register_forward_hook(lambda _module, _args, out: named.extend(list(tensors_in(out))[:1])))
    try:
        with torch.no_grad(), Tape(call.sources(batch)) as tape:
            output = call(batch)
    finally:
        for hook in hooks:
            hook.remove()
    ending = find_ending(tape, output, len(batch), call.expected)
    logits = ending.output(output)
    steps = on_the_way(tape.steps, value_of(logits))
    if not steps:
        raise FeaturesNotFoundError(
            f"no torch call leads from the input {tuple(batch.shape)} to the logits {tuple(logits.shape)}: "
            "the model hides its calls (torch.func.vmap, NumPy, functions of C++); write its last layers in plain torch"
        )
    return Recording(RecordedPass(call, batch, *ending.before(steps, logits)), tuple(named), ending)


def search(run: RecordedPass) -> FoundFeatures:
    """The last value that everything passes through, whose grid the logits read at more than one cell.

    Raises:
        FeaturesNotFoundError: nothing spatial was found, or its grid is not certain.
    """
    values = run.bottlenecks()
    whole: FoundFeatures | None = None
    doubt: FeaturesNotFoundError | None = None
    token = False
    for at in range(len(values) - 1, -1, -1):
        value = values[at]
        if not value.layouts:
            continue
        if value.only_prefix_read(value.layouts):
            token = True
            continue
        layouts = value.cells_read(value.layouts)
        if not layouts:
            continue
        value, layouts = _before_views(values[: at + 1], layouts)
        try:
            layout = layout_in_place(value, layouts) if doubt else choose_layout(value, layouts)
        except FeaturesNotFoundError as error:
            layout, doubt = None, error
        if layout is not None:
            whole = FoundFeatures(value, layout, token or layout.prefix > 0)
            break
        # A chance likeness to a grid, or an order that is not the picture's: from here on only places of changes count.
    features = _branch(run, whole) or whole
    if features is not None:
        return features
    if doubt is not None:
        raise doubt
    shapes = [tuple(value.tensor.shape) for value in values[-6:]]
    raise FeaturesNotFoundError(
        f"no spatial features lead to the logits {tuple(run.logits.shape)} of input {tuple(run.batch.shape)}; "
        f"the last values on the way had shapes {shapes}; name the layer whose output to use with layer='…', "
        f"one of {some_layers(run.model)}"
    )


def _branch(run: RecordedPass, whole: FoundFeatures | None) -> FoundFeatures | None:
    """The finest of the last grids, where a network goes on in branches that meet only in its head.

    Of several scales side by side (CrossViT, CoaT), or beside values without a place (the states of EfficientViM). The
    last frontier counts at which the cells of every grid are still read; a grid counts if it is certain (see
    ``certain_layout``), and if it is learned, not merely pooled, from the ``whole`` value that all passes through.
    None if every grid is that of ``whole`` (keys and values of an attention, say): then ``whole`` says more.
    """
    by_name = {
        name: RecordedValue(run, i, o) for i, step in enumerate(run.steps) for o, name in enumerate(step.outputs)
    }
    most = math.inf if whole is None else math.prod(whole.layout.grid)

    @cache
    def read(value: RecordedValue) -> tuple[bool, list[Layout]]:
        """Whether more than the tokens before a grid is read, and in which layouts."""
        layouts = [layout for layout in value.layouts if math.prod(layout.grid) <= most]
        return not value.only_prefix_read(layouts), value.cells_read(layouts)

    @cache
    def found(value: RecordedValue) -> FoundFeatures | None:
        layout = certain_layout(value, read(value)[1]) if learned(value, whole) else None
        return None if layout is None else FoundFeatures(value, layout, layout.prefix > 0)

    def cells(value: RecordedValue) -> int:
        return max((math.prod(layout.grid) for layout in read(value)[1][:1]), default=0)

    for last, frontier in reversed(list(frontiers(run.steps, run.end))):
        if whole is not None and last <= whole.value.index:
            break
        values = [by_name[name] for name in frontier if by_name[name].layouts]
        if whole and all(any(layout.grid == whole.layout.grid for layout in value.layouts) for value in values):
            continue
        if not all(read(value)[0] for value in values):
            continue
        every = (features for value in sorted(values, key=cells, reverse=True) if (features := found(value)))
        finest = next(every, None)
        if finest and (not whole or any(each.layout.grid != whole.layout.grid for each in chain([finest], every))):
            return finest
    return None


def learned(value: RecordedValue, since: FoundFeatures | None) -> bool:
    """Whether parameters are read on the way to a value, from the input or from features before it."""
    steps = value.run.steps[since.value.index + 1 if since else 0 : value.index + 1]
    way = on_the_way(steps, value.step.outputs[value.output])
    return any(isinstance(tensor, nn.Parameter) for step in way for tensor in tensors_in((step.args, step.kwargs)))


def _named(run: RecordedPass, named: Sequence[Tensor]) -> FoundFeatures:
    for tensor in reversed(named):
        for index in range(len(run.steps) - 1, -1, -1):
            outputs = run.steps[index].outputs
            if value_of(tensor) in outputs:
                value = RecordedValue(run, index, outputs.index(value_of(tensor)))
                if value.layouts:
                    layout = choose_layout(value, value.layouts)
                    return FoundFeatures(value, layout, layout.prefix > 0)
    seen = [tuple(tensor.shape) for tensor in named]
    raise FeaturesNotFoundError(
        f"the named layer gave {f'tensors of shapes {seen}' if seen else 'nothing in this pass'}, which are no spatial "
        f"features of input {tuple(run.batch.shape)} on the way to the logits; name another, "
        f"one of {some_layers(run.model)}"
    )


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
