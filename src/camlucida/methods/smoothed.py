"""Any method smoothed: maps averaged over changes of the input that should not matter."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camlucida.errors import MethodError
from camlucida.images.symmetries import transformed, undone
from camlucida.methods.forward_pass import Compute, ForwardPass, Maps
from camlucida.methods.registry import Method, Need, find_method
from camlucida.targets import Targets


def smoothed(method: str | Compute, *, flips: bool = True, gains: Sequence[float] = (0.9, 1.0, 1.1)) -> Compute:
    """A method smoothed by test-time augmentation: the mean of its maps over flipped and multiplied inputs.

    Each preprocessed input x is seen as g x for every gain g, and mirrored along its last direction (left and right of
    pictures); maps of mirrored inputs are mirrored back. Nothing is rectified or scaled before averaging, so for a
    decomposition ``map.sum() + bias`` is the mean of the scores of these inputs, which is then the explained score.
    The defaults are those of grad-cam's ``aug_smooth`` (Gildenblat and contributors, software, 2021).

    Cost: as the method's, times the number of different inputs (six).

    Args:
        method: a name from ``camlucida methods``, or a function ``(pass, targets) -> Maps``.
        flips: whether the mirrored inputs count too.
        gains: the factors; not 0.

    Returns:
        What ``explain`` takes as ``method``; its name is "gradcam (smoothed)", its unit that of the method.

    Raises:
        MethodError: there is no such method, or the gains are none, 0 or not finite.

    Example:
        >>> smoothed("gradcam", gains=(1.0,)).__name__
        'gradcam (smoothed)'
    """
    if not gains or not all(math.isfinite(gain) and gain != 0 for gain in gains):
        raise MethodError(f"smoothed: expected gains that are finite and not 0, at least one; got {tuple(gains)}")
    return Smoothed(find_method(method), flips, tuple(gains))


@dataclass(frozen=True)
class Smoothed:
    """See ``smoothed``."""

    method: Method
    flips: bool
    gains: tuple[float, ...]

    @property
    def __name__(self) -> str:
        return f"{self.method.name} (smoothed)"

    @property
    def needs(self) -> tuple[Need, ...]:
        """Of a pass."""
        return self.method.needs

    @property
    def unit(self) -> str:
        """Of the maps."""
        return self.method.unit

    def __call__(self, forward_pass: ForwardPass, targets: Targets) -> Maps:
        """Maps (B, T, *grid), the bias (B, T) if the method gives one, and the mean scores (B, T)."""
        parts = [
            self._maps_of(forward_pass, targets, *how)
            for how in itertools.product(self.gains, (False, True)[: 1 + self.flips])
        ]
        biases = [part.bias for part in parts if part.bias is not None]
        scores = [part.scores for part in parts if part.scores is not None]
        return Maps(_mean([part.maps for part in parts]), _mean(biases) if biases else None, _mean(scores))

    def _maps_of(self, forward_pass: ForwardPass, targets: Targets, gain: float, flip: bool) -> Maps:
        same = gain == 1 and not flip
        other = forward_pass if same else forward_pass.again(transformed(forward_pass.inputs, 0, flip) * gain)
        maps, bias, scores = self.method.compute(other, targets)
        return Maps(undone(maps, 0, flip), bias, targets.of(other.logits) if scores is None else scores)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack([tensor.detach() for tensor in tensors]).mean(0)
