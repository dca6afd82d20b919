"""Trunks: images to the last features at the asked stride. The project's own small networks, and any backbone cut."""

from __future__ import annotations

from torch import Tensor, nn

from camlucida.errors import TrainingError
from camlucida.images.preprocess import IMAGENET_MEAN, IMAGENET_STD
from camlucida.training.config import TrainConfig


class Trunk(nn.Module):
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
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
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


class OwnTrunk(Trunk):
    """The project's own networks for small pictures: a stage a width, two 3×3 convolutions each, normalized.

    Stages halve the grid from the first one on, until the stride is reached; later ones keep it, so that the work is
    done on few cells.

    Args:
        widths: channels of the stages.
        stride: pixels between the last features' cells.
        size: pixels of the pictures.
        residual: each stage is two blocks of two convolutions beside a shortcut that averages before it projects
            (ResNet-D), behind a first stage without; else plain.
    """

    def __init__(self, widths: tuple[int, ...], stride: int, size: int, residual: bool) -> None:
        super().__init__()
        halvings = stride.bit_length() - 1
        if halvings > len(widths) + 1:
            raise TrainingError(
                f"backbone: {len(widths)} stages cannot reach stride={stride}; give at least {halvings - 1} widths"
            )
        if min(widths) < 1:
            raise TrainingError(f"backbone: expected widths above 0, got {'-'.join(map(str, widths))}")
        strides = [2 if i < halvings else 1 for i in range(len(widths))]
        if halvings > len(widths):
            strides[0] = 4
        inputs, parts = 3, []
        for i, (width, step) in enumerate(zip(widths, strides, strict=True)):
            if residual and i:
                parts.append(nn.Sequential(Residual(inputs, width, step), Residual(width, width, 1)))
            else:
                parts.append(_plain(inputs, width, step))
            inputs = width
        self.parts = nn.ModuleList(parts)
        self.channels = widths
        cells = size
        for step in strides:
            for _ in range(step.bit_length() - 1):
                cells = (cells + 1) // 2
        self.grid_hw = (cells, cells)

    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """The output of every stage."""
        outputs, x = [], images
        for i, part in enumerate(self.parts):
            x = part(x)
            if str(i) in self.between:
                x = self.between[str(i)](x)
            outputs.append(x)
        return tuple(outputs)


def conv_bn(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """A convolution without bias and its batch normalization."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


def _plain(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    layers: list[nn.Module] = [conv_bn(inputs, outputs, min(stride, 2)), nn.ReLU()]
    if stride == 4:
        layers.append(nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*layers, conv_bn(outputs, outputs), nn.ReLU())


class Residual(nn.Module):
    """Two 3×3 convolutions beside a shortcut that averages before it projects (He et al., CVPR 2019, ResNet-D)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(inputs, outputs, stride), nn.ReLU(), conv_bn(outputs, outputs))
        layers: list[nn.Module] = [nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []
        if stride > 1 or inputs != outputs:
            layers.append(conv_bn(inputs, outputs, kernel=1))
        self.shortcut = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
        made: Tensor = self.body(x) + self.shortcut(x)
        return made.relu()


OWN = {"small": (32, 64, 96, 128), "residual": (32, 64, 128, 256)}
"""The project's own networks: name -> usual channels of the stages."""


def make_trunk(config: TrainConfig) -> Trunk:
    """The trunk that ``config.backbone`` names, for ``config.size`` and ``config.stride``.

    Raises:
        TrainingError: there is no such backbone, or it has no stage of that stride.
        MissingExtraError: it needs an optional dependency.
    """
    name, _, rest = config.backbone.partition(":")
    if name in OWN:
        try:
            widths = tuple(int(width) for width in rest.split("-")) if rest else OWN[name]
        except ValueError:
            raise TrainingError(f"backbone: expected {name}:32-64-128, got {config.backbone!r}") from None
        return OwnTrunk(widths, config.stride, config.size, name == "residual")
    from camlucida.training.zoo_backbones import cut_backbone

    return cut_backbone(config)
