"""Heads that pool: mean, maximum, log-sum-exp, generalized mean, sum; and the hidden layers that mean pooling replaces.

All but the last hold one linear layer, W (K, C) and b (K), and show the paper's projection at each cell,
``M_c(y, x) = Σ_k W_ck f_k(y, x) / (h w)``: of features that are the same everywhere, every one of these poolings gives
those features, so that ``M.sum() + b`` is then the logit. For mean (and sum) pooling it is so for all features.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camlucida.errors import TrainingError
from camlucida.training.heads.base_head import Head


class Pooled(Head):
    """A linear layer on pooled features, (B, C, h, w) -> (B, C) -> (B, K)."""

    def __init__(self, channels: int, classes: int, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def pool(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C)."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """W pool(f) + b."""
        logits: Tensor = self.linear(self.pool(features))
        return logits

    def maps(self, features: Tensor) -> Tensor:
        """W f / (h w) at every cell."""
        return project(features, self.linear.weight) / (features.shape[2] * features.shape[3])


def project(features: Tensor, weight: Tensor) -> Tensor:
    """(B, C, h, w) and (K, C) -> (B, K, h, w): the weighted sum of the channels at every cell."""
    return F.conv2d(features, weight[:, :, None, None].to(features.dtype))


class GAP(Pooled):
    """Global average pooling (Zhou et al., CVPR 2016): the maps are exact.

    Example:
        >>> head, features = GAP(4, 3, (2, 2)), torch.rand(1, 4, 2, 2)
        >>> torch.allclose(head.maps(features).sum((2, 3)) + head.bias(), head(features), atol=1e-6)
        True
    """

    def pool(self, features: Tensor) -> Tensor:
        """The mean over the cells."""
        return features.mean((2, 3))

    def bias(self) -> Tensor:
        """The linear layer's own."""
        return self.linear.bias


class GMP(Pooled):
    """Global maximum pooling (Oquab et al., CVPR 2015), which the paper compares with, by the same projection."""

    def pool(self, features: Tensor) -> Tensor:
        """Each channel's maximum over the cells."""
        return features.amax((2, 3))


class GeM(Pooled):
    """Generalized mean with a learned exponent (Radenović et al., TPAMI 2019): (mean of f^p)^(1/p), of f >= 0."""

    def __init__(self, channels: int, classes: int, grid_hw: tuple[int, int], p: float = 3.0) -> None:
        super().__init__(channels, classes, grid_hw)
        if not p > 0:
            raise TrainingError(f"head: gem needs p above 0, got {p}")
        self.p = nn.Parameter(torch.tensor(float(p)))

    def pool(self, features: Tensor) -> Tensor:
        """In float32, for powers of small numbers; what is below 1e-6 counts as that."""
        with torch.autocast(features.device.type, enabled=False):
            exponent = self.p if features.dtype == torch.float64 else self.p.float()
            values = features if features.dtype == torch.float64 else features.float()
            return values.clamp_min(1e-6).pow(exponent).mean((2, 3)).pow(1 / exponent)


class LSE(Pooled):
    """Log-sum-exp of the class planes s = W f + b (Pinheiro & Collobert, CVPR 2015, eq. 1):
    log(mean of exp(r s)) / r, between their mean (r -> 0) and their maximum (r -> ∞).
    """

    def __init__(self, channels: int, classes: int, grid_hw: tuple[int, int], r: float = 5.0) -> None:
        super().__init__(channels, classes, grid_hw)
        if not r > 0:
            raise TrainingError(f"head: lse needs r above 0, got {r}")
        self.r = float(r)

    def logits(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, K)."""
        planes = project(features, self.linear.weight).flatten(2)
        planes = (planes if planes.dtype == torch.float64 else planes.float()) + self.linear.bias[:, None]
        return (torch.logsumexp(self.r * planes, 2) - math.log(planes.shape[2])) / self.r


class SumPooling(Pooled):
    """Sum pooling, as section 2 of the paper writes it (S_c = Σ_k w_k Σ_xy f_k): the maps are exact.

    The weights are held times the cells of the training grid, so that they learn at the rate of mean pooling's: at the
    training size the two are one, at others the logits grow with the area.
    """

    def __init__(self, channels: int, classes: int, grid_hw: tuple[int, int]) -> None:
        super().__init__(channels, classes, grid_hw)
        self.cells = grid_hw[0] * grid_hw[1]

    def pool(self, features: Tensor) -> Tensor:
        """The sum over the cells, over the number of the training grid's cells."""
        return features.sum((2, 3)) / self.cells

    def maps(self, features: Tensor) -> Tensor:
        """W f / cells: W / cells are the weights of the sum."""
        return project(features, self.linear.weight) / self.cells

    def bias(self) -> Tensor:
        """The linear layer's own."""
        return self.linear.bias


class FullyConnected(Head):
    """The classifier of AlexNet and VGG, which mean pooling replaces: a maximum over parts of the grid (7×7, or the
    grid where it is smaller), two hidden layers with ReLU and dropout, a linear layer.

    The hidden layers leave no projection: the maps are gradient × features at the last features, for each class
    ``Σ_k ∂S_c/∂f_k f_k`` of this very picture, which sum to no logit.
    """

    def __init__(
        self, channels: int, classes: int, grid_hw: tuple[int, int], hidden: float = 1024, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if hidden < 1 or hidden != int(hidden) or not 0 <= dropout < 1:
            raise TrainingError(
                f"head: fc needs a whole hidden >= 1 and dropout in [0, 1), got {hidden:g}, {dropout:g}"
            )
        self.parts = (min(7, grid_hw[0]), min(7, grid_hw[1]))
        units = int(hidden)
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * self.parts[0] * self.parts[1], units), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(units, units), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(units, classes),
        )  # fmt: skip

    def logits(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, K)."""
        logits: Tensor = self.layers(F.adaptive_max_pool2d(features, self.parts))
        return logits

    def maps(self, features: Tensor) -> Tensor:
        """Gradient × features, a backward pass through the head for each class."""
        return gradient_times_features(self.logits, features)


def gradient_times_features(logits: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Σ_k ∂S_c/∂f_k · f_k at every cell, for each class: (B, C, h, w) -> (B, K, h, w)."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = features.detach().clone().requires_grad_()
        totals = logits(leaf).sum(0)
        rows = [torch.autograd.grad(total, leaf, retain_graph=c + 1 < len(totals))[0] for c, total in enumerate(totals)]
    return torch.stack([(row * leaf.detach()).sum(1) for row in rows], 1)
