"""What a regularizer is: it changes training batches, or the network while it trains, and leaves no trace at test."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from camlucida.training.backbones import Backbone


class Regularizer:
    """Three hooks; a subclass, a frozen dataclass whose fields are its options, overrides those it needs.

    Everything random comes from the generator that is passed in, which belongs to one step of one process, so that a
    run that goes on draws what an undisturbed one draws.
    """

    def attach(self, backbone: Backbone) -> None:
        """Put layers between the stages of a new backbone; they have no weights, and do nothing in evaluation."""

    def draw(self, backbone: Backbone, generator: np.random.Generator) -> None:
        """Decide what the layers do in the coming step."""

    def batch(self, images: Tensor, targets: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), normalized, and targets (B, K), as they are trained on; new tensors where changed."""
        return images, targets
