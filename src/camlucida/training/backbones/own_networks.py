"""The project's own backbones for small pictures, plain and residual."""

from __future__ import annotations

from torch import Tensor, nn

from camlucida.errors import TrainingError
from camlucida.training.backbones.backbone import Backbone
from camlucida.training.config import TrainConfig


class OwnNetwork(Backbone):
    """The project's own networks for small pictures: a stage a width, two 3×3 convolutions each, normalized.

    Stages halve the grid from the first one on, until the stride is reached; later ones keep it, so that the work is
    done on few cells. If residual, each stage behind the first is two blocks beside shortcuts (see ``Residual``).
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
        inputs, stages = 3, []
        for i, (width, step) in enumerate(zip(widths, strides, strict=True)):
            if residual and i:
                stages.append(nn.Sequential(Residual(inputs, width, step), Residual(width, width, 1)))
            else:
                stages.append(_plain(inputs, width, step))
            inputs = width
        self.parts = nn.ModuleList(stages)  # so called in saved weights
        self.channels = widths
        self.grid_hw = (-(-size // stride), -(-size // stride))

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
        total: Tensor = self.body(x) + self.shortcut(x)
        return total.relu()


USUAL_WIDTHS = {"small": "32-64-96-128", "residual": "32-64-128-256"}
"""Channels of the stages where the name has none behind it."""


def own_network(config: TrainConfig) -> OwnNetwork:
    """The network of "small", "residual" or "small:WIDTH-WIDTH-…".

    Raises:
        TrainingError: these are no widths, or they do not reach the stride.
    """
    name, _, rest = config.backbone.partition(":")
    try:
        widths = tuple(int(width) for width in (rest or USUAL_WIDTHS[name]).split("-"))
    except ValueError:
        raise TrainingError(f"backbone: expected {name}:32-64-128, got {config.backbone!r}") from None
    return OwnNetwork(widths, config.stride, config.size, name == "residual")
