"""What is trained, saved and opened again: a trunk, perhaps one added convolution, and a head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from camlucida.errors import TrainingError
from camlucida.training.backbones import Trunk, make_trunk
from camlucida.training.config import TrainConfig
from camlucida.training.heads import Head, Step, find_head, make_head


class Network(nn.Module):
    """A classifier with maps (the surgery of Zhou et al., CVPR 2016, section 3.1). Made by ``make_network``.

    Attributes:
        trunk: images (B, 3, H, W) -> features (B, C, h, w).
        added: a 3×3 convolution and ReLU, or nothing.
        head: features -> logits, maps and loss.
    """

    def __init__(self, trunk: Trunk, added: nn.Module, head: Head) -> None:
        super().__init__()
        self.trunk, self.added, self.head = trunk, added, head

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalized, to logits (B, K)."""
        return self.head.logits(self.added(self.trunk(images)))

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and the maps of every class (B, K, h, w), signed, in logits per cell (see the head)."""
        features = self.added(self.trunk(images))
        return self.head.logits(features), self.head.maps(features)

    def loss(self, images: Tensor, targets: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """The training loss (a scalar) and the logits (B, K) of images (B, 3, H, W) with targets (B, K)."""
        if self.head.reads_stages:
            stages = self.trunk.stages(images)
            return self.head.loss(self.added(stages[-1]), stages, targets, step)
        return self.head.loss(self.added(self.trunk(images)), (), targets, step)

    def used_state(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, but for those of a cut backbone that nothing reads."""
        unused = {f"trunk.{name}" for name in self.trunk.unused}
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
    """Build the network of a configuration; what is random in it is drawn from ``config.seed``.

    Args:
        config: backbone, head, size, stride, units and pretrained are read.
        classes: how many logits.

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
        trunk = kind.own_trunk(config) or make_trunk(config)
        added: nn.Module = nn.Identity()
        channels = trunk.channels[-1]
        if config.units:
            convolution = nn.Conv2d(channels, config.units, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
            added, channels = nn.Sequential(convolution, nn.ReLU()), config.units
        head = make_head(config.head, channels, classes, trunk.grid_hw)
        head.attach(trunk)
        return Network(trunk, added, head)
