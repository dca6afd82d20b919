"""CutMix: paste a rectangle of another picture, and mix the labels by area."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from camlucida.errors import TrainingError
from camlucida.training.regularizers.regularizer import Regularizer


def rectangle(size_hw: tuple[int, int], share: float, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """A random rectangle of the picture's shape that covers a share of it (Yun et al., ICCV 2019, section 3.1).

    It is half-open xyxy pixels. Its centre is uniform over the picture (the row is drawn first), and what sticks out is
    cut off, so that it may cover less.

    >>> rectangle((8, 16), 0.25, np.random.default_rng(1))
    (4, 1, 12, 5)
    """
    height, width = size_hw
    half_height, half_width = (int(side * math.sqrt(share)) // 2 for side in size_hw)
    row, column = int(generator.integers(height)), int(generator.integers(width))
    x0, x1 = max(column - half_width, 0), min(column + half_width, width)
    y0, y1 = max(row - half_height, 0), min(row + half_height, height)
    return x0, y0, x1, y1


@dataclass(frozen=True)
class CutMix(Regularizer):
    """Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.

    Attributes:
        beta: of the Beta(beta, beta) distribution of the share that stays; 1 is uniform, as in the paper.
        rate: the probability that a batch is mixed at all.
    """

    beta: float = 1.0
    rate: float = 1.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise TrainingError(f"cutmix: beta must be above 0, got {self.beta:g}")
        if not 0 <= self.rate <= 1:
            raise TrainingError(f"cutmix: rate is a probability in [0, 1], got {self.rate:g}")

    def batch(self, images: Tensor, targets: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Mix each picture with another of its batch, by one rectangle and one order for the whole batch, and their
        targets (one-hot, multi-hot or already soft) by the rectangle's true share of the area.
        """
        if generator.random() >= self.rate:
            return images, targets
        height, width = images.shape[-2:]
        share = 1.0 - float(generator.beta(self.beta, self.beta))
        x0, y0, x1, y1 = rectangle((height, width), share, generator)
        others = torch.from_numpy(generator.permutation(len(images))).to(images.device)
        pasted = torch.zeros(height, width, dtype=torch.bool, device=images.device)
        pasted[y0:y1, x0:x1] = True
        share = (x1 - x0) * (y1 - y0) / (height * width)
        return torch.where(pasted, images[others], images), (1 - share) * targets + share * targets[others]
