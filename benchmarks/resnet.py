"""Plain residual networks (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016) to measure with.

Weights are random, and BatchNorm's statistics and gains are not its start values: a network of constants would hide
faults and cost the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3×3 convolutions, or for ``expansion`` 4 a 1×1, 3×3, 1×1 bottleneck, with a shortcut around them."""

    def __init__(self, inside: int, width: int, expansion: int, stride: int) -> None:
        super().__init__()
        outside = width * expansion
        if expansion == 1:
            self.path = nn.Sequential(
                nn.Conv2d(inside, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
            )  # fmt: skip
        else:
            self.path = nn.Sequential(
                nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
                nn.Conv2d(width, outside, 1, bias=False), nn.BatchNorm2d(outside),
            )  # fmt: skip
        self.shortcut = nn.Sequential()
        if stride > 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.path(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Stem, four stages (``layer1`` to ``layer4``), mean pooling, and the linear layer ``fc``."""

    def __init__(self, depths: tuple[int, ...], expansion: int, classes: int = 1000, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )  # fmt: skip
        inside = width
        for stage, depth in enumerate(depths):
            blocks = []
            for position in range(depth):
                blocks.append(Block(inside, width << stage, expansion, 2 if stage and not position else 1))
                inside = (width << stage) * expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc: nn.Module = nn.Linear(inside, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        logits: Tensor = self.fc(self.flatten(self.pool(x)))
        return logits


def resnet18(classes: int = 1000, width: int = 64) -> ResNet:
    """ResNet-18, in evaluation mode, with features of 8 × ``width`` channels."""
    return _random(ResNet((2, 2, 2, 2), 1, classes, width))


def resnet50(classes: int = 1000) -> ResNet:
    """ResNet-50, in evaluation mode, with features of 2048 channels."""
    return _random(ResNet((3, 4, 6, 3), 4, classes))


def _random(model: ResNet) -> ResNet:
    """The model in evaluation mode, its BatchNorm layers with the statistics of noise and gains of their own."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
        norm.momentum = None  # the mean of the batches
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 96, 96))
    return model.eval()
