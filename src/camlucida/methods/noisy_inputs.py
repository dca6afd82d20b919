"""Noisy copies of inputs, the same for every picture, whatever else is in its batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from camlucida.errors import MethodError


def noisy(inputs: Tensor, samples: int, noise: float, seed: int) -> Iterator[Tensor]:
    """Inputs with Gaussian noise, ``samples`` times.

    Args:
        inputs: (B, C, *space), any floating type.
        samples: how many copies.
        noise: standard deviation, as a share of each picture's own range (maximum - minimum).
        seed: of the noise, which is the same for every picture.

    Raises:
        MethodError: no samples, or negative noise.
    """
    at_least("samples", samples)
    if noise < 0:
        raise MethodError(f"noise: expected a share of the range of at least 0, got {noise}")
    axes = tuple(range(1, inputs.ndim))
    spread = noise * (inputs.amax(axes, keepdim=True) - inputs.amin(axes, keepdim=True))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(samples):
        draw = torch.randn(inputs.shape[1:], generator=generator, dtype=torch.float64)
        yield inputs + spread * draw.to(inputs.dtype).to(inputs.device)


def at_least(name: str, count: int, least: int = 1) -> None:
    """Refuse a count that is too small.

    Example:
        >>> at_least("steps", 0)
        Traceback (most recent call last):
        camlucida.errors.MethodError: steps: expected a whole number of at least 1, got 0
    """
    if count < least:
        raise MethodError(f"{name}: expected a whole number of at least {least}, got {count}")
