"""Maps from perturbed features: the backbone runs once, and the head sees its features many times.

Opti-CAM, whose channel weights are optimized, masks the input and runs the whole network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from camlucida.methods.forward_pass import ForwardPass, Maps
from camlucida.methods.masked_inputs import activation_of, chosen, confidences, positive, unit_range, upsampled
from camlucida.pytorch.explicit_attention import map_over_batches
from camlucida.pytorch.model_pass import each_gradient_of
from camlucida.targets import Activation, Targets

Head = Callable[[Tensor], Tensor]


def ablationcam(forward_pass: ForwardPass, targets: Targets, *, batch: int = 32) -> Maps:
    """Ablation-CAM: channels weighted by how far the score falls when they are set to zero.

    The paper divides the drop by the score, which turns the map over where the score is negative, so that a shift of
    the logit's bias alone flips it. Here the drop itself is the weight: for positive scores the paper's map, times S.

    Cost: behind a pooling and an affine head the drop is gradient x pooled feature, one backward pass through the head
    for each target. Otherwise C passes through the head: from the pooled vector where there is one, which costs next
    to nothing for a linear head with a normalization; from the features elsewhere (ViT: C times the last block).

    Options:
        batch: inputs whose features the head sees at once (at least those of one batch).

    Returns:
        maps (B, T, *grid), no bias.
    """
    positive("ablationcam", batch=batch)
    linear = targets.weights is not None or targets.everything
    with torch.no_grad():
        if forward_pass.split.kind == "affine" and forward_pass.split.pooling is not None and linear:
            drops = _affine_drops(forward_pass, targets)
        else:
            drops = _drops(forward_pass, targets, batch)
        return Maps(torch.einsum("btc,bc...->bt...", drops, forward_pass.features), None)


def reciprocam(
    forward_pass: ForwardPass,
    targets: Targets,
    *,
    gaussian: bool = False,
    batch: int = 32,
    activation: Activation | None = None,
) -> Maps:
    """Recipro-CAM: the class's probability when the head sees the features of one cell, and zeros elsewhere.

    Class and register tokens stay as they are (ViT-ReciproCAM); the other tokens are zeroed before the last attention.

    Cost: a pass through the head for each cell.

    Options:
        gaussian: keep the cell's neighbours too, under the 3-wide binomial mask (1, 2, 1)/4 along each axis.
        batch: inputs whose features the head sees at once (at least those of one batch).
        activation: what makes probabilities; None: the model's own, else softmax; "none": the scores themselves.

    Returns:
        maps (B, T, *grid), no bias.
    """
    positive("reciprocam", batch=batch)
    grid = forward_pass.features.shape[2:]
    masks = _cell_masks(grid, gaussian).to(forward_pass.features)  # (cells, cells)
    with torch.no_grad():
        if forward_pass.split.pooling is None:
            flat = forward_pass.features.flatten(2)
            head = _head_of(forward_pass)

            def make(cells: Tensor) -> Tensor:
                return (flat * masks[cells][:, None, None]).reshape(len(cells), *forward_pass.features.shape)
        else:
            _, head = forward_pass.pooled_head(frozen=False)
            vectors = (
                torch.einsum("up,bcp->ubc", masks, forward_pass.features.flatten(2))
                / forward_pass.split.pooling.divisor
            )

            def make(cells: Tensor) -> Tensor:
                return torch.index_select(vectors, 0, cells)

        scores = _scores_of_many(
            head, make, len(masks), forward_pass, targets, batch, activation_of(forward_pass, activation)
        )
    return Maps(scores.permute(1, 2, 0).reshape(*scores.shape[1:], *grid), None)


def opticam(
    forward_pass: ForwardPass, targets: Targets, *, steps: int = 100, rate: float = 0.1, batch: int = 32
) -> Maps:
    """Opti-CAM: channel weights found by Adam, for each picture and target by itself, from equal weights.

    Deterministic; only u gets a gradient. The authors' code may stop early, this does not.

    Cost: ``steps`` forward and backward passes through the whole network for each target.

    Args:
        forward_pass: the forward pass.
        targets: the scores to maximize.
        steps: of Adam.
        rate: Adam's learning rate.
        batch: masked inputs in the network at once.

    Returns:
        maps (B, T, *grid), no bias.
    """
    positive("opticam", steps=steps, rate=rate, batch=batch)
    pictures, columns = torch.ones(targets.ids.shape, device=forward_pass.inputs.device).nonzero(as_tuple=True)
    maps = [
        _optimized(forward_pass, chosen(targets, rows), rows, column, steps, rate)
        for rows, column in zip(torch.split(pictures, batch), torch.split(columns, batch), strict=True)
    ]
    return Maps(torch.cat(maps).reshape(*targets.ids.shape, *forward_pass.features.shape[2:]), None)


def _affine_drops(forward_pass: ForwardPass, targets: Targets) -> Tensor:
    """(B, T, C): each channel's part of an affine score."""
    pooled, head = forward_pass.pooled_head(frozen=False)
    leaf = pooled.clone().requires_grad_()
    with torch.enable_grad():
        scores = targets.of(head(leaf))
    return torch.stack(list(each_gradient_of(scores, leaf)), 1) * pooled[:, None]


def _drops(forward_pass: ForwardPass, targets: Targets, batch: int) -> Tensor:
    """(B, T, C): the score less that of the head with a channel at zero."""
    if forward_pass.split.pooling is None:
        whole, head = forward_pass.features, _head_of(forward_pass)
    else:
        whole, head = forward_pass.pooled_head(frozen=False)
    channels = torch.arange(whole.shape[1], device=whole.device)
    tail = (None,) * (whole.ndim - 2)

    def make(ablated: Tensor) -> Tensor:
        kept = channels != ablated[:, None]
        return torch.where(kept[(slice(None), None, slice(None), *tail)], whole, 0)

    without = _scores_of_many(head, make, len(channels), forward_pass, targets, batch, "none")
    score: Tensor = targets.of(head(whole.clone()))
    return (score - without).permute(1, 2, 0)


def _scores_of_many(
    head: Head,
    make: Callable[[Tensor], Tensor],
    count: int,
    forward_pass: ForwardPass,
    targets: Targets,
    batch: int,
    activation: Activation,
) -> Tensor:
    """Confidences (count, B, T) of a head for ``count`` perturbations of its input, ``make(positions)`` (n, B, …)."""
    size = len(forward_pass.features)
    rows = torch.arange(size, device=forward_pass.features.device)
    scores = []
    for part in torch.split(torch.arange(count, device=forward_pass.features.device), max(1, batch // size)):
        logits = map_over_batches(head, make(part))
        every = chosen(targets, rows.repeat(len(part)))
        scores.append(confidences(every, logits.flatten(0, 1), activation).reshape(len(part), size, -1))
    return torch.cat(scores)


def _head_of(forward_pass: ForwardPass) -> Head:
    return forward_pass.head


def _cell_masks(grid: tuple[int, ...], gaussian: bool) -> Tensor:
    """Masks (cells, cells) that keep each cell alone, or with its neighbours by (1, 2, 1)/4 along each axis."""
    masks = torch.ones(1, 1)
    for size in grid:
        axis = torch.eye(size)
        if gaussian:
            axis = axis / 2 + (torch.eye(size + 1)[:-1, 1:] + torch.eye(size + 1)[1:, :-1]) / 4
        masks = torch.kron(masks, axis)
    return masks


def _optimized(
    forward_pass: ForwardPass, targets: Targets, pictures: Tensor, columns: Tensor, steps: int, rate: float
) -> Tensor:
    """Maps (n, *grid) of pictures (n,), each for its own column of their targets."""
    inputs, features = forward_pass.inputs[pictures], forward_pass.features[pictures]

    def combined(u: Tensor) -> Tensor:
        return torch.einsum("nc,nc...->n...", u.softmax(1), features)[:, None]

    with torch.enable_grad():
        u = torch.full(features.shape[:2], 0.5, dtype=features.dtype, device=features.device, requires_grad=True)
        adam = torch.optim.Adam([u], lr=rate)
        for _ in range(steps):
            masks = unit_range(upsampled(combined(u), inputs.shape[2:]))
            scores = targets.of(forward_pass.forward(inputs * masks.to(inputs), pictures))
            loss = -scores.gather(1, columns[:, None]).sum()
            (u.grad,) = torch.autograd.grad(loss, u)
            adam.step()
    return combined(u.detach())[:, 0]
