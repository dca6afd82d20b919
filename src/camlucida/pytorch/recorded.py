"""One recorded forward pass, as the search for the features sees it: its values, their layouts, what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from camlucida.pytorch.grid import Layout, candidates
from camlucida.pytorch.head import RecordedFunction
from camlucida.pytorch.model_call import ModelCall
from camlucida.pytorch.tape import TapeStep, Value, bottlenecks, value_of


@dataclass(frozen=True, eq=False)
class RecordedPass:
    """A recorded pass, for the search: the steps on the way from a small batch to its logits."""

    call: ModelCall
    batch: Tensor
    steps: list[TapeStep]
    logits: Tensor

    @property
    def model(self) -> nn.Module:
        """What ran."""
        return self.call.module

    @property
    def end(self) -> Value:
        """The logits' value."""
        return value_of(self.logits)

    def bottlenecks(self) -> list[RecordedValue]:
        """The values through which every path from the input to the logits leads, first to last."""
        return [RecordedValue(self, *place) for place in bottlenecks(self.steps, self.end)]

    @cached_property
    def of_pictures(self) -> set[Value]:
        """The values that depend on the pictures, and not on other arguments alone."""
        reached = {value for step in self.steps for value in step.inputs if value[0] == id(self.batch)}
        for step in self.steps:
            if reached.intersection(step.inputs):
                reached.update(step.outputs)
        return reached

    @cached_property
    def readout(self) -> Tensor:
        """The logits; where a head of zeros makes them blind to everything, the last value before that is not."""
        end = self.logits
        for value in reversed(self.bottlenecks()[:-1]):
            part = replace(value.head, end=end)
            if bool(_gradient(part).any()):
                return end
            end = part.start
        return self.logits


@dataclass(frozen=True)
class RecordedValue:
    """The ``output``-th tensor that step ``index`` of a recorded pass made."""

    run: RecordedPass
    index: int
    output: int

    @property
    def step(self) -> TapeStep:
        """What made it."""
        return self.run.steps[self.index]

    @property
    def tensor(self) -> Tensor:
        """Its numbers."""
        return self.step.tensors[self.output]

    @property
    def head(self) -> RecordedFunction:
        """The steps from here to the logits; what comes from elsewhere is a constant there."""
        reached = {self.step.outputs[self.output]}
        behind = []
        for step in self.run.steps[self.index + 1 :]:
            inputs = tuple(value for value in step.inputs if value in reached)
            if inputs:
                reached.update(step.outputs)
                behind.append(replace(step, inputs=inputs))
        return RecordedFunction(tuple(behind), self.tensor, self.run.logits)

    @cached_property
    def layouts(self) -> list[Layout]:
        """How it could lie over the input."""
        if not self.tensor.is_floating_point() or self.step.outputs[self.output] not in self.run.of_pictures:
            return []
        return candidates(self.tensor.shape, self.run.batch.shape[0], self.run.batch.shape[2:])

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient of a fixed random mixture of the logits here."""
        return _gradient(replace(self.head, end=self.run.readout)).float()

    def only_prefix_read(self, layouts: Sequence[Layout]) -> bool:
        """Whether, in one of these layouts, the logits read only the tokens before the grid."""
        return any(layout.prefix and _cells_read(layout, self.gradient) == 0 for layout in layouts)

    def cells_read(self, layouts: Sequence[Layout]) -> list[Layout]:
        """Those of the layouts in which the logits read more than one cell."""
        return [layout for layout in layouts if _cells_read(layout, self.gradient) > 1]


def _gradient(part: RecordedFunction) -> Tensor:
    leaf = part.start.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = part(leaf.clone())
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
        (gradient,) = torch.autograd.grad((logits * weights).sum(), leaf, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient


def _cells_read(layout: Layout, gradient: Tensor) -> int:
    """At how many grid cells, in any picture of the batch, the gradient is not zero."""
    strength = layout.on_grid(gradient.abs()).sum(1).flatten(1)
    top = strength.amax()
    return int((strength > 1e-9 * top).sum(1).max()) if float(top) > 0 else 0


def some_layers(model: nn.Module) -> str:
    """Names of the model's last larger modules, for messages."""
    names = [name for name, _ in model.named_modules() if name and name.count(".") <= 1]
    return ", ".join(names[-8:]) or "its submodules"
