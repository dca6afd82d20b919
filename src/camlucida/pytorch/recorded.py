"""One recorded forward pass, as the search for the features looks at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from camlucida.pytorch.grid import Layout, candidates
from camlucida.pytorch.head import RecordedFunction
from camlucida.pytorch.tape import TapeStep, Value, bottlenecks, value_of


@dataclass(frozen=True)
class RecordedPass:
    """A recorded pass, for the search."""

    model: nn.Module
    batch: Tensor
    steps: list[TapeStep]
    logits: Tensor

    @property
    def end(self) -> Value:
        """The logits' value."""
        return value_of(self.logits)

    def part(self, index: int, output: int) -> RecordedFunction:
        """The steps from the ``output``-th tensor of step ``index`` to the logits."""
        start = self.steps[index].tensors[output]
        reached = {self.steps[index].outputs[output]}
        behind = []
        for step in self.steps[index + 1 :]:
            inputs = tuple(value for value in step.inputs if value in reached)
            if inputs:
                reached.update(step.outputs)
                behind.append(replace(step, inputs=inputs))  # what comes from elsewhere is a constant here
        return RecordedFunction(tuple(behind), start, self.logits)

    def layouts(self, index: int, output: int) -> list[Layout]:
        """How that tensor could lie over the input."""
        tensor = self.steps[index].tensors[output]
        if not tensor.is_floating_point():
            return []
        return candidates(tensor.shape, self.batch.shape[0], self.batch.shape[2:])

    @cached_property
    def readout(self) -> Tensor:
        """The logits; where a head of zeros makes them blind to everything, the last value before that is not."""
        end = self.logits
        for index, output in reversed(bottlenecks(self.steps, self.end)[:-1]):
            part = replace(self.part(index, output), end=end)
            if bool(_gradient(part).any()):
                return end
            end = part.start
        return self.logits

    def gradient(self, index: int, output: int) -> Tensor:
        """The gradient of a fixed random mixture of the logits at a value."""
        return _gradient(replace(self.part(index, output), end=self.readout)).float()


def _gradient(part: RecordedFunction) -> Tensor:
    leaf = part.start.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = part(leaf.clone())
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
        (gradient,) = torch.autograd.grad((logits * weights).sum(), leaf, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient


def cells_read(layout: Layout, gradient: Tensor) -> int:
    """At how many grid cells, in any picture of the batch, the gradient is not zero."""
    strength = layout.on_grid(gradient.abs()).sum(1).flatten(1)
    top = strength.amax()
    return int((strength > 1e-9 * top).sum(1).max()) if float(top) > 0 else 0


def only_prefix_read(layouts: Sequence[Layout], gradient: Tensor) -> bool:
    """Whether only the tokens before the grid are read."""
    return any(layout.prefix and cells_read(layout, gradient) == 0 for layout in layouts)


def some_layers(model: nn.Module) -> str:
    """Names of the model's last larger modules, for messages."""
    names = [name for name, _ in model.named_modules() if name and name.count(".") <= 1]
    return ", ".join(names[-8:]) or "its submodules"
