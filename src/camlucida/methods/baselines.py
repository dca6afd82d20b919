"""Maps that know nothing of the network, to hold others against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from camlucida.methods._masking import positive
from camlucida.methods.registry import Maps, method

if TYPE_CHECKING:
    from torch import Tensor

    from camlucida.pytorch.engine import Pass
    from camlucida.targets import Targets


@method(
    "random",
    summary="M(u) uniform in [0, 1), the same for every picture and target",
    paper="a baseline: what a map that knows nothing scores",
    unit="uniform in [0, 1)",
)
def random(passed: Pass, targets: Targets, *, seed: int = 0) -> Maps:
    """A random map over the features' grid, drawn once from ``seed``. Cost: no pass.

    Args:
        passed: the forward pass.
        targets: the scores, for their number.
        seed: of the map.

    Returns:
        maps (B, T, *grid) in [0, 1), no bias.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    return _everywhere(torch.rand(passed.features.shape[2:], generator=generator), passed, targets)


@method(
    "centre",
    summary="M(u) = exp(-|u|² / 2σ²), u from the centre in sides of the input: pictures are taken of what is in them",
    paper="a baseline: the centre prior of photographs",
    unit="Gaussian, 1 at the centre",
)
def centre(passed: Pass, targets: Targets, *, deviation: float = 0.25) -> Maps:
    """A Gaussian around the input's centre, at the features' grid. Cost: no pass.

    Args:
        passed: the forward pass.
        targets: the scores, for their number.
        deviation: σ along each axis, in sides of the input.

    Returns:
        maps (B, T, *grid) in (0, 1], no bias.
    """
    import torch

    positive("centre", deviation=deviation)
    axes = [(torch.arange(cells, dtype=torch.float64) + 0.5) / cells - 0.5 for cells in passed.features.shape[2:]]
    square = sum(axis**2 for axis in torch.meshgrid(*axes, indexing="ij"))
    return _everywhere(torch.exp(-0.5 * torch.as_tensor(square) / deviation**2), passed, targets)


def _everywhere(one: Tensor, passed: Pass, targets: Targets) -> Maps:
    return Maps(one.to(passed.features).expand(*targets.ids.shape, *one.shape).clone(), None)
