"""Heads of published methods for weakly supervised localization, whose training does more than pool.

ACoL: a second classifier must find what the first one overlooks (Zhang et al., "Adversarial Complementary Learning for
Weakly Supervised Object Localization", CVPR 2018, section 3). SPG: sure cells of the class's map teach shallower layers
what is object and what is background (Zhang et al., "Self-produced Guidance for Weakly-supervised Object Localization",
ECCV 2018, section 3). TS-CAM: what each patch token says, times where the class token looks (Gao et al., "TS-CAM: Token
Semantic Coupled Attention Map for Weakly Supervised Object Localization", ICCV 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camlucida.errors import TrainingError
from camlucida.training.backbones import Backbone
from camlucida.training.backbones.transformers import TokenBackbone, token_backbone
from camlucida.training.config import TrainConfig
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


FEW = 30 / 224**2
"""With less than this share of the cells above the high threshold, the object is what exceeds ``RESCUE`` · maximum."""
RESCUE = 0.7

_MOST_SHARED, _MOST_LAST = 1024, 512  # units of the paper's branches B and C


def seeds(attention: Tensor, high: float, low: float) -> tuple[Tensor, Tensor]:
    """What a map (B, 1, h, w) in [0, 1] is sure of: object above the high threshold (where almost no cell is, ``FEW``:
    above 0.7 of the map's maximum), background below the low one, the rest left open.

    Returns:
        object (bool) and sure (bool), each (B, 1, h, w); background is sure but no object.

    >>> [one.tolist() for one in seeds(torch.tensor([[[[0.0, 0.3, 0.9]]]]), 0.7, 0.1)]
    [[[[[False, False, True]]]], [[[[True, False, True]]]]]
    """
    above = attention > high
    few = above.float().mean((1, 2, 3), keepdim=True) < FEW
    above = torch.where(few, attention > RESCUE * attention.amax((2, 3), keepdim=True), above)
    below = attention < low
    return above & ~below, above | below


def guidance(logits: Tensor, attention: Tensor, high: float, low: float) -> Tensor:
    """Binary cross entropy of object against background, averaged over the batch's cells that the teacher is sure of
    (see ``seeds``), a scalar; 0 if there is none. Logits and attention are (B, 1, h, w), the latter in [0, 1]; no
    gradient runs through it.
    """
    with torch.no_grad():
        thing, sure = seeds(attention, high, low)
    losses = F.binary_cross_entropy_with_logits(logits.float(), thing.float(), reduction="none")
    return (losses * sure).sum() / sure.sum().clamp_min(1)


class SPG(Head):
    """A 1×1 convolution averaged over the grid, whose maps guide branches on shallower layers while training.

    The class's map teaches branch B2 on the last stage; B2's answer teaches B1 on the stage before; their mean teaches
    C on the features that the classifier reads. B1 and B2 share their last layers. All is compared on the finest of the
    three grids. The branches are for training alone: maps and logits are the classifier's, and exact.

    Of B2's teacher, object is above ``high`` and background below ``low``, shares of the map's range; of B1's and C's,
    the options with a number behind them.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        grid_hw: tuple[int, int],
        high: float = 0.7,
        low: float = 0.01,
        high1: float = 0.5,
        low1: float = 0.05,
        high2: float = 0.7,
        low2: float = 0.1,
    ) -> None:
        super().__init__()
        self.thresholds = ((high, low), (high1, low1), (high2, low2))
        for above, below in self.thresholds:
            if not 0 <= below < above < 1:
                raise TrainingError(f"spg: expected thresholds 0 <= low < high < 1, got low {below:g}, high {above:g}")
        self.classifier = nn.Conv2d(channels, classes, 1)
        units = min(channels, _MOST_LAST)
        self.last = nn.Sequential(_conv(channels, units), nn.ReLU(), nn.Conv2d(units, 1, 1))

    def attach(self, backbone: Backbone) -> None:
        """Make the branches on the backbone's last two stages."""
        if len(backbone.channels) < 2:
            raise TrainingError("spg: guides the last two stages, but this backbone has one; take one with more stages")
        before, last = backbone.channels[-2:]
        units = min(last, _MOST_SHARED)
        self.first_branch, self.second_branch = (nn.Sequential(_conv(c, units), nn.ReLU()) for c in (before, last))
        self.shared = nn.Sequential(_conv(units, units), nn.ReLU(), nn.Conv2d(units, 1, 1))

    def logits(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, K)."""
        logits: Tensor = self.classifier(features).mean((2, 3))
        return logits

    def maps(self, features: Tensor) -> Tensor:
        """The classifier at every cell, without its bias, over the number of cells: (B, K, h, w)."""
        weight = self.classifier.weight.to(features.dtype)
        return F.conv2d(features, weight) / (features.shape[2] * features.shape[3])

    def bias(self) -> Tensor | None:
        """The convolution's own."""
        return self.classifier.bias

    def loss(self, features: Tensor, stages: Stages, targets: Tensor, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """The classification loss and the three branches' losses, summed; and the logits."""
        before, last = stages[-2:]
        size = before.shape[2:]
        planes = self.classifier(features)
        logits = planes.mean((2, 3))
        with torch.no_grad():
            attention = minmax(_at(size, of_targets(planes.float(), targets)))
        second = _at(size, self.shared(self.second_branch(last)))
        first = _at(size, self.shared(self.first_branch(before)))
        third = _at(size, self.last(features))
        fused = (first.sigmoid() + second.sigmoid()) / 2
        taught = ((second, attention), (first, second.sigmoid()), (third, fused))
        guided = [
            guidance(answer, teacher.detach(), *pair)
            for (answer, teacher), pair in zip(taught, self.thresholds, strict=True)
        ]
        return criterion(logits, targets) + sum(guided[1:], guided[0]), logits


def _at(size: Sequence[int], maps: Tensor) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(layer.weight)
    return layer


class TSCAM(Head):
    """A 3×3 convolution from patch tokens to classes, averaged over the grid; maps times the class token's attention.

    The paper's loss is of these logits alone: its transformers come with a class token that has learned to classify.
    From scratch nothing would tell the class token where to look (nothing reads it after the last layer), so that it
    gets a linear layer and a loss of its own while training, of the weight ``token``; 0 is the paper's, for pretrained
    transformers. Of the features' channels, the last is the attention (see ``TokenBackbone``).
    """

    def __init__(self, channels: int, classes: int, grid_hw: tuple[int, int], token: float = 1.0) -> None:
        super().__init__()
        if not 0 <= token < float("inf"):
            raise TrainingError(f"tscam: token is a weight of at least 0, got {token:g}")
        self.token = token
        self.of_token = nn.Linear(channels - 1, classes)
        self.semantic = nn.Conv2d(channels - 1, classes, 3, padding=1)
        nn.init.trunc_normal_(self.semantic.weight, std=0.02)
        nn.init.zeros_(self.semantic.bias) if self.semantic.bias is not None else None

    @staticmethod
    def own_backbone(config: TrainConfig) -> TokenBackbone:
        """A vision transformer that gives its attention."""
        if config.units:
            raise TrainingError(f"units: tscam reads the tokens as they are; take units=0, not {config.units}")
        return token_backbone(config)

    def logits(self, features: Tensor) -> Tensor:
        """(B, C + 1, h, w) to (B, K)."""
        logits: Tensor = self.semantic(features[:, :-1]).mean((2, 3))
        return logits

    def maps(self, features: Tensor) -> Tensor:
        """The semantic maps (with the convolution's bias) times the attention: (B, K, h, w), logits × attention.

        They are no parts of the logits. Features must be an evaluating backbone's: a training one gives no attention.
        """
        maps: Tensor = self.semantic(features[:, :-1]) * features[:, -1:]
        return maps

    def loss(self, features: Tensor, stages: Stages, targets: Tensor, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """The patches' loss, plus the weighted loss of the class token; and the patches' logits."""
        logits = self.logits(features)
        of_token = self.of_token(stages[0].flatten(1))
        return criterion(logits, targets) + self.token * criterion(of_token, targets), logits
