"""The attention matrices of a transformer's forward pass, seen without module names.

``ExplicitAttention`` shows every softmax over square matrices; a tape around it finds the tokens after each layer,
where residual branches meet again, and which tokens the logits read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from camlucida.errors import MethodError
from camlucida.pytorch.explicit_attention import ExplicitAttention
from camlucida.pytorch.grid import MOST_PREFIX_TOKENS
from camlucida.pytorch.head import RecordedFunction
from camlucida.pytorch.model_call import ModelCall
from camlucida.pytorch.split import Split
from camlucida.pytorch.tape import Tape, TapeStep, bottlenecks, value_of
from camlucida.targets import Score

_ADDITIONS = {"add", "__add__", "__radd__", "add_", "__iadd__"}


@dataclass(frozen=True)
class _Matrices:
    """A softmax over square matrices: ``node`` (B, heads, L, L) or (B·heads, L, L), after ``at`` taped calls."""

    node: Tensor
    at: int


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention of one pass through a plain transformer: L tokens, of which the last are the grid's cells.

    Attributes:
        nodes: of each layer, the softmax's output in the graph, (B, heads, L, L) or (B·heads, L, L).
        streams: of each layer, the tokens after it, (B, L, C) or (L, B, C); None where they cannot be told.
        logits: (B, K), in the graph.
        tail: the steps from the last of the streams to the logits.
        token_axis: 1 or 0, the streams' axis of tokens.
        read: the tokens that the logits read after the last layer: class tokens, or all that are pooled.
        prefix: how many tokens come before the grid's.
        grid: the cells.
    """

    nodes: tuple[Tensor, ...]
    streams: tuple[Tensor | None, ...]
    logits: Tensor
    tail: RecordedFunction
    token_axis: int
    read: tuple[int, ...]
    prefix: int
    grid: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """What numbers are reported in: float64 for float64 models, else float32."""
        return torch.float64 if self.logits.dtype == torch.float64 else torch.float32

    def matrices(self) -> list[Tensor]:
        """Of each layer, (B, heads, L, L), detached; row i is where token i looks."""
        return [self._as_matrices(node.detach()) for node in self.nodes]

    def gradients(self, scores: Tensor, layers: Sequence[int], *, last: bool) -> list[Tensor]:
        """The gradient of a sum of scores (scalar) with respect to the matrices of layers, each (B, heads, L, L).

        Raises:
            MethodError: the model computes them without gradients, or overwrites what gradients need.
        """
        nodes = [self.nodes[layer] for layer in layers]
        if not scores.requires_grad or not all(node.requires_grad for node in nodes):
            raise MethodError("the model computes its attention without gradients (torch.no_grad inside its forward); "
                              "use rollout, which needs none")  # fmt: skip
        try:
            gradients = torch.autograd.grad(scores, nodes, retain_graph=not last, allow_unused=True)
        except RuntimeError as error:
            if "inplace" not in str(error):
                raise
            raise MethodError("the model writes over values that its gradients need (in-place operations); "
                              "use rollout, which needs none") from error  # fmt: skip
        return [
            self._as_matrices(torch.zeros_like(node) if gradient is None else gradient)
            for node, gradient in zip(nodes, gradients, strict=True)
        ]

    def scores_after(self, layer: int, score: Score) -> Tensor:
        """The scores (B, T) that the final normalization and head give to the tokens after a layer, in the graph.

        Raises:
            MethodError: the tokens after that layer cannot be told.
        """
        stream = self.streams[layer]
        if stream is None:
            raise MethodError(f"the tokens after layer {layer} of {len(self.nodes)} are not the sum of a residual "
                              "connection, or were overwritten in place; use rollout")  # fmt: skip
        return score(self.tail(stream).flatten(1).to(self.dtype))

    def classified(self, token: int, score: Score) -> Tensor:
        """The scores (B, T) if the token of this number stood in the place of every token that the logits read."""
        tokens = self.tail.start.detach()
        order = torch.arange(tokens.shape[self.token_axis], device=tokens.device)
        order[list(self.read)] = token
        with torch.no_grad():
            return score(self.tail(tokens.index_select(self.token_axis, order)).flatten(1).to(self.dtype))

    def of_read_tokens(self, relevance: Tensor) -> Tensor:
        """Relevance (B, L, L) of tokens for tokens, as a map (B, *grid): the mean row of the tokens that are read."""
        return self.on_grid(relevance[:, list(self.read)].mean(1))

    def on_grid(self, tokens: Tensor) -> Tensor:
        """Values of all tokens (B, L), as a map (B, *grid)."""
        return tokens[:, self.prefix :].reshape(-1, *self.grid)

    def _as_matrices(self, tensor: Tensor) -> Tensor:
        batch = self.tail.start.shape[1 - self.token_axis]
        return tensor.reshape(batch, -1, *tensor.shape[-2:]).to(self.dtype)


def run_with_attention(call: ModelCall, inputs: Tensor, split: Split, *, gradients: bool) -> Attention:
    """Run a model once more, and keep its attention matrices.

    Args:
        call: of a transformer whose attention is among all cells of the final grid, class tokens or mean pooling behind
            it (ViT, DeiT, DINO, BEiT).
        inputs: (B, C, *space).
        split: where a pass of these inputs is cut.
        gradients: keep the graph, for gradients.

    Raises:
        MethodError: the model has no such attention, or the logits read its tokens in another way.
    """
    own = inputs.detach().clone().requires_grad_(gradients)
    seen: list[_Matrices] = []
    with torch.set_grad_enabled(gradients):
        own = own.clone()  # a model may normalize its input in place
        with (
            Tape(call.sources(own)) as tape,
            ExplicitAttention(lambda node: seen.append(_Matrices(node, len(tape.steps)))),
        ):
            output = call(own)
    steps, logits = split.ending.logits(tape, output)
    layers, length = _at_the_final_grid(seen, split, len(own))
    if not layers or len(layers) < len(seen):  # attention elsewhere (windows, other resolutions) mixes cells unseen
        raise _refused(split, len(own), seen)
    spots = bottlenecks(steps, value_of(logits))
    after = _sums_after(
        layers, [(i, output) for i, output in spots if _is_sum(steps[i], len(own), length)], steps, tape
    )
    streams = tuple(None if spot is None else _kept(steps[spot[0]], spot[1]) for spot in after)
    if after[-1] is None or streams[-1] is None:
        raise _refused(split, len(own), seen)
    start, tokens = after[-1][0], streams[-1]
    tail = RecordedFunction(tuple(steps[start + 1 :]), tokens, logits)
    token_axis = 1 if tokens.shape[:2] == (len(own), length) else 0
    values = [steps[i].tensors[output] for i, output in spots if i > start]
    read = _tokens_read(tail, values, token_axis)
    grid = split.layout.grid
    prefix = length - math.prod(grid)
    by_class_tokens = bool(read) and max(read) < prefix
    if not read or not (by_class_tokens or split.pooling or _pooled([tokens, *values], read, token_axis)):
        raise _refused(split, len(own), seen)
    return Attention(tuple(layer.node for layer in layers), streams, logits, tail, token_axis, read, prefix, grid)


def _at_the_final_grid(seen: Sequence[_Matrices], split: Split, batch: int) -> tuple[list[_Matrices], int]:
    """Those matrices that are among all cells of the final grid, with the tokens before it; and their size.

    Where the features are known to have tokens before the grid, there are so many; else a few may have been left out.
    """
    layout = split.layout
    cells = math.prod(layout.grid)
    sizes = range(cells + layout.prefix, cells + (layout.prefix or MOST_PREFIX_TOKENS) + 1)
    fitting = [
        matrices
        for matrices in seen
        if matrices.node.shape[-1] in sizes
        and (matrices.node.shape[0] == batch if matrices.node.ndim == 4 else matrices.node.shape[0] % batch == 0)
    ]
    size = fitting[-1].node.shape[-1] if fitting else 0
    return [matrices for matrices in fitting if matrices.node.shape[-1] == size], size


def _is_sum(step: TapeStep, batch: int, length: int) -> bool:
    """Whether a step adds two values of the pass, all tokens of it: where a residual branch meets the stream."""
    shape = tuple(step.tensors[0].shape)
    return (
        step.name in _ADDITIONS
        and len(set(step.inputs)) > 1
        and len(shape) == 3
        and shape[:2] in ((batch, length), (length, batch))
    )


def _sums_after(
    layers: Sequence[_Matrices], sums: Sequence[tuple[int, int]], steps: Sequence[TapeStep], tape: Tape
) -> list[tuple[int, int] | None]:
    """For each layer, the last sum before the next layer's attention: the tokens after its feed-forward part."""
    when = {id(step): index for index, step in enumerate(tape.steps)}
    ends = [*(layer.at for layer in layers[1:]), len(tape.steps)]
    last_sums = []
    for layer, end in zip(layers, ends, strict=True):
        within = [spot for spot in sums if layer.at <= when[id(steps[spot[0]])] < end]
        last_sums.append(within[-1] if within else None)
    return last_sums


def _kept(step: TapeStep, output: int) -> Tensor | None:
    """What a step made, unless later steps wrote over it."""
    tensor = step.tensors[output]
    return tensor if value_of(tensor) == step.outputs[output] else None


def _tokens_read(tail: RecordedFunction, before: Sequence[Tensor], token_axis: int) -> tuple[int, ...]:
    """The tokens at which the logits have a gradient; for a head of zeros, the last values before them with one."""
    for end in (tail.end, *reversed(before)):
        leaf = tail.start.detach().clone().requires_grad_()
        with torch.enable_grad():
            values = replace(tail, end=end)(leaf.clone())
            weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).to(values)
            (gradient,) = torch.autograd.grad((values * weights).sum(), leaf, allow_unused=True)
        strength = torch.zeros(1) if gradient is None else gradient.abs().sum(2).amax(1 - token_axis)
        if float(strength.max()) > 0:
            return tuple(torch.nonzero(strength > 1e-9 * strength.max()).flatten().tolist())
    return ()


def _pooled(values: Sequence[Tensor], read: Sequence[int], token_axis: int) -> bool:
    """Whether one of the values is the mean or sum of the read tokens of one before it, in numbers."""
    for index, value in enumerate(values):
        if value.ndim != 3 or value.shape[token_axis] <= max(read):
            continue
        total = (
            value.detach().double().index_select(token_axis, torch.tensor(read, device=value.device)).sum(token_axis)
        )
        for later in values[index + 1 :]:
            for divisor in (len(read), 1):
                if later.numel() == total.numel():
                    off = later.detach().double().reshape(total.shape) - total / divisor
                    if float(off.norm()) <= 1e-3 * float(total.norm()) / divisor:
                        return True
    return False


def _refused(split: Split, batch: int, seen: Sequence[_Matrices]) -> MethodError:
    grid = "×".join(map(str, split.layout.grid))
    shapes = ", ".join(dict.fromkeys(str(tuple(matrices.node.shape)) for matrices in seen)) or "none"
    return MethodError(
        f"attention methods need every self-attention to be among all cells of the final grid {grid}, read by class "
        f"tokens alone or by mean pooling alone (ViT, DeiT, DINO); square attention matrices seen for a batch of "
        f"{batch}: {shapes}; use cam, gradcam or eigencam"
    )
