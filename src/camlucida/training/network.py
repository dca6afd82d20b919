"""What is trained, saved and opened again: a backbone, perhaps one added convolution, and a head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from camlucida.errors import TrainingError
from camlucida.training.backbones import Backbone, make_backbone
from camlucida.training.config import TrainConfig
from camlucida.training.heads import Criterion, Head, find_head, make_head


class Network(nn.Module):
    """A classifier with maps (the surgery of Zhou et al., CVPR 2016, section 3.1). Made by ``make_network``.

    The backbone makes features of images, the head logits, maps and a loss of features; between them may be an added
    3×3 convolution with ReLU.
    """

    def __init__(self, backbone: Backbone, added: nn.Module, head: Head) -> None:
        super().__init__()
        self.trunk, self.added, self.head = backbone, added, head  # what weights are called by in files

    @property
    def backbone(self) -> Backbone:
        """Images to features."""
        return self.trunk

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalized, to logits (B, K)."""
        return self.head.logits(self.added(self.backbone(images)))

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and the maps of every class (B, K, h, w), signed, in logits per cell (see the head)."""
        features = self.added(self.backbone(images))
        return self.head.logits(features), self.head.maps(features)

    def loss(self, images: Tensor, targets: Tensor, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """The training loss (a scalar) and the logits (B, K) of images (B, 3, H, W) with targets (B, K)."""
        stages = self.backbone.stages(images)
        return self.head.loss(self.added(stages[-1]), stages, targets, criterion)

    def used_state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, but for those of a cut backbone that nothing reads."""
        unused = {f"trunk.{name}" for name in self.backbone.unused}
        return {name: tensor for name, tensor in self.state_dict().items() if name not in unused}

    def load_used_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what ``used_state`` gave.

        Raises:
            TrainingError: names or shapes are not this network's.
        """
        own = self.used_state()
        for name in sorted(own.keys() ^ state.keys()):
            where = "the weights lack" if name in own else "the network has no"
            raise TrainingError(f"weights: {where} {name}; are they of another configuration?")
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                got = f"{tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
                raise TrainingError(f"weights: {name} has shape {got}; are they of another configuration?")
        self.load_state_dict(dict(state), strict=False)


def make_network(config: TrainConfig, classes: int) -> Network:
    """Build the network of a configuration, for so many classes; what is random in it is drawn from ``config.seed``.

    Raises:
        TrainingError: the backbone or the head cannot be made so.
        MissingExtraError: the backbone needs an optional dependency.

    Example:
        >>> network = make_network(TrainConfig(backbone="small:8-16-16", size=32, stride=8), 5)
        >>> logits, maps = network.eval().maps(torch.zeros(2, 3, 32, 32))
        >>> logits.shape, maps.shape
        (torch.Size([2, 5]), torch.Size([2, 5, 4, 4]))
    """
    kind, _ = find_head(config.head)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone = kind.own_backbone(config) or make_backbone(config)
        added: nn.Module = nn.Identity()
        channels = backbone.channels[-1]
        if config.units:
            convolution = nn.Conv2d(channels, config.units, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            added, channels = nn.Sequential(convolution, nn.ReLU()), config.units
        head = make_head(config.head, channels, classes, backbone.grid_hw)
        head.attach(backbone)
        return Network(backbone, added, head)
