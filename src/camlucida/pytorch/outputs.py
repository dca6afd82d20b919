"""Where a model's logits are in what it returned, and the final activation that they went through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from camlucida.errors import ModelError
from camlucida.pytorch.tape import Tape, TapeStep, on_the_way, tensors_in, value_of
from camlucida.targets import Activation

_LAST_ACTIVATIONS: dict[str, Activation] = {"softmax": "softmax", "log_softmax": "softmax", "sigmoid": "sigmoid"}


@dataclass(frozen=True)
class Ending:
    """What a model does with its logits before it returns them, found once and used for every pass.

    Attributes:
        dropped: calls after the logits (a final softmax) that are left out.
        activation: what those are; None if there are none.
    """

    dropped: int = 0
    activation: Activation | None = None

    def logits(self, tape: Tape, output: object) -> tuple[list[TapeStep], Tensor]:
        """The steps of a recorded pass to the logits, and the logits, final activations left out."""
        logits = logits_in(output)
        return self.before(on_the_way(tape.steps, value_of(logits)), logits)

    def before(self, steps: list[TapeStep], output: Tensor) -> tuple[list[TapeStep], Tensor]:
        """Of the steps to the model's output, those to the logits, and the logits."""
        if not self.dropped:
            return steps, output
        steps = steps[: -self.dropped]
        return steps, steps[-1].tensors[0] if steps else output


def find_ending(steps: Sequence[TapeStep]) -> Ending:
    """The ending of a recorded pass, from the steps on the way to the model's output."""
    dropped = 0
    activation: Activation | None = None
    while dropped < len(steps) - 1 and steps[-1 - dropped].name in _LAST_ACTIVATIONS:
        activation = _LAST_ACTIVATIONS[steps[-1 - dropped].name]
        dropped += 1
    return Ending(dropped, activation)


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
