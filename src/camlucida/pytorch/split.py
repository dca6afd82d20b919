"""Find where a classifier's spatial features end and its head begins, from one recorded forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camlucida.errors import FeaturesNotFoundError
from camlucida.pytorch.cell_places import choose_layout
from camlucida.pytorch.grid import Layout
from camlucida.pytorch.head import Call, Kind, Pooling, passes_gradient
from camlucida.pytorch.model_call import ModelCall
from camlucida.pytorch.outputs import Ending, as_rows, find_ending
from camlucida.pytorch.recorded import RecordedPass, RecordedValue, some_layers
from camlucida.pytorch.search import FeatureCut, cut_at, search
from camlucida.pytorch.tape import Place, Tape, on_the_way, tensors_in, value_of
from camlucida.targets import Activation


@dataclass(frozen=True)
class Split:
    """Where to cut a forward pass, found once and used for every input of the same shape.

    Attributes:
        cuts: the calls that make the values to cut at: the features of every branch, the finest first, then what leads
            past them.
        logits: the call that makes the logits.
        layouts: how the features of each branch lie on the picture.
        shapes: of the values to cut at, without the batch axis.
        tail: the names of the calls from there to the logits, to recognize the same cut in another pass.
        ending: what follows the logits (a final softmax), which the tail leaves out.
        kind: what the head is.
        pooling: where the pooled vector stands in the tail, for affine and normalized heads of one branch.
        statistics: the calls in the tail whose results are statistics of normalizations, beside those within torch's
            own.
        classes: how many logits there are.
        without_gradient: whether no gradient leads back from the logits to the features, though their values do.
        blind: whether the logits were the same for every input (a head of zeros), so that the kind may change.
    """

    cuts: tuple[Place, ...]
    logits: Place
    layouts: tuple[Layout, ...]
    shapes: tuple[tuple[int, ...], ...]
    tail: tuple[str, ...]
    ending: Ending
    kind: Kind
    pooling: Pooling | None
    statistics: frozenset[Call]
    classes: int
    without_gradient: bool
    blind: bool

    @property
    def place(self) -> Place:
        """The call that makes the features of the finest branch."""
        return self.cuts[0]

    @property
    def layout(self) -> Layout:
        """How they lie on the picture."""
        return self.layouts[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Their shape, without the batch axis."""
        return self.shapes[0]

    @property
    def activation(self) -> Activation | None:
        """What the model itself applies to its logits, if it ends in one."""
        return self.ending.activation


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

    def split(self, cut: FeatureCut) -> Split:
        """The split at these values."""
        last = self.run.steps[-1]
        return Split(
            tuple(Place(value.step.func, value.step.nth, value.output) for value in cut.values),
            Place(last.func, last.nth, 0), tuple(features.layout for features in cut.branches),
            tuple(tuple(value.tensor.shape[1:]) for value in cut.values), tuple(step.name for step in cut.head.steps),
            self.ending, cut.kind, cut.pooling, cut.statistics,
            as_rows(self.run.logits, len(self.run.batch)).shape[1], not passes_gradient(cut.head),
            self.run.readout is not self.run.logits,
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


def _named(run: RecordedPass, named: Sequence[Tensor]) -> FeatureCut:
    for tensor in reversed(named):
        for index in range(len(run.steps) - 1, -1, -1):
            outputs = run.steps[index].outputs
            if value_of(tensor) in outputs:
                value = RecordedValue(run, index, outputs.index(value_of(tensor)))
                if value.layouts:
                    return cut_at(value, choose_layout(value, value.layouts))
    seen = [tuple(tensor.shape) for tensor in named]
    raise FeaturesNotFoundError(
        f"the named layer gave {f'tensors of shapes {seen}' if seen else 'nothing in this pass'}, which are no spatial "
        f"features of input {tuple(run.batch.shape)} on the way to the logits; name another, "
        f"one of {some_layers(run.model)}"
    )
