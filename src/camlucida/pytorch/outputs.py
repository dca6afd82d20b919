"""Where a model's logits are in what it returned, and the final activation that they went through."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from camlucida.errors import ModelError
from camlucida.pytorch.final_activations import PROBABILITIES, activation_between, is_bounded, sums_to_one
from camlucida.pytorch.tape import Tape, TapeStep, bottlenecks, on_the_way, value_of
from camlucida.targets import Activation, Expected

_NAMES = (
    ("logits",),
    ("logit", "class_logits", "cls_logits", "logits_per_image"),
    ("out", "output", "outputs", "pred", "preds", "prediction", "predictions", "pred_logits", "score", "scores", "y",
     "y_hat", "cls", "probs", "probabilities"),
)  # fmt: skip
"""What logits are called, the surest names first."""
_NO_LOGITS = ("loss", "aux", "embed", "feature", "feats", "pool", "hidden", "attention", "mask")
_MOST_LISTED = 8
_FARTHEST = 32
"""The logits are looked for among so many of the last values that everything passes through."""


class OtherRowsError(ModelError):
    """What a model returned has not a row for each input: it may take another number of inputs only."""


class NamedTensor(NamedTuple):
    """A tensor in what a model returned, and its path there: "" for the whole, "0.logits" for a part of a part."""

    path: str
    tensor: Tensor

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2].lower()


@dataclass(frozen=True)
class Ending:
    """What a model does with its logits before it returns them, found once and used for every pass.

    Attributes:
        path: where they are in what the model returns.
        dropped: calls after the logits (a final softmax) that are left out.
        activation: what those are; None if there are none; "none" where probabilities come out that are no activation
            of one set of logits: then these are explained as they are.
        inverted: one probability comes out, and its log-odds are taken.
        note: what a reader should know of it.
    """

    path: str = ""
    dropped: int = 0
    activation: Activation | None = None
    inverted: bool = False
    note: str = ""

    @property
    def changes(self) -> bool:
        """Whether the logits are another value than the model's output."""
        return self.dropped > 0 or self.inverted

    def output(self, returned: object) -> Tensor:
        """The tensor that the model returns its logits in, or what they became."""
        for path, tensor in named_tensors(returned):
            if path == self.path:
                return tensor
        raise ModelError(f"the model returned no output {self.path!r} this time; it returned {listed(returned)}")

    def logits(self, tape: Tape, returned: object) -> tuple[list[TapeStep], Tensor]:
        """The steps of a recorded pass to the logits, and the logits, final activations left out."""
        output = self.output(returned)
        return self.before(on_the_way(tape.steps, value_of(output)), output)

    def before(self, steps: list[TapeStep], output: Tensor) -> tuple[list[TapeStep], Tensor]:
        """Of the steps to the model's output, those to the logits, and the logits."""
        if self.inverted:
            step = _log_odds_step(output)
            return [*steps, step], step.tensors[0]
        if not self.dropped:
            return steps, output
        steps = steps[: -self.dropped]
        return steps, steps[-1].tensors[0] if steps else output


def _log_odds_step(probability: Tensor) -> TapeStep:
    margin = torch.finfo(probability.dtype).eps
    log_odds = torch.logit(probability, margin)
    return TapeStep(
        torch.logit, 0, (probability, margin), {}, (value_of(probability),), (value_of(log_odds),), (log_odds,), ()
    )


def find_ending(tape: Tape, returned: object, batch: int, expected: Expected | None = None) -> Ending:
    """The ending of a recorded pass of so many inputs.

    Raises:
        ModelError: no tensor looks like logits, or several do and nothing tells which they are.
    """
    path, output = choose_output(returned, batch, expected or Expected())
    steps = on_the_way(tape.steps, value_of(output))
    return replace(_ending(steps, output, batch), path=path)


def _ending(steps: list[TapeStep], output: Tensor, batch: int) -> Ending:
    """The logits are the first of the last values that a known activation leads from to the output, in numbers."""
    rows = as_rows(output, batch)
    spots = bottlenecks(steps, value_of(output)) if steps else []
    found: tuple[int, Activation] | None = None
    for index, place in reversed(spots[-_FARTHEST:]):
        value = steps[index].tensors[place]
        if value.numel() != output.numel():
            break
        if value.shape[:1] != output.shape[:1]:
            continue  # transposed
        intact = value_of(value) == steps[index].outputs[place] and value.is_floating_point()
        activation = activation_between(as_rows(value, batch), rows) if intact and place == 0 else None
        if activation is not None:
            found = index, activation
    if found is not None:
        return Ending("", len(steps) - 1 - found[0], found[1])
    if sums_to_one(rows):
        return Ending("", 0, "none", note=PROBABILITIES)
    if not is_bounded(steps, spots[-_FARTHEST:], output):
        return Ending()
    if rows.shape[1] > 1:
        return Ending("", 0, "none", note=PROBABILITIES)
    return Ending("", 0, "sigmoid", inverted=True, note="the model returns a probability; its log-odds are explained")


# --- what a model returns ---------------------------------------------------------------------------------------------


def named_tensors(returned: object, path: str = "") -> Iterator[NamedTensor]:
    """Every tensor in nested tuples, lists, mappings and dataclasses, with its path."""
    if isinstance(returned, Tensor):
        yield NamedTensor(path, returned)
    for key, part in _parts(returned):
        yield from named_tensors(part, f"{path}.{key}" if path else str(key))


def _parts(returned: object) -> list[tuple[Any, Any]]:
    if isinstance(returned, Mapping):
        return list(returned.items())
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        return [(field.name, getattr(returned, field.name)) for field in dataclasses.fields(returned)]
    if isinstance(returned, tuple) and hasattr(returned, "_fields"):
        return list(zip(returned._fields, returned, strict=True))
    if isinstance(returned, list | tuple):
        return list(enumerate(returned))
    return list(enumerate(returned.to_tuple())) if hasattr(returned, "to_tuple") else []


def choose_output(returned: object, batch: int, expected: Expected) -> NamedTensor:
    """The tensor that is the logits, by what the user says, by class names, by its own name, by declared classes.

    Args:
        returned: what the model returned.
        batch: for how many inputs.
        expected: what is known of the logits.

    Raises:
        ModelError: no tensor looks like logits (B, K), or several do and nothing tells which they are.

    Example:
        >>> choose_output({"embedding": torch.zeros(2, 9), "logits": torch.zeros(2, 5)}, 2, Expected()).path
        'logits'
    """
    every = list(named_tensors(returned))
    if expected.output is not None:
        return _asked(every, returned, batch, expected.output)
    likely = [named for named in every if _like_logits(named.tensor, batch)]
    if not likely and batch == 1 and isinstance(returned, Tensor) and returned.ndim == 1 and len(returned):
        return every[0]  # the batch axis is squeezed away
    likely = list({id(tensor.tensor): tensor for tensor in reversed(likely)}.values())[::-1]
    if not likely:
        if isinstance(returned, Tensor) and returned.ndim and len(returned) != batch:
            raise OtherRowsError(
                f"the model gave logits {tuple(returned.shape)} for {batch} inputs; expected a row for each input "
                "(does it squeeze the batch axis away?)"
            )
        raise ModelError(_advice(returned, every, batch))
    by_names = _of_width(likely, expected.named)
    for names in _NAMES:
        if len(choice := _of_names(by_names, names)) == 1:
            return choice[0]
    serious = [named for named in by_names if named.name.endswith("logits") or not _says_otherwise(named.path)]
    if len(by_names) == 1 and (serious or as_rows(by_names[0].tensor).shape[1] == expected.named):
        return by_names[0]
    for choice in (_of_width(serious, expected.declared), _not_activated(serious)):
        if len(choice) == 1:
            return choice[0]
    if not serious and len(by_names) == 1:
        path = by_names[0].path
        raise ModelError(
            f"the model returns {_listed(every)}: of these {path} alone has a row for each input, and its name says "
            "that it is no logits; put a head behind it that gives class scores, or explain it all the same: "
            f"output={path!r}"
        )
    raise ModelError(
        f"the model returns several tensors that could be its logits ({_listed(likely)}), and nothing tells which they "
        f"are; say it by output={(serious or likely)[-1].path!r}, or give the names of its classes"
    )


def _says_otherwise(path: str) -> bool:
    return any(word in path.lower() for word in _NO_LOGITS)


def _asked(every: Sequence[NamedTensor], returned: object, batch: int, output: str | int) -> NamedTensor:
    wanted = str(output)
    parts = _parts(returned)
    if wanted.lstrip("-").isdigit() and -len(parts) <= int(wanted) < len(parts):
        wanted = str(parts[int(wanted)][0])
    fitting = [one for one in every if one.path == wanted]
    fitting = fitting or [one for one in every if one.path.startswith(f"{wanted}.")]
    fitting = fitting or [one for one in every if one.path.endswith(f".{wanted}")]
    if not every or len(fitting) != 1:
        what = "is no tensor" if not fitting else f"has several tensors, {_listed(fitting)}"
        raise ModelError(f"output={output!r} {what}; the model returns {_listed(every)}; name one of these")
    if not _like_logits(fitting[0].tensor, batch):
        raise ModelError(
            f"output={output!r} has shape {tuple(fitting[0].tensor.shape)} for {batch} inputs, and logits are "
            f"(batch, classes), floating; the model returns {_listed(every)}; name another"
        )
    return fitting[0]


def _like_logits(tensor: Tensor, batch: int) -> bool:
    if not tensor.is_floating_point() or tensor.ndim == 0 or tensor.numel() == 0:
        return False
    return tensor.shape[0] == batch and (tensor.ndim == 1 or tensor[0, 0].numel() == 1)


def _of_width(tensors: list[NamedTensor], classes: int | None) -> list[NamedTensor]:
    """Those with so many classes, a single logit standing for two; all if there are none, or nothing is known."""
    if classes is None:
        return tensors
    exact = [named for named in tensors if as_rows(named.tensor).shape[1] == classes]
    single = [named for named in tensors if as_rows(named.tensor).shape[1] == 1 and classes == 2]
    return exact or single or tensors


def _of_names(tensors: list[NamedTensor], names: Sequence[str]) -> list[NamedTensor]:
    fitting = [named for named in tensors if named.name in names]
    outermost = min((named.path.count(".") for named in fitting), default=0)
    return [named for named in fitting if named.path.count(".") == outermost]


def _not_activated(tensors: list[NamedTensor]) -> list[NamedTensor]:
    """Where each other one is an activation of one of them, that one."""
    return [
        named
        for named in tensors
        if all(
            other is named or activation_between(as_rows(named.tensor), as_rows(other.tensor)) is not None
            for other in tensors
        )
    ]


def listed(returned: object) -> str:
    """What a model returned, for messages."""
    return _listed(list(named_tensors(returned)))


def _listed(tensors: Sequence[NamedTensor]) -> str:
    shapes = [f"{path or 'a tensor'} {tuple(tensor.shape)}" for path, tensor in tensors[:_MOST_LISTED]]
    return ", ".join(shapes) + (", …" if len(tensors) > _MOST_LISTED else "") or "no tensor"


def _advice(returned: object, every: Sequence[NamedTensor], batch: int) -> str:
    """Why there is nothing to explain, and what to do."""
    saw = f"the model returned no logits of shape (batch, classes); it returned {_listed(every)}"
    inside = "camlucida.pytorch.readouts"
    names = {named.name for named in every}
    if {"boxes", "scores", "labels"} <= names:
        return (f"{saw}, as a detector does; to explain a detection, wrap the model in {inside}.BoxScore with the box "
                "and its label, and name a layer")  # fmt: skip
    spatial = [named.tensor for named in every if named.tensor.ndim >= 3 and named.tensor.shape[0] == batch]
    if spatial and any(tensor.ndim >= 4 for tensor in spatial):
        return (f"{saw}, values at every place: a segmenter's are explained by wrapping the model in "
                f"{inside}.MaskScore with a mask; a backbone needs a head that pools them to class scores")  # fmt: skip
    if spatial:
        return (f"{saw}, values of tokens or boxes: put a head behind them that gives class scores, or for a detector "
                f"{inside}.BoxScore, for a segmenter MaskScore")  # fmt: skip
    if any(named.tensor.ndim == 0 for named in every):
        return f"{saw}, a loss or another single number; let its forward return the logits, a row for each input"
    return f"{saw}; let its forward return the logits, a row for each input"


def as_rows(logits: Tensor, batch: int | None = None) -> Tensor:
    """Logits (B, K), whatever axes of one they have or lack; of one input also where they lack the batch axis."""
    if logits.ndim == 1 and batch == 1 and len(logits) > 1:
        return logits[None]
    return logits[:, None] if logits.ndim == 1 else logits.flatten(1)
