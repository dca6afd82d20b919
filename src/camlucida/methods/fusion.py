"""Maps of several layers made one.

Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP 2021, section III.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from camlucida.errors import CamlucidaError
from camlucida.methods.masked_inputs import upsampled

UNIT = "fused over layers, in [0, 1]"
"""Of a fused map's values."""

SHALLOW = 4
"""Layers at least this many times as fine, per direction, as the coarsest are shallow: the first three of VGG-16's five
stages, which are those that the paper scales."""


def fused(maps: Sequence[Tensor], gamma: float = 2.0) -> Tensor:
    """The element-wise maximum of several layers' maps, each positive part as a share of its own maximum.

    Maps of shallow layers (see ``SHALLOW``) have few high values; they are scaled up first: tanh(γ M / max M), the
    paper's equation 9. Coarser maps are then interpolated to the finest grid, half-pixel and linear. A map with no
    positive value says nothing, and stays 0.

    Args:
        maps: of each layer, (B, T, *grid), signed, in any unit; grids differ, B and T do not.
        gamma: the scale of shallow layers' maps; the paper has 2.

    Returns:
        (B, T, *grid) at the finest grid, in [0, 1]. It is no decomposition of the score.

    Raises:
        CamlucidaError: there are no maps, or they are not of the same inputs and targets.

    Example:
        >>> fused([torch.tensor([[[0.0, 1.0, 2.0, -1.0]]]), torch.tensor([[[8.0, 4.0]]])])
        tensor([[[1.0000, 0.8750, 1.0000, 0.5000]]])
    """
    if not maps or len({(*layer.shape[:2], layer.ndim) for layer in maps}) > 1 or not 3 <= maps[0].ndim <= 5:
        shapes = ", ".join(str(tuple(layer.shape)) for layer in maps) or "none"
        raise CamlucidaError(f"fusion: expected maps (B, T, *grid) of one B and T, in 1 to 3 directions; got {shapes}")
    finest = tuple(max(sizes) for sizes in zip(*(layer.shape[2:] for layer in maps), strict=True))
    coarsest = min(math.prod(layer.shape[2:]) for layer in maps)
    shares = []
    for layer in maps:
        positive = layer.relu()
        top = positive.flatten(2).amax(2).reshape(*layer.shape[:2], *(1,) * (layer.ndim - 2))
        share = positive / top.masked_fill(top == 0, 1)
        if math.prod(layer.shape[2:]) >= SHALLOW ** (layer.ndim - 2) * coarsest:
            share = (gamma * share).tanh()
        if share.shape[2:] != finest:
            share = upsampled(share, finest)
        shares.append(share)
    return torch.stack(shares).amax(0)
