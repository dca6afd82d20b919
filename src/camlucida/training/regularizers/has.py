"""Hide-and-Seek: hide random patches of a picture, so that the network must use more than its best-known part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camlucida.errors import TrainingError
from camlucida.training.regularizers.regularizer import Regularizer

MIXED = (0, 4, 5, 7, 14)
"""Patches along the shorter side, one of which is drawn for each picture: the paper's patches of 56, 44, 32 and 16
pixels in pictures of 224, and none."""


def hidden(size_hw: tuple[int, int], parts: int, rate: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Which pixels of a picture are hidden, bool H×W: each of its square patches for itself, with probability ``rate``.

    ``parts`` patches fit along the shorter side; 0 hides nothing. They begin at the upper left corner; those at the
    right and lower edges may be cut off. One number a patch is drawn, in reading order.

    >>> hidden((4, 4), 2, 0.5, np.random.default_rng(0)).astype(int)
    array([[0, 0, 1, 1],
           [0, 0, 1, 1],
           [1, 1, 1, 1],
           [1, 1, 1, 1]])
    """
    height, width = size_hw
    if not parts:
        return np.zeros(size_hw, np.bool_)
    side = math.ceil(min(size_hw) / parts)
    patches = generator.random((math.ceil(height / side), math.ceil(width / side))) < rate
    return patches.repeat(side, 0).repeat(side, 1)[:height, :width]


@dataclass(frozen=True)
class HaS(Regularizer):
    """Singh & Lee, "Hide-and-Seek: Forcing a Network to be Meticulous", ICCV 2017, section 3.

    Each picture of a batch gets a patch size by chance (the paper's mixed sizes) and each of its patches is hidden by
    chance. Hidden pixels become the data's mean colour, for which the batch's mean stands here, so that the first
    layer's activations keep the expectation that they have at test time.

    Attributes:
        rate: the probability that a patch is hidden.
        parts: patches along the shorter side; 0: the paper's mixed sizes (``MIXED``).
    """

    rate: float = 0.5
    parts: float = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise TrainingError(f"has: rate is a probability in [0, 1], got {self.rate:g}")
        if self.parts < 0 or self.parts != int(self.parts):
            raise TrainingError(f"has: parts counts patches along a side, 0 or more, got {self.parts:g}")

    def batch(self, images: Tensor, targets: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Hide patches of each picture; images may be normalized in any way, targets are returned as they are."""
        size_hw = (images.shape[-2], images.shape[-1])
        masks = []
        for _ in range(len(images)):
            parts = int(self.parts) or int(generator.choice(MIXED))
            masks.append(hidden(size_hw, parts, self.rate, generator))
        mask = torch.from_numpy(np.stack(masks)).to(images.device)
        return torch.where(mask[:, None], images.mean((0, 2, 3), keepdim=True), images), targets
