"""The demonstration network: a small residual CNN, global average pooling, one linear layer."""

from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch normalization."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut that averages before it projects (ResNet-D)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(inputs, outputs, stride=stride), nn.ReLU(), conv_bn(outputs, outputs))
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            pool = nn.AvgPool2d(stride) if stride != 1 else nn.Identity()
            self.shortcut = nn.Sequential(pool, conv_bn(inputs, outputs, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
        return (self.body(x) + self.shortcut(x)).relu()


class DemoNet(nn.Module):
    """Images (B, 3, H, W), H and W multiples of 16, to logits (B, classes) over a grid of H/16 x W/16."""

    def __init__(self, classes: int, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        stem, *stages = widths
        layers: list[nn.Module] = [
            conv_bn(3, stem, stride=2), nn.ReLU(), conv_bn(stem, stem), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        ]  # fmt: skip
        inputs = stem
        for index, width in enumerate(stages):
            layers += [Block(inputs, width, 1 if index == 0 else 2), Block(width, width, 1)]
            inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits by global average pooling (Zhou et al., CVPR 2016, section 2)."""
        return self.classifier(self.features(x).mean((2, 3)))
