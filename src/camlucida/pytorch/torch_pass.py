"""One forward pass of a torch classifier, cut at its features, with the head as a function on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from camlucida.errors import MethodError, ModelError
from camlucida.pytorch.attention_weights import Attention, run_with_attention
from camlucida.pytorch.head import DESCRIPTIONS, FrozenStatistics, Pooling, RecordedFunction
from camlucida.pytorch.model_call import ModelCall
from camlucida.pytorch.model_pass import ModelPass, each_gradient_of
from camlucida.pytorch.outputs import as_rows
from camlucida.pytorch.split import Split
from camlucida.pytorch.tape import TapeStep
from camlucida.targets import Score


class TorchPass(ModelPass):
    """What one forward pass left behind: logits, features on their grid, and the head as a function.

    Everything is float32 (float64 for float64 models), whatever the model computed in; the backbone ran without
    gradients, the head with them. It fulfils ``methods.forward_pass.ForwardPass``.

    Attributes:
        logits: (B, K), detached.
        features: (B, C, *grid), detached: the last spatial features, prefix tokens left out; of several branches with
            a grid, the finest.
        split: where the cut was, and what kind of head stands behind it.
        inputs: (B, C, *space), the preprocessed inputs, in the model's own floating-point type.
        call: what ran, in evaluation mode while a method computes.
    """

    def __init__(
        self, split: Split, originals: Sequence[Tensor], head: RecordedFunction, logits: Tensor, inputs: Tensor,
        call: ModelCall, run: Callable[[Tensor], TorchPass],
    ) -> None:  # fmt: skip
        precise = torch.float64 if originals[0].dtype == torch.float64 else torch.float32
        super().__init__(call, inputs, logits, split.ending, precise)
        self.split = split
        self._with_prefix, *self._others = (
            original.detach().to(precise) if original.is_floating_point() else original.detach()
            for original in originals
        )
        self.features = split.layout.on_grid(self._with_prefix)
        self._head = head
        self._run = run

    @property
    def prefix_tokens(self) -> Tensor:
        """The tokens before the grid, (B, C, prefix)."""
        return self.split.layout.prefix_tokens(self._with_prefix)

    # --- the model again, on other inputs -----------------------------------------------------------------------------

    def again(self, inputs: Tensor) -> TorchPass:
        """The pass of other inputs (N, C, *space) of this one's size, cut at the same place."""
        return self._run(inputs)

    def attention(self, *, gradients: bool) -> Attention:
        """The attention matrices of one more pass; see ``attention_weights.run_with_attention``."""
        return run_with_attention(self.call, self.inputs, self.split, gradients=gradients)

    # --- the head, on other features ----------------------------------------------------------------------------------

    def head(self, features: Tensor) -> Tensor:
        """Logits (B, K) of other features (B, C, *grid); prefix tokens and other branches stay as they were.

        Differentiable.
        """
        return as_rows(self._head(self.split.layout.put(self._with_prefix, features)), len(features))

    def frozen_statistics(self) -> FrozenStatistics:
        """The scale statistics of the head's normalizations at this pass's features."""
        statistics = FrozenStatistics(self.split.statistics)
        with torch.no_grad():
            self._head(self._with_prefix, statistics)
        return statistics

    def gradient_times_features(self, score: Score, statistics: FrozenStatistics | None = None) -> Tensor:
        """Maps (B, T, *grid) of scores: of every branch the sum over channels of gradient times features, brought to
        the finest grid, where each coarse cell's value is shared out over what it covers.
        """
        branches = [self._with_prefix, *self._others[: len(self.split.layouts) - 1]]
        sides = self._others[len(self.split.layouts) - 1 :]
        leaves = [branch.clone().requires_grad_() for branch in branches]
        with torch.enable_grad():
            first, *others = (leaf.clone() for leaf in leaves)
            scores = score(self._differentiable(self._head(first, statistics, [*others, *sides])))
        grid = self.features.shape[2:]
        maps: list[list[Tensor]] = [[] for _ in range(scores.shape[1])]
        for layout, leaf, branch in zip(self.split.layouts, leaves, branches, strict=True):
            own = layout.on_grid(branch)
            for column, gradient in zip(maps, each_gradient_of(scores, leaf, keep=True), strict=True):
                column.append(shared_out((layout.on_grid(gradient) * own).sum(1), grid))
        return torch.stack([torch.stack(column).sum(0) for column in maps], 1)

    def gradients(self, score: Score, statistics: FrozenStatistics | None = None) -> tuple[Tensor, Tensor]:
        """Gradients of scores with respect to all features, with the normalization ``statistics`` frozen if given.

        Returns:
            On the grid, (B, T, C, *grid), and of the prefix tokens, (B, T, C, prefix).
        """
        on_grid, prefix = zip(*self.each_gradient(score, statistics), strict=True)
        return torch.stack(on_grid, 1), torch.stack(prefix, 1)

    def each_gradient(
        self, score: Score, statistics: FrozenStatistics | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The gradients of one score after the other, so that all need not be held at once (see ``gradients``).

        Yields:
            On the grid, (B, C, *grid), and of the prefix tokens, (B, C, prefix).
        """
        leaf = self._with_prefix.clone().requires_grad_()
        with torch.enable_grad():
            scores = score(self._differentiable(self._head(leaf.clone(), statistics)))
        layout = self.split.layout
        for gradient in each_gradient_of(scores, leaf):
            yield layout.on_grid(gradient), layout.prefix_tokens(gradient)

    def _differentiable(self, logits: Tensor) -> Tensor:
        if not logits.requires_grad or self.split.without_gradient:
            raise MethodError(
                "no gradient leads from the logits back to the features (quantized or rounded values, or numbers taken "
                "out of torch); choose a method that needs none: rise, occlusion, scorecam, ablationcam or eigencam"
            )
        return as_rows(logits, len(self.inputs))

    def at_zero(self, score: Score, statistics: FrozenStatistics | None = None) -> Tensor:
        """The scores (B, T) of nothing: features, prefix tokens and all that leads past them zero. So it is the model's
        own constant, the same for every input.

        ``statistics`` are frozen where a normalization is not defined for nothing.
        """
        zeros = [torch.zeros_like(value) for value in (self._with_prefix, *self._others)]
        count = len(self.inputs)
        with torch.no_grad():
            free = score(as_rows(self._head(zeros[0], None, zeros[1:]), count))
            if statistics is None or bool(free.isfinite().all()):
                return free
            frozen = score(as_rows(self._head(zeros[0], statistics, zeros[1:]), count))
            return torch.where(frozen.isfinite(), frozen, 0)

    def steps_behind_pooling(self) -> tuple[TapeStep, ...]:
        """The recorded calls from the pooled vector to the logits."""
        return () if self.split.pooling is None else self._behind(self.split.pooling).steps

    def pooled_head(self, *, frozen: bool = True) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The pooled vector (B, C) and the head behind it, with normalization statistics frozen at this pass's.

        Only for splits that have a pooling; ``frozen=False`` gives the head as it is, statistics and all.
        """
        pooling = self.split.pooling
        if pooling is None:
            raise ModelError(f"this head has no mean or sum pooling ({DESCRIPTIONS[self.split.kind]})")
        behind = self._behind(pooling)
        shape = behind.start.shape
        pooled = self.features.flatten(2).sum(2) / pooling.divisor
        statistics = FrozenStatistics(self.split.statistics) if frozen and self.split.kind == "normalized" else None
        if statistics is not None:
            with torch.no_grad():
                behind(pooled.reshape(shape), statistics)

        def head(vectors: Tensor) -> Tensor:
            return as_rows(behind(vectors.reshape(shape), statistics), len(vectors))

        return pooled, head

    def _behind(self, pooling: Pooling) -> RecordedFunction:
        return self._head.behind(pooling.index, pooling.output)


def shared_out(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Maps (B, *coarse) on a finer grid, (B, *grid): each cell's value is spread evenly over what it covers, so that
    sums stay.

    >>> shared_out(torch.tensor([[3.0, 6.0]]), [3])
    tensor([[2., 3., 4.]])
    """
    for axis, fine in enumerate(grid, start=1):
        coarse = maps.shape[axis]
        if coarse != fine:
            edges = torch.arange(fine + 1, dtype=torch.float64) * coarse / fine
            cells = torch.arange(coarse, dtype=torch.float64)[:, None]
            covered = (torch.minimum(edges[1:], cells + 1) - torch.maximum(edges[:-1], cells)).clamp_min(0)
            maps = torch.tensordot(maps, covered.to(maps), ([axis], [0])).movedim(-1, axis)
    return maps
