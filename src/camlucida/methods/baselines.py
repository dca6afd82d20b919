"""Maps that know nothing of the network, to hold others against."""

from __future__ import annotations

import torch
from torch import Tensor

from camlucida.methods.forward_pass import ForwardPass, Maps
from camlucida.methods.masked_inputs import positive
from camlucida.targets import Targets


def random(forward_pass: ForwardPass, targets: Targets, *, seed: int = 0) -> Maps:
    """A random map over the features' grid, drawn once from ``seed``. Cost: no pass.

    Options:
        seed: of the map.

    Returns:
        maps (B, T, *grid) in [0, 1), no bias.
    """
    generator = torch.Generator().manual_seed(seed)
    return _everywhere(torch.rand(forward_pass.features.shape[2:], generator=generator), forward_pass, targets)


def centre(forward_pass: ForwardPass, targets: Targets, *, deviation: float = 0.25) -> Maps:
    """A Gaussian around the input's centre, at the features' grid. Cost: no pass.

    Options:
        deviation: σ along each axis, in sides of the input.

    Returns:
        maps (B, T, *grid) in (0, 1], no bias.
    """
    positive("centre", deviation=deviation)
    axes = [(torch.arange(cells, dtype=torch.float64) + 0.5) / cells - 0.5 for cells in forward_pass.features.shape[2:]]
    square = sum(axis**2 for axis in torch.meshgrid(*axes, indexing="ij"))
    return _everywhere(torch.exp(-0.5 * torch.as_tensor(square) / deviation**2), forward_pass, targets)


def _everywhere(grid: Tensor, forward_pass: ForwardPass, targets: Targets) -> Maps:
    return Maps(grid.to(forward_pass.features).expand(*targets.ids.shape, *grid.shape).clone(), None)
