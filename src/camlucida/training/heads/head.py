"""What a head is: it turns the last features into logits and into maps, and has a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from camlucida.training.backbones import Trunk
    from camlucida.training.config import TrainConfig


@dataclass(frozen=True)
class Step:
    """Where training stands when a loss is taken.

    Attributes:
        number: optimizer steps done, over the whole run.
        total: steps of the whole run.
        epoch: counted from 0.
        label_smoothing: in [0, 1).
        multi_label: whether a picture may have several classes, or none.
    """

    number: int = 0
    total: int = 1
    epoch: int = 0
    label_smoothing: float = 0.0
    multi_label: bool = False

    @property
    def progress(self) -> float:
        """The share of the run that is done, in [0, 1]."""
        return self.number / self.total


def criterion(logits: Tensor, targets: Tensor, step: Step) -> Tensor:
    """The classification loss, in float32: cross entropy with soft targets, or binary cross entropy a class.

    Args:
        logits: (B, K).
        targets: (B, K), shares of the classes in [0, 1]: each row sums to 1 unless ``step.multi_label``.
        step: where training stands.

    Returns:
        A scalar, the mean over pictures (and over classes, if multi-label).

    Example:
        >>> import torch
        >>> criterion(torch.zeros(1, 4), torch.eye(4)[:1], Step())
        tensor(1.3863)
    """
    if step.multi_label:
        soft = targets * (1 - step.label_smoothing) + 0.5 * step.label_smoothing
        return F.binary_cross_entropy_with_logits(logits.float(), soft)
    return F.cross_entropy(logits.float(), targets, label_smoothing=step.label_smoothing)


class Head(nn.Module):
    """Features (B, C, h, w) to logits (B, K), and to the maps (B, K, h, w) that belong to them.

    A head is built by ``cls(channels, classes, grid_hw, option=number, …)``, where options have defaults.

    Attributes:
        reads_stages: whether the loss reads the features of earlier stages; else ``stages`` is empty.
    """

    reads_stages: ClassVar[bool] = False

    @staticmethod
    def own_trunk(config: TrainConfig) -> Trunk | None:
        """The trunk, where a head needs one of its own (a transformer that also gives its attention)."""
        return None

    def attach(self, trunk: Trunk) -> None:
        """Called once, on a new network: make what depends on the trunk's earlier stages; by default nothing does."""

    def logits(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, K)."""
        raise NotImplementedError

    def maps(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, K, h, w), signed, in logits per cell."""
        raise NotImplementedError

    def bias(self) -> Tensor | None:
        """(K,), with ``maps.sum((2, 3)) + bias == logits``; None if the maps are no such decomposition."""
        return None

    def loss(self, features: Tensor, stages: Sequence[Tensor], targets: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """The training loss (a scalar), and the logits (B, K).

        Args:
            features: (B, C, h, w).
            stages: if ``reads_stages``, the trunk's stages from shallow to deep, each (B, C, h, w); else empty.
            targets: (B, K), see ``criterion``.
            step: where training stands.
        """
        logits = self.logits(features)
        return criterion(logits, targets, step), logits

    def forward(self, features: Tensor) -> Tensor:
        """The logits."""
        return self.logits(features)
