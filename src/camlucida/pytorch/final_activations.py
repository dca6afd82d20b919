"""Which activation stands between two values of a pass, and whether values are probabilities: told by numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from camlucida.pytorch.tape import TapeStep, replay
from camlucida.targets import Activation

PROBABILITIES = (
    "the model returns probabilities that are no activation of one set of logits: these are explained as they are, "
    "in probability"
)

_ACTIVATIONS: tuple[tuple[Activation, Callable[[Tensor], Tensor]], ...] = (
    ("softmax", lambda logits: logits.softmax(1)),
    ("softmax", lambda logits: logits.log_softmax(1)),
    ("sigmoid", torch.sigmoid),
    ("sigmoid", F.logsigmoid),
)
_CLOSE = 0.02
"""Clamps, roundings and cast may move probabilities by this share of their range, or of what they differ by."""


@torch.no_grad()
def activation_between(logits: Tensor, output: Tensor) -> Activation | None:
    """Which activation makes ``output`` (B, K) of ``logits`` (B, K); None if none does.

    Example:
        >>> rows = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
        >>> activation_between(rows, rows.softmax(1).clamp(1e-6, 1)), activation_between(rows, 2 * rows)
        ('softmax', None)
    """
    if logits.shape != output.shape or not output.is_floating_point():
        return None
    before, after = logits.detach().double(), output.detach().double()
    rounding = 2 * torch.finfo(output.dtype).eps + 2 * torch.finfo(logits.dtype).eps
    for activation, function in _ACTIVATIONS:
        if activation == "softmax" and logits.shape[1] == 1:
            continue
        made = function(before)
        # Other values of the pass are of another spread: the differences must agree, however small they are.
        spread = float((after - after.mean(0 if after.shape[1] == 1 else 1, keepdim=True)).abs().max())
        if float((made - after).abs().max()) <= _CLOSE * spread + rounding * float(after.abs().max()):
            return activation
    return None


def sums_to_one(rows: Tensor) -> bool:
    """Whether each row is a distribution over two or more classes."""
    if rows.shape[1] < 2 or not rows.is_floating_point():
        return False
    values = rows.detach().double()
    slack = 3e-4 if rows.dtype in (torch.float32, torch.float64) else 2e-2
    return bool((values >= -1e-6).all()) and bool(((values.sum(1) - 1).abs() <= slack).all())


@torch.no_grad()
def is_bounded(steps: Sequence[TapeStep], spots: Sequence[tuple[int, int]], output: Tensor) -> bool:
    """Whether an output in [0, 1] stays there whatever one of the values before it is, as probabilities do.

    The last steps are run again on much larger values of either sign, from each of the last values that everything
    passes through; logits would leave the range.

    Args:
        steps: on the way to the output.
        spots: (step, output) of the values that everything passes through.
        output: (B, …).
    """
    if not output.is_floating_point() or float(output.min()) < 0 or float(output.max()) > 1:
        return False
    generator = torch.Generator().manual_seed(0)
    for index, place in reversed(spots[:-1]):
        value = steps[index].tensors[place]
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator).to(value)
        others = [scale * some for scale in (1.0, 30.0, 1e3, 1e6) for some in (noise, noise.abs(), -noise.abs())]
        try:
            seen = [replay(steps[index + 1 :], {id(value): other})[id(output)].double() for other in others]
        except RuntimeError:
            continue
        finite = [values[values.isfinite()] for values in seen]  # exponentials written out may overflow
        values = torch.cat(finite)
        bounded = len(finite[-1]) and float(values.min()) >= -1e-6 and float(values.max()) <= 1 + 1e-6
        if bounded and float(values.max() - values.min()) > 0.5:
            return True
    return False
