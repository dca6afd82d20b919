"""One recorded forward pass, as the search for the features sees it: its values, their layouts, what reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from camlucida.pytorch.grid import MOST_PREFIX_TOKENS, Layout, candidates, frame_candidates
from camlucida.pytorch.head import RecordedFunction, passes_gradient
from camlucida.pytorch.model_call import ModelCall
from camlucida.pytorch.tape import TapeStep, Value, bottlenecks, on_the_way, tensors_in, value_of

_ACTIVATIONS = {"relu", "relu6", "leaky_relu", "elu", "celu", "selu", "silu", "gelu", "mish", "softplus", "hardtanh",
                "hardswish", "hardsigmoid", "tanh", "sigmoid", "clamp", "abs", "dropout"}  # fmt: skip
_WEIGHTS = 27
"""A constant of so many numbers, 3 × 3 × 3 say, was learned; fewer are the means and deviations of colours."""
_JOINING = {"cat", "concat", "concatenate", "hstack", "column_stack", "pad", "__setitem__", "index_copy", "scatter"}


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

    @cached_property
    def of_pictures(self) -> set[Value]:
        """The values that depend on the pictures, and not on other arguments alone."""
        reached = {value for step in self.steps for value in step.inputs if value[0] == id(self.batch)}
        for step in self.steps:
            if reached.intersection(step.inputs):
                reached.update(step.outputs)
        return reached

    @cached_property
    def first_vector(self) -> int | None:
        """The step behind which everything was made of one pooled vector (B, C): nothing has a grid any more."""
        for value in self.bottlenecks:
            read = {name for name, _ in value.step.inputs}
            before = [tensor for tensor in tensors_in((value.step.args, value.step.kwargs)) if id(tensor) in read]
            shrinks = any(tensor.numel() > value.tensor.numel() for tensor in before)
            vector = value.tensor.is_floating_point() and value.tensor.ndim >= 2 and value.tensor[0, 0].numel() == 1
            if shrinks and vector:
                return value.index
        return None

    @property
    def end(self) -> Value:
        """The logits' value."""
        return value_of(self.logits)

    @cached_property
    def bottlenecks(self) -> tuple[RecordedValue, ...]:
        """The values through which every path from the input to the logits leads, first to last."""
        return tuple(RecordedValue(self, *place) for place in bottlenecks(self.steps, self.end))

    @cached_property
    def makers(self) -> dict[Value, RecordedValue]:
        """Who made each value; a call that hands its argument on makes nothing."""
        made: dict[Value, RecordedValue] = {}
        for index, step in enumerate(self.steps):
            for output, name in enumerate(step.outputs):
                made.setdefault(name, RecordedValue(self, index, output))
        return made

    @cached_property
    def readout(self) -> Tensor:
        """The logits; where a head of zeros makes them blind to everything, the last value before that is not."""
        end = self.logits
        for value in reversed(self.bottlenecks[:-1]):
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
    def name(self) -> Value:
        """Its name on the tape."""
        return self.step.outputs[self.output]

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
        if not self.tensor.is_floating_point() or self.name not in self.run.of_pictures:
            return []
        if self.run.first_vector is not None and self.index > self.run.first_vector:
            return []
        prefixes = self._prefixes if self.tensor.ndim == 3 else [0]
        whole = candidates(self.tensor.shape, self.run.batch.shape[0], self.run.batch.shape[2:], prefixes)
        return frame_candidates(self.tensor.shape, self.run.batch.shape) + [
            layout for layout in whole if layout.likely or layout.has_axes or self.was_grid(layout.grid)
        ]

    @property
    def _prefixes(self) -> list[int]:
        """How many tokens may stand before a grid here: none, or as many as were joined to fewer tokens before."""
        lengths = set(self.tensor.shape[1:])
        joined = {0}
        for step in self.run.steps[: self.index + 1]:
            if step.name not in _JOINING or not lengths & set(step.tensors[0].shape[1:]):
                continue
            for tensor in tensors_in((step.args, step.kwargs)):
                for whole, part in zip(step.tensors[0].shape[1:], tensor.shape[1:], strict=False):
                    joined |= {whole - part} if whole in lengths and 0 < whole - part <= MOST_PREFIX_TOKENS else set()
        return sorted(joined)

    def learned(self, since: RecordedValue | None = None) -> bool:
        """Whether parameters are read on the way here, from the input or from a value before it."""
        way = on_the_way(self.run.steps[since.index + 1 if since else 0 : self.index + 1], self.name)
        return any(map(_reads_weights, way))

    @cached_property
    def gradient(self) -> Tensor:
        """The gradient of a fixed random mixture of the logits here."""
        return _gradient(replace(self.head, end=self.run.readout)).float()

    def only_prefix_read(self, layouts: Sequence[Layout]) -> bool:
        """Whether, in one of these layouts, the logits read only the tokens before the grid."""
        return any(layout.prefix and _cells_read(layout, self.gradient) == 0 for layout in layouts)

    def cells_read(self, layouts: Sequence[Layout]) -> list[Layout]:
        """Those of the layouts in which the logits read more than one cell."""
        if not passes_gradient(self.head):
            return [layout for layout in layouts if self._halves_read(layout)]
        return [layout for layout in layouts if _cells_read(layout, self.gradient) > 1]

    @property
    def before_activations(self) -> RecordedValue:
        """The value that activations made this one of, element by element."""
        value = self
        while value.step.name in _ACTIVATIONS and len(value.step.outputs) == len(value.step.inputs) == 1:
            maker = self.run.makers.get(value.step.inputs[0])
            if value.step.changed or maker is None or maker.index >= value.index:
                break
            value = maker
        return value

    def was_grid(self, grid: tuple[int, ...]) -> bool:
        """Whether a value before this one has this grid as axes of its own."""
        shapes = (tuple(tensor.shape) for step in self.run.steps[: self.index] for tensor in step.tensors)
        return any(len(shape) == len(grid) + 2 and grid in (shape[2:], shape[1:-1]) for shape in shapes)

    def _halves_read(self, layout: Layout) -> bool:
        """Whether the logits change with either half of the cells, every other one; for heads without a gradient."""
        features = self.tensor.detach()
        cells = layout.on_grid(features)
        noise = torch.randn(cells.shape, generator=torch.Generator().manual_seed(0)).to(cells) * cells.std()
        odd = (torch.arange(cells[0, 0].numel()) % 2).reshape(cells.shape[2:]).to(cells)
        with torch.no_grad():
            before = self.head(features)
            after = [self.head(layout.put(features, cells + noise * half)) for half in (odd, 1 - odd)]
        return all(bool((logits != before).any()) for logits in after)


def _reads_weights(step: TapeStep) -> bool:
    return step.name == "scripted" or any(
        isinstance(tensor, nn.Parameter)
        or (tensor.ndim > 1 and tensor.numel() >= _WEIGHTS and value_of(tensor) not in step.inputs)
        for tensor in tensors_in((step.args, step.kwargs))
    )


def _gradient(part: RecordedFunction) -> Tensor:
    """Of a fixed random mixture of the part's end; zeros where none is to be had."""
    leaf = part.start.detach().clone().requires_grad_()
    gradient = None
    with torch.enable_grad(), contextlib.suppress(RuntimeError):  # values overwritten that the gradient needs
        logits = part(leaf.clone())
        if logits.requires_grad:
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
