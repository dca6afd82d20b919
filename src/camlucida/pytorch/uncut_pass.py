"""A forward pass whose features are looked for only when a method reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from camlucida.pytorch.attention_weights import Attention
from camlucida.pytorch.head import FrozenStatistics
from camlucida.pytorch.model_call import ModelCall
from camlucida.pytorch.model_pass import ModelPass
from camlucida.pytorch.outputs import Ending
from camlucida.pytorch.split import Split
from camlucida.pytorch.torch_pass import TorchPass
from camlucida.targets import Score


class UncutPass(ModelPass):
    """A pass that is cut at its features only when a method reads them: methods of scores run on any model.

    It fulfils ``methods.forward_pass.ForwardPass``.
    """

    def __init__(self, call: ModelCall, inputs: Tensor, logits: Tensor, ending: Ending, precise: torch.dtype,
                 run: Callable[[Tensor], TorchPass]) -> None:  # fmt: skip
        super().__init__(call, inputs, logits, ending, precise)
        self._run = run

    @cached_property
    def cut(self) -> TorchPass:
        """The same pass, cut at its features. Cost: a pass, and the search for them the first time."""
        return self._run(self.inputs)

    def again(self, inputs: Tensor) -> TorchPass:
        """The pass of other inputs, cut at its features."""
        return self._run(inputs)

    @property
    def split(self) -> Split:
        """Where it is cut."""
        return self.cut.split

    @property
    def features(self) -> Tensor:
        """(B, C, *grid): the last spatial features."""
        return self.cut.features

    @property
    def prefix_tokens(self) -> Tensor:
        """The tokens before the grid."""
        return self.cut.prefix_tokens

    def head(self, features: Tensor) -> Tensor:
        """Logits of other features."""
        return self.cut.head(features)

    def pooled_head(self, *, frozen: bool = True) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The pooled vector and the head behind it."""
        return self.cut.pooled_head(frozen=frozen)

    def frozen_statistics(self) -> FrozenStatistics:
        """The scale statistics of the head's normalizations."""
        return self.cut.frozen_statistics()

    def gradients(self, score: Score, statistics: FrozenStatistics | None = None) -> tuple[Tensor, Tensor]:
        """Gradients of scores at the features."""
        return self.cut.gradients(score, statistics)

    def gradient_times_features(self, score: Score, statistics: FrozenStatistics | None = None) -> Tensor:
        """Maps of scores, summed over branches."""
        return self.cut.gradient_times_features(score, statistics)

    def each_gradient(
        self, score: Score, statistics: FrozenStatistics | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The gradients of one score after the other."""
        return self.cut.each_gradient(score, statistics)

    def at_zero(self, score: Score, statistics: FrozenStatistics | None = None) -> Tensor:
        """The scores of features that are zero everywhere."""
        return self.cut.at_zero(score, statistics)

    def attention(self, *, gradients: bool) -> Attention:
        """The attention matrices."""
        return self.cut.attention(gradients=gradients)
