"""A forward pass of a torch classifier as a whole: its logits, and the model again on other inputs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor, nn

from camlucida.errors import MethodError, first_line
from camlucida.pytorch.model_call import ModelCall
from camlucida.pytorch.outputs import Ending, as_rows
from camlucida.pytorch.tape import Tape
from camlucida.targets import Activation, Score


class ModelPass:
    """What any pass of a torch classifier offers, whether or not its features are known.

    Attributes:
        inputs: (B, C, *space), the preprocessed inputs, in the model's own floating-point type.
        logits: (B, K), detached; float32, or float64 for float64 models.
        call: what ran, and runs again.
        ending: what the model does with its logits before it returns them.
    """

    def __init__(self, call: ModelCall, inputs: Tensor, logits: Tensor, ending: Ending, precise: torch.dtype) -> None:
        self.call, self.inputs, self.ending = call, inputs, ending
        self.logits = as_rows(logits.detach().to(precise), len(inputs))

    @property
    def model(self) -> nn.Module:
        """The network, in evaluation mode while a method computes."""
        return self.call.module

    @property
    def activation(self) -> Activation | None:
        """What the model itself applies to its logits, if it ends in one."""
        return self.ending.activation

    @property
    def takes_more(self) -> bool:
        """Whether the model takes more than pictures, so that like pictures may have unlike scores."""
        return self.call.arguments.more

    @cached_property
    def fast_format(self) -> torch.memory_format:
        """How many inputs are best laid out in memory: channels last where CPU convolutions run faster so (float32
        pictures; measured 1.3 to 1.4 times on a ResNet-50) and the model takes it, which one pass tries.
        """
        if self.inputs.ndim == 4 and self.inputs.device.type == "cpu" and self.inputs.dtype == torch.float32:
            first = self.inputs[:1].contiguous(memory_format=torch.channels_last)
            try:
                self.predict(first, pictures=torch.zeros(1, dtype=torch.long))
            except RuntimeError:  # the model views its features as if channels came first
                return torch.contiguous_format
            return torch.channels_last
        return torch.contiguous_format

    def forward(self, inputs: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Logits (N, K) of other inputs (N, C, *space) by a pass of the whole model; a final activation is left out.

        Differentiable where gradients are on.

        Args:
            inputs: the other inputs.
            pictures: (N,), of which picture of this pass each is a changed one; not needed where they are as many.
        """
        call = self.call if pictures is None else self.call.for_pictures(pictures.tolist())
        parts = [logits_of(part_call, part, self.ending)[:count] for part_call, part, count in call.portions(inputs)]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(self.logits.dtype)

    def predict(self, inputs: Tensor, most: int = 32, pictures: Tensor | None = None) -> Tensor:
        """Logits (N, K) of other inputs (N, C, *space), by plain forward passes of at most ``most`` inputs."""
        call = self.call if pictures is None else self.call.for_pictures(pictures.tolist())
        with torch.no_grad():
            parts = [
                logits_of(part_call, part, self.ending)[:count]
                for part_call, part, count in call.portions(inputs, most)
            ]
            return torch.cat(parts).to(self.logits.dtype)

    def input_gradients(self, score: Score, inputs: Tensor | None = None) -> Tensor:
        """Gradients (B, T, C, *space) of scores with respect to the inputs (or others of their shape).

        Runs backward through the whole network, whose parameters get no gradient.

        Raises:
            MethodError: the network gives no gradients.
        """
        leaf = (self.inputs if inputs is None else inputs).detach().clone().requires_grad_()
        with torch.enable_grad():
            logits = self.forward(leaf)
            scores = score(logits)
        return torch.stack(list(input_gradients_of(logits, scores, leaf)), 1)


def logits_of(call: ModelCall, inputs: Tensor, ending: Ending) -> Tensor:
    """Logits (N, K) of one plain pass; recorded only where a final activation is to be left out."""
    own = inputs.clone()  # a model may normalize its input in place
    if not ending.changes:
        return as_rows(ending.output(call(own)), len(inputs))
    with Tape(call.sources(own)) as tape:
        returned = call(own)
    return as_rows(ending.logits(tape, returned)[1], len(inputs))


def input_gradients_of(logits: Tensor, scores: Tensor, leaf: Tensor) -> Iterator[Tensor]:
    """The gradient of one column of scores (B, T) after the other with respect to the inputs.

    Raises:
        MethodError: the network gives none, or refuses; the message says why and names methods that need none.
    """
    instead = "take a method that needs scores alone, such as rise or occlusion"
    none = "no gradient leads from the model's scores to its inputs (no_grad, detach or whole numbers on the way)"
    if not logits.requires_grad:
        raise MethodError(f"{none}; {instead}")
    try:
        yield from each_gradient_of(scores, leaf, needed=True)
    except RuntimeError as error:
        why = first_line(error)
        if "not have been used" in why:
            raise MethodError(f"{none}; {instead}") from error
        if "use_reentrant" in str(error):
            why = "its checkpoints are reentrant; make them with use_reentrant=False"
        raise MethodError(f"the gradients of the model's inputs cannot be had: {why}; or {instead}") from error


def each_gradient_of(scores: Tensor, leaf: Tensor, *, needed: bool = False, keep: bool = False) -> Iterator[Tensor]:
    """The gradient of one column of scores (B, T) after the other with respect to ``leaf``, each of its shape.

    Zero where the scores do not depend on it; a RuntimeError if it is ``needed``. With ``keep`` the scores can be gone
    back through again.
    """
    if not scores.requires_grad:
        yield from (torch.zeros_like(leaf) for _ in range(scores.shape[1]))
        return
    with torch.enable_grad():
        columns = scores.sum(0).unbind()
    for t, column in enumerate(columns):
        more = keep or t < len(columns) - 1
        (gradient,) = torch.autograd.grad(column, leaf, retain_graph=more, allow_unused=not needed)
        yield torch.zeros_like(leaf) if gradient is None else gradient
