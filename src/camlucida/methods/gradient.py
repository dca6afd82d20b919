"""Maps from the gradient at the last features: one forward pass, and one backward pass a score through the head alone.

A is the last features (C, *grid), S a score, g = ∂S/∂A its gradient (the network's own: normalization statistics move
with the features, as in the papers; ``cam`` holds them). Every sum below is over the cells unless it says otherwise.
Maps are stored before the papers' final ReLU. Where only class tokens are read behind the last attention, A are the
grid's tokens before it. Tensors are float32, or float64 for float64 models.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from camlucida.errors import MethodError, first_line
from camlucida.methods.forward_pass import ForwardPass, Maps
from camlucida.methods.torch_modes import TwiceDifferentiable
from camlucida.targets import Targets


def gradcam(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """Grad-CAM: each channel weighted by the mean of its gradient.

    Behind mean pooling and an affine head g_k = w_k / (h w) in every cell, and the map is the class activation map in
    logits per cell. Elsewhere the residual shows how far Σ map + bias is from the score.

    Cost: one forward pass; T backward passes through the head.

    Returns:
        maps (B, T, *grid) and bias (B, T): the score of zero features, and gradient x features of prefix tokens.
    """
    return _decomposed(forward_pass, targets, lambda g: _weighted(g.flatten(2).mean(2), forward_pass.features))


def hirescam(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """HiRes-CAM: gradient times features, cell by cell.

    Where the head is linear in the features (a flatten and one linear layer too) Σ map + bias is the score.

    Cost: one forward pass; T backward passes through the head.

    Returns:
        maps (B, T, *grid) and bias (B, T), as those of ``gradcam``.
    """
    return _decomposed(forward_pass, targets, lambda g: (g * forward_pass.features).sum(1))


def xgradcam(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """XGrad-CAM: each channel weighted by the mean of its gradient, its activations being the weights of the mean.

    Σ map is Σ g A of all channels, as that of HiRes-CAM. The division is exact; channels whose activations sum to zero
    get the weight 0.

    Cost: one forward pass; T backward passes through the head.

    Returns:
        maps (B, T, *grid) and bias (B, T), as those of ``gradcam``.
    """
    total = forward_pass.features.flatten(2).sum(2)
    return _decomposed(
        forward_pass,
        targets,
        lambda g: _weighted(divided((g * forward_pass.features).flatten(2).sum(2), total), forward_pass.features),
    )


def gradcam_plus_plus(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """Grad-CAM++ for Y = exp(S), whose derivatives are exp(S) g, exp(S) g² and exp(S) g³.

    The common factor exp(S) of a map is left out: it only scales the whole map, and overflows. α is computed as
    1 / (2 + g Σ A), which is the same without powers of small numbers; α = 0 where g = 0 or its denominator is. The
    authors' code also divides α by its sum over the cells, the paper does not, nor does this. Behind mean pooling and a
    linear head a channel's weight is relu(w) / (2 + w mean(A)).

    Cost: one forward pass; T backward passes through the head.

    Returns:
        maps (B, T, *grid); no bias.
    """
    total = forward_pass.features.flatten(2).sum(2, keepdim=True)

    def of(gradient: Tensor) -> Tensor:
        g = gradient.flatten(2)
        return _weighted(divided(g.relu(), 2 + g * total).sum(2), forward_pass.features)

    return Maps(_each(forward_pass, targets, of), None)


def layercam(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """Layer-CAM: features weighted cell by cell by their positive gradients.

    Cost: one forward pass; T backward passes through the head.

    Returns:
        maps (B, T, *grid); no bias.
    """
    return Maps(_each(forward_pass, targets, lambda g: (g.relu() * forward_pass.features).sum(1)), None)


def gradcam_elementwise(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """Element-wise Grad-CAM: the positive part of gradient x features in each channel and cell, summed over channels.

    Cost: one forward pass; T backward passes through the head.

    Returns:
        maps (B, T, *grid), nowhere negative; no bias.
    """
    return Maps(_each(forward_pass, targets, lambda g: (g * forward_pass.features).relu().sum(1)), None)


def eigengradcam(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """EigenGrad-CAM: the cells as points with C coordinates g_k A_k, centred, on their first principal axis.

    The axis has no sign of its own: it is turned so that the map goes with Σ_k g_k A_k (HiRes-CAM); where it goes
    neither with nor against, so that its largest value is positive.

    Cost: one forward pass; T backward passes through the head, each with an eigenvalue problem of min(cells, C) squared
    numbers.

    Returns:
        maps (B, T, *grid), of mean zero; no bias.
    """

    def of(gradient: Tensor) -> Tensor:
        points = (gradient * forward_pass.features).flatten(2)
        return _on_first_axis(points).reshape(-1, *forward_pass.features.shape[2:])

    return Maps(_each(forward_pass, targets, of), None)


def shapleycam(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """ShapleyCAM: Grad-CAM with half the curvature of the score taken off the gradient, on the way to zero features.

    The second-order expansion of the Shapley values of the grid's cells, averaged over the cells as Grad-CAM does;
    prefix tokens stay as they are. H A is a Hessian-vector product through the head alone; behind heads without
    curvature the map is Grad-CAM's. The score is the one asked for (the paper also proposes one of its own, ReST).

    Cost: one forward pass; T backward passes through the head, and T through those.

    Returns:
        maps (B, T, *grid) and bias (B, T), the score where the grid's features are zero.

    Raises:
        MethodError: torch has no second derivative for a call in the head.
    """
    features = forward_pass.features
    leaf = features.detach().clone().requires_grad_()
    maps = []
    with torch.enable_grad(), TwiceDifferentiable():
        scores = targets.of(forward_pass.head(leaf.clone()))
        for column in scores.sum(0).unbind():
            try:
                weights = _shapley(column, leaf)
            except RuntimeError as error:
                if "derivative" not in str(error) and "differentiate" not in str(error):
                    raise
                why = first_line(error)
                raise MethodError(f"shapleycam needs second derivatives, which this head has not: {why}") from error
            maps.append(_weighted(weights.flatten(2).mean(2), features))
    with torch.no_grad():
        bias = targets.of(forward_pass.head(torch.zeros_like(features)))
    return Maps(torch.stack(maps, 1), bias)


def _shapley(column: Tensor, leaf: Tensor) -> Tensor:
    """The gradient less ½ H A at ``leaf``, (B, C, *grid), of the score whose sum over the pictures is ``column``."""
    gradient = curved = None
    if column.requires_grad:
        (gradient,) = torch.autograd.grad(column, leaf, create_graph=True, allow_unused=True)
    if gradient is None:
        return torch.zeros_like(leaf)
    if gradient.requires_grad:
        (curved,) = torch.autograd.grad(gradient, leaf, leaf.detach(), retain_graph=True, allow_unused=True)
    plain: Tensor = gradient.detach()
    return plain if curved is None else plain - curved.detach() / 2


def divided(above: Tensor, below: Tensor) -> Tensor:
    """The quotient, exactly; 0 where ``below`` is 0.

    Example:
        >>> divided(torch.tensor([1.0, 3e-30, 0.0]), torch.tensor([0.0, 1e-30, 0.0]))
        tensor([0., 3., 0.])
    """
    return (above / below).masked_fill_(below == 0, 0)


def weighted(weights: Tensor, features: Tensor) -> Tensor:
    """Σ_k w_k A_k: weights (B, T, C), features (B, C, *grid) to (B, T, *grid)."""
    return torch.bmm(weights, features.flatten(2)).reshape(*weights.shape[:2], *features.shape[2:])


def _weighted(weights: Tensor, features: Tensor) -> Tensor:
    """The same of one target: weights (B, C) to (B, *grid)."""
    return weighted(weights[:, None], features)[:, 0]


def _each(forward_pass: ForwardPass, targets: Targets, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Maps (B, T, *grid): what ``of`` makes of each score's gradient on the grid, (B, C, *grid) to (B, *grid)."""
    return torch.stack([of(gradient) for gradient, _ in forward_pass.each_gradient(targets.of)], 1)


def _decomposed(forward_pass: ForwardPass, targets: Targets, of: Callable[[Tensor], Tensor]) -> Maps:
    """As ``_each``, with the bias: the score of nothing."""
    return Maps(_each(forward_pass, targets, of), forward_pass.at_zero(targets.of))


def _on_first_axis(points: Tensor) -> Tensor:
    """N centred points (B, C, N) on their first principal axis, (B, N), going with the sum of their coordinates."""
    scale = torch.maximum(points.amax((1, 2), keepdim=True), -points.amin((1, 2), keepdim=True))
    unit = points / scale.masked_fill(scale == 0, 1)  # so that squares of small numbers do not vanish
    total = unit.sum(1)
    unit -= unit.mean(2, keepdim=True)
    if unit.shape[2] <= unit.shape[1]:
        value, vector = torch.linalg.eigh(unit.mT @ unit)
        along = vector[..., -1] * value[..., -1:].clamp_min(0).sqrt()
    else:
        along = (torch.linalg.eigh(unit @ unit.mT)[1][..., -1:].mT @ unit)[:, 0]
    sign = (along * total).sum(1, keepdim=True).sign()
    largest = along.gather(1, along.abs().argmax(1, keepdim=True)).sign()
    turned: Tensor = torch.where(sign == 0, largest, sign) * along * scale[:, 0]
    return turned
