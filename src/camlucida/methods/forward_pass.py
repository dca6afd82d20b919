"""What a method sees of a forward pass, whichever engine ran it, and what it gives back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import Tensor

    from camlucida.pytorch.attention_weights import Attention
    from camlucida.pytorch.head import FrozenStatistics, Kind, Pooling
    from camlucida.targets import Activation, Score, Targets


class KnownHead(Protocol):
    """What is known of the head behind the features."""

    @property
    def kind(self) -> Kind:
        """What kind of function it is."""

    @property
    def without_gradient(self) -> bool:
        """Whether no gradient leads back from the logits to the features, though their values do."""

    @property
    def pooling(self) -> Pooling | None:
        """Where its pooled vector is, if it has one."""


class ForwardPass(Protocol):
    """One forward pass of B inputs, cut at its features: ``pytorch.torch_pass`` and ``onnx.onnx_pass`` fulfil it.

    A method lists in the registry what it needs of these (see ``registry.Need``). What an engine cannot give, its pass
    refuses with a ``MethodError``.
    """

    @property
    def inputs(self) -> Tensor:
        """(B, C, *space), preprocessed."""

    @property
    def logits(self) -> Tensor:
        """(B, K), detached; a final activation is left out."""

    @property
    def features(self) -> Tensor:
        """(B, C, *grid), detached: the last spatial features, prefix tokens left out."""

    @property
    def prefix_tokens(self) -> Tensor:
        """The tokens before the grid, (B, C, prefix)."""

    @property
    def activation(self) -> Activation | None:
        """What the model itself applies to its logits, if it ends in one."""

    @property
    def takes_more(self) -> bool:
        """Whether the model takes more than pictures, so that like pictures may have unlike scores."""

    @property
    def split(self) -> KnownHead:
        """Where it was cut."""

    @property
    def fast_format(self) -> torch.memory_format:
        """How many inputs are best laid out in memory."""

    def again(self, inputs: Tensor) -> ForwardPass:
        """The pass of other inputs (N, C, *space) of this one's size. Cost: a pass."""

    def forward(self, inputs: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Logits (N, K) of other inputs, differentiable where the engine has gradients. Cost: a pass."""

    def predict(self, inputs: Tensor, most: int = 32, pictures: Tensor | None = None) -> Tensor:
        """Logits (N, K) of other inputs, at most ``most`` at once, without gradients. Cost: a pass.

        ``pictures`` (N,) says of which picture of this pass each is a changed one; it matters to models that take more
        than pictures, and need not be said where they are as many.
        """

    def head(self, features: Tensor) -> Tensor:
        """Logits (B, K) of other features (B, C, *grid); prefix tokens stay as they were."""

    def pooled_head(self, *, frozen: bool = True) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The pooled vector (B, C) and the head behind it, normalization statistics frozen; only with a pooling."""

    def frozen_statistics(self) -> FrozenStatistics:
        """The scale statistics of the head's normalizations at this pass's features."""

    def gradients(self, score: Score, statistics: FrozenStatistics | None = None) -> tuple[Tensor, Tensor]:
        """Gradients of scores at the features: on the grid (B, T, C, *grid), of prefix tokens (B, T, C, prefix)."""

    def gradient_times_features(self, score: Score, statistics: FrozenStatistics | None = None) -> Tensor:
        """Maps (B, T, *grid) of scores: gradient times features, summed over channels and over branches."""

    def each_gradient(
        self, score: Score, statistics: FrozenStatistics | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The gradients of one score after the other, so that all need not be held at once."""

    def input_gradients(self, score: Score, inputs: Tensor | None = None) -> Tensor:
        """Gradients of scores at the inputs (or others of their shape), (B, T, C, *space). Cost: a pass and back."""

    def at_zero(self, score: Score, statistics: FrozenStatistics | None = None) -> Tensor:
        """The scores (B, T) of features that are zero everywhere."""

    def attention(self, *, gradients: bool) -> Attention:
        """The attention matrices of a transformer. Cost: a pass."""


class Maps(NamedTuple):
    """What a method makes of a pass.

    Attributes:
        maps: (B, T, *grid), signed.
        bias: (B, T), for decompositions of the score: ``maps.sum() + bias`` is meant to be it. None for other maps.
        scores: (B, T), what the maps explain where that is not the targets' own score.
    """

    maps: Tensor
    bias: Tensor | None
    scores: Tensor | None = None


Compute: TypeAlias = "Callable[[ForwardPass, Targets], Maps]"
"""A method: what it makes of a pass for the targets, which are the scores to explain.

Its docstring says what it costs. Options beyond these two have defaults; set them with ``partial``.
"""
