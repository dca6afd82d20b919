"""Maps from a transformer's attention: rollout, gradient rollout, LeGrad and TS-CAM.

For plain vision transformers, whose logits read class tokens or the mean of the cells' tokens (ViT, DeiT, DINO, BEiT).
Where a paper takes the class token's row of a matrix, mean-pooled models have the mean of the pooled tokens' rows.
Each costs a second forward pass, in which the attention is written out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from camlucida.errors import MethodError
from camlucida.methods.forward_pass import ForwardPass, Maps
from camlucida.targets import Targets


def rollout(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """Attention rollout: how much of each cell flows into what the logits read, were attention all that mixes tokens.

    Â_l = ½ mean_h A_l + ½ I, its rows normalized to 1; R = Â_L ··· Â_1; the map is the class token's row of R. With the
    tokens before the grid it sums to 1. It says nothing of classes: every target gets the same map.

    Cost: one further forward pass, no gradient, and L products of tokens × tokens matrices.

    Returns:
        maps (B, T, *grid), no bias.

    Raises:
        MethodError: the model has no attention among the cells of its final grid.
    """
    seen = forward_pass.attention(gradients=False)
    matrices = seen.matrices()
    flow = identity = _identity(matrices[0])
    for matrix in matrices:
        mixed = 0.5 * matrix.mean(1) + 0.5 * identity
        flow = torch.bmm(mixed / mixed.sum(2, keepdim=True), flow)
    maps = seen.of_read_tokens(flow)[:, None]
    return Maps(maps.expand(-1, targets.ids.shape[1], *maps.shape[2:]), None)


def gradient_rollout(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """Attention weighted with the gradient of each score, rolled out over the layers.

    Ā_l = mean over heads of (∇A_l ⊙ A_l)⁺, where ∇A_l = ∂S_t/∂A_l; R = I, then R ← R + Ā_l R for each layer; the map is
    the class token's row of R. It is not negative.

    Cost: one further forward pass with its graph, T backward passes down to the first attention.

    Returns:
        maps (B, T, *grid), no bias.

    Raises:
        MethodError: the model has no attention among the cells of its final grid, or computes it without gradients.
    """
    seen = forward_pass.attention(gradients=True)
    with torch.enable_grad():
        columns = targets.of(seen.logits.flatten(1).to(seen.dtype)).sum(0).unbind()
    layers, matrices, maps = range(len(seen.nodes)), seen.matrices(), []
    for column in columns:
        relevance = _identity(matrices[0])
        slopes = seen.gradients(column, layers, last=column is columns[-1])
        for matrix, slope in zip(matrices, slopes, strict=True):
            relevance = relevance + torch.bmm((slope * matrix).clamp_min(0).mean(1), relevance)
        maps.append(seen.of_read_tokens(relevance))
    return Maps(torch.stack(maps, 1), None)


def legrad(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """How sensitive each layer's own score is to where its attention looks.

    s_l is the score that the model's final normalization and head give to the tokens after layer l, read as the model
    reads its last ones (class token or mean). E_l(j) = 1/(heads · tokens) Σ_h Σ_i (∂s_l/∂A_l[h, i, j])⁺; the map is the
    mean of E_l over the layers at the grid's cells. It is not negative. (The authors' code for CLIP takes the mean of
    all tokens for s_l instead, and its default is the last two layers.)

    Cost: one further forward pass with its graph; for each score and layer, a backward pass through that layer alone.

    Returns:
        maps (B, T, *grid), no bias.

    Raises:
        MethodError: the model has no attention among the cells of its final grid, or computes it without gradients.
    """
    seen = forward_pass.attention(gradients=True)
    total = torch.zeros(())
    for layer in range(len(seen.nodes)):
        with torch.enable_grad():
            columns = seen.scores_after(layer, targets.of).sum(0).unbind()
        slopes = [seen.gradients(column, [layer], last=False)[0] for column in columns]
        total = total + torch.stack([seen.on_grid(slope.clamp_min(0).mean((1, 2))) for slope in slopes], 1)
    return Maps(total / len(seen.nodes), None)


def tscam(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """The class token's attention, times what the classifier says of each patch token.

    The attention is the class token's row, averaged over heads and layers, the same for all classes. The semantic map
    S_t is the score of each cell's token: in models with the paper's head, whose pooled patch tokens make the logits,
    the head's map of that class, with its bias. Other models were not trained for it: there S_t is the model's own
    final normalization and head, with the cell's token in the class token's place.

    Cost: one further forward pass, no gradient; in models without the paper's head, the final normalization and head
    for each cell.

    Returns:
        maps (B, T, *grid), no bias.

    Raises:
        MethodError: the model has no class token in its attention among the cells of its final grid.
    """
    seen = forward_pass.attention(gradients=False)
    if not seen.prefix:
        raise MethodError("tscam needs a class token, whose attention it shows, but the only tokens of this model are "
                          "the grid's; use cam or rollout")  # fmt: skip
    row = 0 if seen.read[0] >= seen.prefix else seen.read[0]
    looks = seen.on_grid(torch.stack([matrix[:, :, row].mean(1) for matrix in seen.matrices()]).mean(0))
    if seen.read[0] < seen.prefix:
        tokens = range(seen.prefix, seen.prefix + looks[0].numel())
        scores = torch.stack([seen.classified(token, targets.of) for token in tokens], 2)
    else:
        _, head = forward_pass.pooled_head()
        with torch.no_grad():
            scores = torch.stack([targets.of(head(cell)) for cell in forward_pass.features.flatten(2).unbind(2)], 2)
    return Maps(scores.reshape(*scores.shape[:2], *looks.shape[1:]) * looks[:, None], None)


def _identity(matrix: Tensor) -> Tensor:
    """Unit matrices (B, L, L) for attention (B, heads, L, L)."""
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device).expand(len(matrix), -1, -1)
