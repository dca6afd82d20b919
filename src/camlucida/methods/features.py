"""Maps from perturbed features: the backbone runs once, and the head sees its features many times.

Opti-CAM, whose channel weights are optimized, masks the input and runs the whole network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from camlucida.methods._masking import activation_of, chosen, confidences, positive, unit_range, upsampled
from camlucida.methods.registry import Maps, method
from camlucida.targets import Activation

if TYPE_CHECKING:
    from torch import Tensor

    from camlucida.pytorch.engine import Pass
    from camlucida.targets import Targets

    Head = Callable[[Tensor], Tensor]


@method(
    "ablationcam",
    summary="M = Σ_k (S - S without A_k) A_k",
    paper="Desai & Ramaswamy, Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free "
    "Localization, WACV 2020, eq. 3-4, without its division by S",
    unit="logit drop x activation",
)
def ablationcam(passed: Pass, targets: Targets, *, batch: int = 32) -> Maps:
    """Ablation-CAM: channels weighted by how far the score falls when they are set to zero.

    The paper divides the drop by the score, which turns the map over where the score is negative, so that a shift of
    the logit's bias alone flips it. Here the drop itself is the weight: for positive scores the paper's map, times S.

    Cost: behind a pooling and an affine head the drop is gradient x pooled feature, one backward pass through the head
    for each target. Otherwise C passes through the head: from the pooled vector where there is one, which costs next
    to nothing for a linear head with a normalization; from the features elsewhere (ViT: C times the last block).

    Args:
        passed: the forward pass.
        targets: the scores to explain.
        batch: inputs whose features the head sees at once (at least those of one batch).

    Returns:
        maps (B, T, *grid), no bias.
    """
    import torch

    positive("ablationcam", batch=batch)
    linear = targets.weights is not None or targets.everything
    with torch.no_grad():
        if passed.split.kind == "affine" and passed.split.pooling is not None and linear:
            drops = _affine_drops(passed, targets)
        else:
            drops = _drops(passed, targets, batch)
        return Maps(torch.einsum("btc,bc...->bt...", drops, passed.features), None)


@method(
    "reciprocam",
    summary="M(u) = p(head of the features at u alone)",
    paper="Byun & Lee, Recipro-CAM: Fast Gradient-free Visual Explanations for CNNs, 2022; ViT-ReciproCAM, 2023",
    unit="probability",
)
def reciprocam(
    passed: Pass,
    targets: Targets,
    *,
    gaussian: bool = False,
    batch: int = 32,
    activation: Activation | None = None,
) -> Maps:
    """Recipro-CAM: the class's probability when the head sees the features of one cell, and zeros elsewhere.

    Class and register tokens stay as they are (ViT-ReciproCAM); the other tokens are zeroed before the last attention.

    Cost: a pass through the head for each cell.

    Args:
        passed: the forward pass.
        targets: the scores to explain.
        gaussian: keep the cell's neighbours too, under the 3-wide binomial mask (1, 2, 1)/4 along each axis.
        batch: inputs whose features the head sees at once (at least those of one batch).
        activation: what makes probabilities; None: the model's own, else softmax; "none": the scores themselves.

    Returns:
        maps (B, T, *grid), no bias.
    """
    import torch

    positive("reciprocam", batch=batch)
    grid = passed.features.shape[2:]
    masks = _cell_masks(grid, gaussian).to(passed.features)  # (cells, cells)
    with torch.no_grad():
        if passed.split.pooling is None:
            flat = passed.features.flatten(2)
            head = _head_of(passed)

            def make(cells: Tensor) -> Tensor:
                return (flat * masks[cells][:, None, None]).reshape(len(cells), *passed.features.shape)
        else:
            _, head = passed.pooled_head(held=False)
            vectors = torch.einsum("up,bcp->ubc", masks, passed.features.flatten(2)) / passed.split.pooling.divisor

            def make(cells: Tensor) -> Tensor:
                return torch.index_select(vectors, 0, cells)

        scores = _scores_of_many(head, make, len(masks), passed, targets, batch, activation_of(passed, activation))
    return Maps(scores.permute(1, 2, 0).reshape(*scores.shape[1:], *grid), None)


@method(
    "opticam",
    summary="M = Σ_k softmax(u)_k A_k, u maximizing S(X ∘ M upsampled and scaled to [0, 1])",
    paper="Zhang et al., Opti-CAM: Optimizing saliency maps for interpretability, CVIU 2024, eq. 6-10",
    unit="activation, channels weighted by optimization",
)
def opticam(passed: Pass, targets: Targets, *, steps: int = 100, rate: float = 0.1, batch: int = 32) -> Maps:
    """Opti-CAM: channel weights found by Adam, for each picture and target by itself, from equal weights.

    Deterministic; only u gets a gradient. The authors' code may stop early, this does not.

    Cost: ``steps`` forward and backward passes through the whole network for each target.

    Args:
        passed: the forward pass.
        targets: the scores to maximize.
        steps: of Adam.
        rate: Adam's learning rate.
        batch: masked inputs in the network at once.

    Returns:
        maps (B, T, *grid), no bias.
    """
    import torch

    positive("opticam", steps=steps, rate=rate, batch=batch)
    pictures, columns = torch.ones(targets.ids.shape, device=passed.inputs.device).nonzero(as_tuple=True)
    maps = [
        _optimized(passed, chosen(targets, rows), rows, column, steps, rate)
        for rows, column in zip(torch.split(pictures, batch), torch.split(columns, batch), strict=True)
    ]
    return Maps(torch.cat(maps).reshape(*targets.ids.shape, *passed.features.shape[2:]), None)


def _affine_drops(passed: Pass, targets: Targets) -> Tensor:
    """(B, T, C): each channel's part of an affine score."""
    import torch

    from camlucida.pytorch.engine import gradients_of

    pooled, head = passed.pooled_head(held=False)
    leaf = pooled.clone().requires_grad_()
    with torch.enable_grad():
        scores = targets.of(head(leaf))
    return torch.stack(gradients_of(scores, leaf), 1) * pooled[:, None]


def _drops(passed: Pass, targets: Targets, batch: int) -> Tensor:
    """(B, T, C): the score less that of the head with a channel at zero."""
    import torch

    if passed.split.pooling is None:
        whole, head = passed.features, _head_of(passed)
    else:
        whole, head = passed.pooled_head(held=False)
    channels = torch.arange(whole.shape[1], device=whole.device)
    tail = (None,) * (whole.ndim - 2)

    def make(ablated: Tensor) -> Tensor:
        kept = channels != ablated[:, None]
        return torch.where(kept[(slice(None), None, slice(None), *tail)], whole, 0)

    without = _scores_of_many(head, make, len(channels), passed, targets, batch, "none")
    score: Tensor = targets.of(head(whole.clone()))
    return (score - without).permute(1, 2, 0)


def _scores_of_many(
    head: Head,
    make: Callable[[Tensor], Tensor],
    count: int,
    passed: Pass,
    targets: Targets,
    batch: int,
    activation: Activation,
) -> Tensor:
    """Confidences (count, B, T) of a head for ``count`` perturbations of its input, ``make(positions)`` (n, B, …)."""
    import torch

    from camlucida.pytorch.vmapped import mapped

    size = len(passed.features)
    rows = torch.arange(size, device=passed.features.device)
    found = []
    for part in torch.split(torch.arange(count, device=passed.features.device), max(1, batch // size)):
        logits = mapped(head, make(part))
        every = chosen(targets, rows.repeat(len(part)))
        found.append(confidences(every, logits.flatten(0, 1), activation).reshape(len(part), size, -1))
    return torch.cat(found)


def _head_of(passed: Pass) -> Head:
    return passed.head


def _cell_masks(grid: tuple[int, ...], gaussian: bool) -> Tensor:
    """Masks (cells, cells) that keep each cell alone, or with its neighbours by (1, 2, 1)/4 along each axis."""
    import torch

    masks = torch.ones(1, 1)
    for size in grid:
        axis = torch.eye(size)
        if gaussian:
            axis = axis / 2 + (torch.eye(size + 1)[:-1, 1:] + torch.eye(size + 1)[1:, :-1]) / 4
        masks = torch.kron(masks, axis)
    return masks


def _optimized(passed: Pass, targets: Targets, pictures: Tensor, columns: Tensor, steps: int, rate: float) -> Tensor:
    """Maps (n, *grid) of pictures (n,), each for its own column of their targets."""
    import torch

    inputs, features = passed.inputs[pictures], passed.features[pictures]

    def combined(u: Tensor) -> Tensor:
        return torch.einsum("nc,nc...->n...", u.softmax(1), features)[:, None]

    with torch.enable_grad():
        u = torch.full(features.shape[:2], 0.5, dtype=features.dtype, device=features.device, requires_grad=True)
        adam = torch.optim.Adam([u], lr=rate)
        for _ in range(steps):
            masks = unit_range(upsampled(combined(u), inputs.shape[2:]))
            scores = targets.of(passed.forward(inputs * masks.to(inputs)))
            loss = -scores.gather(1, columns[:, None]).sum()
            (u.grad,) = torch.autograd.grad(loss, u)
            adam.step()
    return combined(u.detach())[:, 0]
