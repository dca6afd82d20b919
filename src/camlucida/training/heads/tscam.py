"""Token semantic coupled attention map: what each patch token says, times where the class token looks.

Gao et al., "TS-CAM: Token Semantic Coupled Attention Map for Weakly Supervised Object Localization", ICCV 2021.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from camlucida.errors import TrainingError
from camlucida.training.backbones.transformers import TokenBackbone, token_backbone
from camlucida.training.config import TrainConfig
from camlucida.training.heads.base_head import Criterion, Head, Stages


class TSCAM(Head):
    """A 3×3 convolution from patch tokens to classes, averaged over the grid; maps times the class token's attention.

    The paper's loss is of these logits alone: its transformers come with a class token that has learned to classify.
    From scratch nothing would tell the class token where to look (nothing reads it after the last layer), so that it
    gets a linear layer and a loss of its own while training, of the weight ``token``; 0 is the paper's, for pretrained
    transformers. Of the features' channels, the last is the attention (see ``TokenBackbone``).
    """

    reads_stages: ClassVar[bool] = True

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
