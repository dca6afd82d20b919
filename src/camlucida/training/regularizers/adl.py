"""Attention-based dropout: now and then drop what the features attend to most, else weigh them by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from camlucida.errors import TrainingError
from camlucida.training.backbones.backbone import Backbone
from camlucida.training.backbones.transformers import TokenBackbone
from camlucida.training.regularizers.regularizer import Regularizer


def attention(features: Tensor) -> Tensor:
    """The self-attention map of features (B, C, h, w): their mean over channels, (B, 1, h, w)."""
    return features.mean(1, keepdim=True)


def kept(attention: Tensor, threshold: float) -> Tensor:
    """The drop mask, bool: False where attention (B, 1, h, w) reaches a share of each picture's maximum, the paper's
    gamma.

    >>> import torch
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
        looks = attention(features)
        return features * (kept(looks, self.threshold).to(features.dtype) if self.drop else looks.sigmoid())


@dataclass(frozen=True)
class ADL(Regularizer):
    """Choe & Shim, "Attention-based Dropout Layer for Weakly Supervised Object Localization", CVPR 2019, section 3.

    At each step each layer takes the drop mask with probability ``rate``, else the importance map.

    Attributes:
        rate: the paper's drop rate.
        threshold: the paper's gamma; the public benchmark's default (the authors: 0.8 for VGG, 0.9 for ResNet).
    """

    rate: float = 0.75
    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise TrainingError(f"adl: rate is a probability in [0, 1], got {self.rate:g}")
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
