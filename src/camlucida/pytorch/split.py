"""Find where a classifier's spatial features end and its head begins, from one recorded forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain

import torch
from torch import Tensor, nn

from camlucida.errors import FeaturesNotFoundError, ModelError
from camlucida.pytorch.cell_places import certain_layout, choose_layout, layout_in_place
from camlucida.pytorch.grid import Layout
from camlucida.pytorch.head import Kind, Pooling, classify, find_pooling
from camlucida.pytorch.recorded import RecordedPass, cells_read, only_prefix_read, some_layers
from camlucida.pytorch.tape import Place, Tape, TapeStep, bottlenecks, frontiers, on_the_way, tensors_in, value_of
from camlucida.targets import Activation

_LAST_ACTIVATIONS: dict[str, Activation] = {"softmax": "softmax", "log_softmax": "softmax", "sigmoid": "sigmoid"}
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
        dropped: calls after the logits (a final softmax) that the tail leaves out.
        kind: what the head is.
        pooling: where the pooled vector stands in the tail, for affine and normalized heads.
        classes: how many logits there are.
        activation: what the model itself applies to its logits, if it ends in one.
        blind: whether the logits were the same for every input (a head of zeros), so that the kind may change.
    """

    place: Place
    logits: Place
    layout: Layout
    shape: tuple[int, ...]
    tail: tuple[str, ...]
    dropped: int
    kind: Kind
    pooling: Pooling | None
    classes: int
    activation: Activation | None
    blind: bool


def logits_in(output: object) -> Tensor:
    """The logits in what a model returned: a tensor, or in a tuple, mapping or Hugging Face output.

    Raises:
        ModelError: nothing in it looks like logits (batch, classes).
    """
    named = output.get("logits", output.get("out")) if isinstance(output, dict) else getattr(output, "logits", None)
    for tensor in [named] if isinstance(named, Tensor) else tensors_in(output):
        if tensor.is_floating_point() and (tensor.ndim == 1 or (tensor.ndim >= 2 and tensor[0, 0].numel() == 1)):
            return tensor
    seen = [tuple(tensor.shape) for tensor in tensors_in(output)]
    raise ModelError(f"the model returned no logits of shape (batch, classes); it returned tensors of shapes {seen}")


def as_rows(logits: Tensor) -> Tensor:
    """Logits (B, K), whatever axes of one they have or lack."""
    return logits[:, None] if logits.ndim == 1 else logits.flatten(1)


def tail_behind(tape: Tape, output: object, dropped: int) -> tuple[list[TapeStep], Tensor]:
    """The steps to the logits and the logits, with ``dropped`` final activations left out."""
    logits = logits_in(output)
    steps = on_the_way(tape.steps, value_of(logits))
    if dropped:
        steps = steps[:-dropped]
        logits = steps[-1].tensors[0] if steps else logits
    return steps, logits


@dataclass(frozen=True)
class Recording:
    """One recorded pass, before it is decided where to cut it.

    Attributes:
        run: the pass, up to the logits.
        named: what the named layer gave, call after call.
        dropped: calls after the logits (a final softmax) that are left out.
        activation: what those are.
    """

    run: RecordedPass
    named: tuple[Tensor, ...]
    dropped: int
    activation: Activation | None

    def split(self, index: int, output: int, layout: Layout, token: bool) -> Split:
        """The split at the ``output``-th tensor of step ``index``; ``token``: tokens before the grid are read."""
        run = self.run
        head = run.part(index, output)
        pooling = None if token else find_pooling(head, layout)
        kind: Kind = "token" if token else classify(head, layout, pooling)
        step = run.steps[index]
        return Split(
            Place(step.func, step.nth, output), Place(run.steps[-1].func, run.steps[-1].nth, 0), layout,
            tuple(head.start.shape[1:]), tuple(step.name for step in head.steps), self.dropped, kind, pooling,
            as_rows(run.logits).shape[1], self.activation,
            run.readout is not run.logits,
        )  # fmt: skip


def trace(model: nn.Module, batch: Tensor, layer: nn.Module | None = None) -> Split:
    """Run the model once on a small batch and find the split.

    Args:
        model: in evaluation mode.
        batch: preprocessed input (B, C, *space).
        layer: take this module's (last) output as the features instead of searching.

    Raises:
        FeaturesNotFoundError: nothing spatial was found, or its grid is not certain.
    """
    recording = record(model, batch, layer)
    return recording.split(*(search(recording.run) if layer is None else _named(recording.run, recording.named)))


def record(model: nn.Module, batch: Tensor, layer: nn.Module | None = None) -> Recording:
    """Run the model once on a small batch; see ``trace``."""
    named: list[Tensor] = []
    hooks = []
    if layer is not None:
        hooks.append(layer.register_forward_hook(lambda _module, _args, out: named.extend(list(tensors_in(out))[:1])))
    try:
        with torch.no_grad(), Tape([batch]) as tape:
            output = model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    logits = logits_in(output)
    steps = on_the_way(tape.steps, value_of(logits))
    if not steps:
        raise FeaturesNotFoundError(
            f"no torch call leads from the input {tuple(batch.shape)} to the logits {tuple(logits.shape)}: "
            "the model hides its calls (TorchScript, custom autograd functions); wrap its last layer in plain torch"
        )
    dropped = 0
    activation: Activation | None = None
    while len(steps) > 1 and steps[-1].name in _LAST_ACTIVATIONS:
        activation = _LAST_ACTIVATIONS[steps[-1].name]
        steps, dropped = steps[:-1], dropped + 1
    return Recording(RecordedPass(model, batch, steps, steps[-1].tensors[0]), tuple(named), dropped, activation)


def search(run: RecordedPass) -> tuple[int, int, Layout, bool]:
    """The last value that everything passes through, whose grid the logits read at more than one cell."""
    spots = bottlenecks(run.steps, run.end)
    whole: tuple[int, int, Layout] | None = None
    doubt: FeaturesNotFoundError | None = None
    token = False
    for at in range(len(spots) - 1, -1, -1):
        index, output = spots[at]
        layouts = run.layouts(index, output)
        if not layouts:
            continue
        gradient = run.gradient(index, output)
        if only_prefix_read(layouts, gradient):
            token = True
            continue
        reading = [layout for layout in layouts if cells_read(layout, gradient) > 1]
        if not reading:
            continue
        index, output, reading, gradient = _before_views(run, spots[: at + 1], reading, gradient)
        try:
            layout = (
                layout_in_place(run, index, output, reading)
                if doubt
                else choose_layout(run, index, output, reading, gradient)
            )
        except FeaturesNotFoundError as error:
            layout, doubt = None, error
        if layout is not None:
            whole = (index, output, layout)
            break
        # A chance likeness to a grid, or an order that is not the picture's: from here on only looking counts.
    branch = _branch(run, whole)
    if branch is not None:
        return *branch, branch[2].prefix > 0
    if whole is not None:
        return *whole, token or whole[2].prefix > 0
    if doubt is not None:
        raise doubt
    shapes = [tuple(run.steps[i].tensors[o].shape) for i, o in spots[-6:]]
    raise FeaturesNotFoundError(
        f"no spatial features lead to the logits {tuple(run.logits.shape)} of input {tuple(run.batch.shape)}; "
        f"the last values on the way had shapes {shapes}; name the layer whose output to use with layer='…', "
        f"one of {some_layers(run.model)}"
    )


def _branch(run: RecordedPass, whole: tuple[int, int, Layout] | None) -> tuple[int, int, Layout] | None:
    """The finest of the last grids, where a network goes on in branches that meet only in its head.

    Of several scales side by side (CrossViT, CoaT), or beside values without a place (the states of EfficientViM). The
    last frontier counts at which the cells of every grid are still read; a grid counts if it is certain (see
    ``certain_layout``), and if it is learned, not merely pooled, from the ``whole`` value that all passes through.
    None if every grid is that of ``whole`` (keys and values of an attention, say): then ``whole`` says more.
    """
    made = {value: (i, o) for i, step in enumerate(run.steps) for o, value in enumerate(step.outputs)}
    most = math.inf if whole is None else math.prod(whole[2].grid)

    @cache
    def read(spot: tuple[int, int]) -> tuple[bool, list[Layout]]:
        """Whether more than the tokens before a grid is read, and in which layouts."""
        layouts = [one for one in run.layouts(*spot) if math.prod(one.grid) <= most]
        gradient = run.gradient(*spot) if layouts else run.logits
        return not only_prefix_read(layouts, gradient), [one for one in layouts if cells_read(one, gradient) > 1]

    @cache
    def grid(spot: tuple[int, int]) -> Layout | None:
        return certain_layout(run, *spot, read(spot)[1]) if learned(run, whole, spot) else None

    def cells(spot: tuple[int, int]) -> int:
        return max((math.prod(one.grid) for one in read(spot)[1][:1]), default=0)

    for last, values in reversed(list(frontiers(run.steps, run.end))):
        if whole is not None and last <= whole[0]:
            break
        spots = [made[value] for value in values if run.layouts(*made[value])]
        if whole and all(any(one.grid == whole[2].grid for one in run.layouts(*spot)) for spot in spots):
            continue
        if not all(read(spot)[0] for spot in spots):
            continue
        found = ((*spot, one) for spot in sorted(spots, key=cells, reverse=True) if (one := grid(spot)) is not None)
        finest = next(found, None)
        if finest and (not whole or any(one.grid != whole[2].grid for *_, one in chain([finest], found))):
            return finest
    return None


def learned(run: RecordedPass, whole: tuple[int, int, Layout] | None, spot: tuple[int, int]) -> bool:
    """Whether parameters are read on the way from one value to another."""
    index, output = spot
    way = on_the_way(run.steps[whole[0] + 1 if whole else 0 : index + 1], run.steps[index].outputs[output])
    return any(isinstance(tensor, nn.Parameter) for step in way for tensor in tensors_in((step.args, step.kwargs)))


def _named(run: RecordedPass, named: Sequence[Tensor]) -> tuple[int, int, Layout, bool]:
    for tensor in reversed(named):
        for index in range(len(run.steps) - 1, -1, -1):
            values = run.steps[index].outputs
            if value_of(tensor) in values:
                output = values.index(value_of(tensor))
                layouts = run.layouts(index, output)
                if layouts:
                    gradient = run.gradient(index, output)
                    layout = choose_layout(run, index, output, layouts, gradient)
                    return index, output, layout, layout.prefix > 0
    seen = [tuple(tensor.shape) for tensor in named]
    raise FeaturesNotFoundError(
        f"the named layer gave {f'tensors of shapes {seen}' if seen else 'nothing in this pass'}, which are no spatial "
        f"features of input {tuple(run.batch.shape)} on the way to the logits; name another, "
        f"one of {some_layers(run.model)}"
    )


def _before_views(
    run: RecordedPass, spots: Sequence[tuple[int, int]], layouts: list[Layout], gradient: Tensor
) -> tuple[int, int, list[Layout], Tensor]:
    """If flattened features are a mere view of an unflattened grid, take that: its axes leave nothing to guess."""
    index, output = spots[-1]
    space = run.batch.ndim - 2
    if len(layouts[0].spatial_axes) == space:
        return index, output, layouts, gradient
    elements = run.steps[index].tensors[output].numel()
    end = index
    for before, out in reversed(spots[:-1]):
        if any(step.name not in _VIEWS for step in run.steps[before + 1 : end + 1]):
            break
        tensor = run.steps[before].tensors[out]
        unflattened = [layout for layout in run.layouts(before, out) if len(layout.spatial_axes) == space]
        if tensor.numel() == elements and unflattened:
            return before, out, unflattened, run.gradient(before, out)
        end = before
    return index, output, layouts, gradient
