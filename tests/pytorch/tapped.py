"""Networks that know their own evidence: the independent truth for maps, computed in plain float64 torch.

A network marks, in its own forward pass, where its last features lie (``tap``), which values are statistics of a
normalization (``still``), which evidence no cell carries (``aside``), and where its logits are (``scored``). In use the
marks do nothing: ``tap(x) is x``, and no torch call is made. ``truth_of`` runs a float64 copy with the marks awake.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Place = Callable[[Tensor], Tensor]
"""Cells (B, K, *cells) in the features' own order to where they lie on the input."""


@dataclass
class _Marks:
    """What an awake pass collects; with ``zero``, features and asides are zero and statistics those measured before."""

    zero: bool = False
    features: list[tuple[Tensor, int, Place | None]] = field(default_factory=list)
    statistics: list[Tensor] = field(default_factory=list)
    logits: Tensor | None = None


class Marked(nn.Module):
    """A module with the four marks. Submodules that are ``Marked`` share those of the outermost."""

    marks: _Marks | None = None

    def tap(self, features: Tensor, place: Place | None = None, channels: int = 1) -> Tensor:
        """The last features of a branch; ``place`` brings cells to their place on the input."""
        if self.marks is None:
            return features
        if self.marks.zero:
            return torch.zeros_like(features)
        own = features.clone()  # what else reads the features is another way to the logits
        if not own.requires_grad:
            own.requires_grad_()
        self.marks.features.append((own, channels, place))
        return own

    def still(self, statistic: Tensor) -> Tensor:
        """A normalization's statistic, held fixed while the head is explained.

        At zero features it is their own, so that the bias does not depend on the input, unless that is zero (the length
        of nothing): then whatever is divided by it is zero too.
        """
        if self.marks is None:
            return statistic
        if self.marks.zero:
            return torch.where(statistic == 0, self.marks.statistics.pop(0), statistic)
        self.marks.statistics.append(statistic.detach())
        return statistic.detach()

    def aside(self, evidence: Tensor) -> Tensor:
        """Evidence of this input that no cell carries."""
        return torch.zeros_like(evidence) if self.marks is not None and self.marks.zero else evidence

    def scored(self, logits: Tensor) -> Tensor:
        """The logits, where the network returns something else."""
        if self.marks is not None:
            self.marks.logits = logits
        return logits


class Net(Marked):
    """A network of named parts and a function ``(net, *inputs) -> output``."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Any, **more: Any) -> Any:
        return self.function(self, *inputs, **more)


@dataclass(frozen=True)
class Truth:
    """What a right explanation says.

    Attributes:
        logits: (B, K).
        maps: of each branch with a grid, (B, K, *grid), in logits per cell.
        bias: (B, K): the logits of zero features; the same for every input, unless the entry is wrong.
    """

    logits: Tensor
    maps: tuple[Tensor, ...]
    bias: Tensor

    @property
    def aside(self) -> Tensor:
        """(B, K): the evidence that no map explains."""
        return self.logits - self.bias - sum(one.flatten(2).sum(2) for one in self.maps)


def _awake(net: nn.Module, marks: _Marks | None) -> None:
    for module in net.modules():
        if isinstance(module, Marked):
            module.marks = marks


def _first(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = output[0]
    return output


def truth_of(net: nn.Module, inputs: Sequence[Tensor]) -> Truth:
    """The truth for a ``Marked`` network on one batch."""
    twin = copy.deepcopy(net).double().eval()
    for parameter in twin.parameters():
        parameter.requires_grad_(True)
    doubled = [one.double() if isinstance(one, Tensor) and one.is_floating_point() else one for one in inputs]
    # Features must lead back to something with a gradient: an input's own graph does for every network.
    doubled = [one.requires_grad_() if isinstance(one, Tensor) and one.is_floating_point() else one for one in doubled]
    marks = _Marks()
    _awake(twin, marks)
    with torch.enable_grad():
        output = twin(*doubled)
        logits = _rows(marks.logits if marks.logits is not None else _first(output))
        leaves = [one[0] for one in marks.features]
        if not leaves:
            return Truth(logits.detach(), (), torch.full_like(logits, torch.nan).detach())
        columns = [
            torch.autograd.grad(logits[:, k].sum(), leaves, retain_graph=True, allow_unused=True)
            for k in range(logits.shape[1])
        ]
    maps = []
    for i, (feature, channels, place) in enumerate(marks.features):
        one = torch.stack([torch.zeros_like(feature[:, :].sum(channels)) if column[i] is None
                           else (column[i] * feature).sum(channels) for column in columns], 1).detach()  # fmt: skip
        maps.append(one if place is None else place(one))
    zero = _Marks(zero=True, statistics=list(marks.statistics))
    _awake(twin, zero)
    with torch.no_grad():
        output = twin(*doubled)
    bias = _rows(zero.logits if zero.logits is not None else _first(output))
    return Truth(logits.detach(), tuple(maps), bias.detach().expand_as(logits))


def _rows(logits: Tensor) -> Tensor:
    return logits[:, None] if logits.ndim == 1 else logits.flatten(1)
