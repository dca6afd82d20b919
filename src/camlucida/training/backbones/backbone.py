"""What a backbone is: it turns images into features at the asked stride, in stages."""

from __future__ import annotations

from torch import Tensor, nn

from camlucida.images.preprocess import IMAGENET_MEAN, IMAGENET_STD


class Backbone(nn.Module):
    """Images (B, 3, H, W) to features (B, C, h, w), in stages.

    Attributes:
        channels: of each stage's output, from shallow to deep; the last are the features.
        grid_hw: rows and columns of the features for pictures of the configuration's size.
        mean: of R, G, B in [0, 1], which the inputs are normalized with.
        std: likewise.
        unused: names of parameters and buffers that it does not read; they need not be saved.
        between: modules that the output of a stage passes through, by its number as a text ("0" is the shallowest),
            each (B, C, h, w) to the same; empty. Regularizers put theirs here.
    """

    channels: tuple[int, ...]
    grid_hw: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    unused: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.between = nn.ModuleDict()

    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """The output of every stage, (B, C, h, w), from shallow to deep; the last are the features."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """The features (B, C, h, w)."""
        return self.stages(images)[-1]
