"""Adversarial complementary learning: a second classifier that must find what the first one overlooks.

Zhang et al., "Adversarial Complementary Learning for Weakly Supervised Object Localization", CVPR 2018, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camlucida.errors import TrainingError
from camlucida.training.heads.base_head import Criterion, Head, Stages

THRESHOLD = 0.7
"""Above this share of a map's range a cell is erased for the second classifier; the public benchmark's default."""

_MOST_UNITS = 1024  # the paper's


def minmax(maps: Tensor) -> Tensor:
    """Maps (..., h, w), each moved and scaled to [0, 1]; a map of one value becomes 0.

    >>> minmax(torch.tensor([[[1.0, 3.0, 2.0]], [[5.0, 5.0, 5.0]]])).tolist()
    [[[0.0, 1.0, 0.5]], [[0.0, 0.0, 0.0]]]
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    extent = high - low
    return (maps - low) / extent.where(extent > 0, torch.ones_like(extent))


def of_targets(maps: Tensor, targets: Tensor) -> Tensor:
    """The target class's map (B, 1, h, w) of maps (B, K, h, w): by targets (B, K), so that several classes share it."""
    return torch.einsum("bkhw,bk->bhw", maps, targets.to(maps.dtype))[:, None]


def erased(features: Tensor, attention: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Features (B, C, h, w), 0 where attention (B, 1, h, w) in [0, 1] reaches the threshold.

    >>> erased(torch.ones(1, 1, 1, 3), torch.tensor([[[[0.0, 0.7, 1.0]]]])).tolist()
    [[[[1.0, 0.0, 0.0]]]]
    """
    return features.masked_fill(attention >= threshold, 0.0)


class ACoL(Head):
    """Two classifiers of two 3×3 convolutions and a 1×1 convolution each, averaged over the grid.

    The second sees features without the cells where the first's map of the target class is high: from this share of
    that map's range on. No gradient runs through the erasing. Logits are the first's.
    """

    def __init__(self, channels: int, classes: int, grid_hw: tuple[int, int], threshold: float = THRESHOLD) -> None:
        super().__init__()
        if not 0 < threshold <= 1:
            raise TrainingError(f"acol: threshold is a share of the map's range in (0, 1], got {threshold}")
        self.threshold = threshold
        self.first, self.second = _classifier(channels, classes), _classifier(channels, classes)

    def logits(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, K)."""
        logits: Tensor = self.first(features).mean((2, 3))
        return logits

    def maps(self, features: Tensor) -> Tensor:
        """The paper's fused maps: each class's larger of the two classifiers' maps, (B, K, h, w) in [0, 1]: no parts of
        the logits. The second's is of features without that class's own region, so that it is run once a class.
        """
        first = minmax(self.first(features))
        second = [
            self.second(erased(features, first[:, k : k + 1], self.threshold))[:, k] for k in range(first.shape[1])
        ]
        return torch.maximum(first, minmax(torch.stack(second, 1)))

    def loss(self, features: Tensor, stages: Stages, targets: Tensor, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """Both classifiers' losses, summed; and the first's logits."""
        maps = self.first(features)
        attention = minmax(of_targets(maps.detach(), targets))
        again = self.second(erased(features, attention, self.threshold))
        logits = maps.mean((2, 3))
        return criterion(logits, targets) + criterion(again.mean((2, 3)), targets), logits


def _classifier(channels: int, classes: int) -> nn.Sequential:
    units = min(channels, _MOST_UNITS)
    layers = nn.Sequential(
        nn.Conv2d(channels, units, 3, padding=1), nn.ReLU(), nn.Conv2d(units, units, 3, padding=1), nn.ReLU(),
        nn.Conv2d(units, classes, 1),
    )  # fmt: skip
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias) if layer.bias is not None else None
    return layers
