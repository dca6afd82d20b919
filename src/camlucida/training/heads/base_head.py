"""What a head is: it turns the last features into logits and into maps, and has a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from camlucida.training.backbones import Backbone
from camlucida.training.config import TrainConfig

Stages = Sequence[Tensor]
"""The outputs of a backbone's stages, from shallow to deep, each (B, C, h, w)."""


@dataclass(frozen=True)
class Criterion:
    """The classification loss, in float32: cross entropy with soft targets, or, where a picture may have several
    classes or none, binary cross entropy a class. Label smoothing is in [0, 1).

    Example:
        >>> import torch
        >>> Criterion()(torch.zeros(1, 4), torch.eye(4)[:1])
        tensor(1.3863)
    """

    label_smoothing: float = 0.0
    multi_label: bool = False

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over pictures (and over classes, if multi-label) of logits (B, K) against targets (B, K), shares of
        the classes in [0, 1]: each row sums to 1 unless ``multi_label``.
        """
        if self.multi_label:
            soft = targets * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
            return F.binary_cross_entropy_with_logits(logits.float(), soft)
        return F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)


class Head(nn.Module):
    """Features (B, C, h, w) to logits (B, K), and to the maps (B, K, h, w) that belong to them.

    A head is built by ``cls(channels, classes, grid_hw, option=number, …)``, where options have defaults.
    """

    @staticmethod
    def own_backbone(config: TrainConfig) -> Backbone | None:
        """The backbone, where a head needs one of its own (a transformer that also gives its attention)."""
        return None

    def attach(self, backbone: Backbone) -> None:
        """Called once, on a new network: make what depends on the backbone's stages; by default nothing does."""

    def logits(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, K)."""
        raise NotImplementedError

    def maps(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, K, h, w), signed, in logits per cell."""
        raise NotImplementedError

    def bias(self) -> Tensor | None:
        """(K,), with ``maps.sum((2, 3)) + bias == logits``; None if the maps are no such decomposition."""
        return None

    def loss(self, features: Tensor, stages: Stages, targets: Tensor, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """The training loss (a scalar), and the logits (B, K).

        Args:
            features: (B, C, h, w).
            stages: of the backbone.
            targets: (B, K), see ``Criterion``.
            criterion: the loss of logits.
        """
        logits = self.logits(features)
        return criterion(logits, targets), logits

    def forward(self, features: Tensor) -> Tensor:
        """The logits."""
        return self.logits(features)
