"""Regularizers: they change training batches, or the network while it trains, and leave no trace at test.

Add your own: a subclass of ``Regularizer`` and a word in the table at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camlucida.errors import TrainingError
from camlucida.training.backbones import Backbone
from camlucida.training.backbones.transformers import TokenBackbone
from camlucida.training.config import find_registered


class Regularizer:
    """Three hooks; a subclass, a frozen dataclass whose fields are its options, overrides those it needs.

    Everything random comes from the generator that is passed in, which belongs to one step of one process, so that a
    run that goes on draws what an undisturbed one draws.
    """

    def attach(self, backbone: Backbone) -> None:
        """Put layers between the stages of a new backbone; they have no weights, and do nothing in evaluation."""

    def draw(self, backbone: Backbone, generator: np.random.Generator) -> None:
        """Decide what the layers do in the coming step."""

    def batch(self, images: Tensor, targets: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), normalized, and targets (B, K), as they are trained on; new tensors where changed."""
        return images, targets


def _check_probability(name: str, rate: float) -> None:
    if not 0 <= rate <= 1:
        raise TrainingError(f"{name}: rate is a probability in [0, 1], got {rate:g}")


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

    Random patches are hidden, so that the network must use more than its best-known part of an object.

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
        _check_probability("has", self.rate)
        if self.parts < 0 or self.parts != int(self.parts):
            raise TrainingError(f"has: parts counts patches along a side, 0 or more, got {self.parts:g}")

    def batch(self, images: Tensor, targets: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Hide patches of each picture; images may be normalized in any way, targets are returned as they are."""
        size_hw = (images.shape[-2], images.shape[-1])
        masks = [hidden(size_hw, int(self.parts) or int(generator.choice(MIXED)), self.rate, generator) for _ in images]
        mask = torch.from_numpy(np.stack(masks)).to(images.device)
        return torch.where(mask[:, None], images.mean((0, 2, 3), keepdim=True), images), targets


def kept(attention: Tensor, threshold: float) -> Tensor:
    """The drop mask, bool: False where attention (B, 1, h, w) reaches a share of each picture's maximum, the paper's
    gamma.

    >>> kept(torch.tensor([[[[0.5, 0.9, 1.0]]]]), 0.9).tolist()
    [[[[True, False, False]]]]
    """
    return attention < threshold * attention.amax((2, 3), keepdim=True)


class AttentionDropout(nn.Module):
    """The layer: features times the drop mask or the importance map while training, features as they are at test.

    It has no parameters. ``drop`` says which of the two the coming pass takes; None: neither.
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.drop: bool | None = None

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        if not self.training or self.drop is None:
            return features
        looks = features.mean(1, keepdim=True)  # the self-attention map
        return features * (kept(looks, self.threshold).to(features.dtype) if self.drop else looks.sigmoid())


@dataclass(frozen=True)
class ADL(Regularizer):
    """Choe & Shim, "Attention-based Dropout Layer for Weakly Supervised Object Localization", CVPR 2019, section 3.

    At each step each layer drops what the features attend to most with probability ``rate``, else weighs them by it.

    Attributes:
        rate: the paper's drop rate.
        threshold: the paper's gamma; the public benchmark's default (the authors: 0.8 for VGG, 0.9 for ResNet).
    """

    rate: float = 0.75
    threshold: float = 0.9

    def __post_init__(self) -> None:
        _check_probability("adl", self.rate)
        if not 0 < self.threshold <= 1:
            raise TrainingError(f"adl: threshold is a share of the maximum in (0, 1], got {self.threshold:g}")

    def attach(self, backbone: Backbone) -> None:
        """A layer behind each of the last two stages, as the authors put theirs.

        Raises:
            TrainingError: the backbone is a transformer.
        """
        if isinstance(backbone, TokenBackbone):
            raise TrainingError("adl: its layers stand between stages of convolutions; a transformer has none")
        stages = len(backbone.channels)
        for stage in range(max(stages - 2, 0), stages):
            backbone.between[str(stage)] = AttentionDropout(self.threshold)

    def draw(self, backbone: Backbone, generator: np.random.Generator) -> None:
        """Decide for each layer, from shallow to deep, what its coming pass takes."""
        for layer in backbone.between.values():
            if isinstance(layer, AttentionDropout):
                layer.drop = bool(generator.random() < self.rate)


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

    A rectangle of another picture is pasted, and the labels are mixed by area.

    Attributes:
        beta: of the Beta(beta, beta) distribution of the share that stays; 1 is uniform, as in the paper.
        rate: the probability that a batch is mixed at all.
    """

    beta: float = 1.0
    rate: float = 1.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise TrainingError(f"cutmix: beta must be above 0, got {self.beta:g}")
        _check_probability("cutmix", self.rate)

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


REGULARIZERS: dict[str, type[Regularizer]] = {"has": HaS, "adl": ADL, "cutmix": CutMix}


def make_regularizers(specs: Sequence[str]) -> tuple[Regularizer, ...]:
    """Build the regularizers that ``name`` or ``name:option=number,…`` mean, in the order in which they are applied.

    Raises:
        TrainingError: there is no such regularizer or option, it is named twice, or it refuses a value.

    >>> make_regularizers(["has:rate=0.25", "adl"])
    (HaS(rate=0.25, parts=0), ADL(rate=0.75, threshold=0.9))
    """
    found: dict[type[Regularizer], Regularizer] = {}
    for spec in specs:
        kind, options = find_registered("regularizer", REGULARIZERS, spec)
        if kind in found:
            name = spec.partition(":")[0]
            raise TrainingError(f"regularizer: {name} is named twice; give its options once, as {name}:option=number")
        found[kind] = kind(**options)
    return tuple(found.values())
