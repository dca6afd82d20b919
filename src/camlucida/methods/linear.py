"""Maps that are linear in the features: class activation maps.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, section 2:
M_c(x, y) = Σ_k w_k^c f_k(x, y). Here in logits per cell: divided by the number of cells where the head takes the mean.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from camlucida.errors import MethodError
from camlucida.methods.registry import Maps, method

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from camlucida.pytorch.engine import Pass
    from camlucida.targets import Targets


@method(
    "cam",
    summary="M = Σ_k w_k A_k, in logits per cell; exact behind affine heads, gradient x features elsewhere",
    paper="Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, eq. 2",
)
def cam(passed: Pass, targets: Targets) -> Maps:
    """Class activation maps of the targets.

    Behind an affine head (after mean or sum pooling) the map is the head applied to each cell: exact, and with
    ``map.sum() + bias`` equal to the score. With a normalization behind the pooling the same holds while this input's
    scale statistics are held. Behind other heads it is gradient x features at the last spatial features, with the bias
    of zero features; what is missing shows as the residual.

    Cost: one forward pass. All K classes: K·C·h·w multiply-adds; T classes: T backward passes through the head alone.

    Args:
        passed: the forward pass.
        targets: the scores to explain.

    Returns:
        maps (B, T, *grid) and bias (B, T).
    """
    if passed.split.pooling is None or passed.split.kind == "nonlinear":
        return _gradient_times_features(passed, targets)
    pooled, head = passed.pooled_head()
    cells = passed.features.flatten(2)
    if targets.everything:
        return _of_all_classes(passed, cells, pooled, head)
    return _of_some_classes(passed, targets, cells, pooled, head)


def _of_all_classes(passed: Pass, cells: Tensor, pooled: Tensor, head: Callable[[Tensor], Tensor]) -> Maps:
    """The head applied to every cell as if it were the pooled vector: one matrix product, no gradient."""
    import torch

    divisor = passed.split.pooling.divisor if passed.split.pooling else 1
    with torch.no_grad():
        bias = head(torch.zeros_like(pooled))
        at_cells = torch.func.vmap(head)(cells.permute(2, 0, 1)) - bias  # (cells, B, K)
        maps = at_cells.permute(1, 2, 0).div(divisor)
    return Maps(maps.reshape(*maps.shape[:2], *passed.features.shape[2:]), bias)


def _of_some_classes(
    passed: Pass, targets: Targets, cells: Tensor, pooled: Tensor, head: Callable[[Tensor], Tensor]
) -> Maps:
    """The head's gradient at the pooled vector is its weights (at this input's statistics)."""
    import torch

    from camlucida.pytorch.engine import gradients_of

    divisor = passed.split.pooling.divisor if passed.split.pooling else 1
    leaf = pooled.detach().clone().requires_grad_()
    with torch.enable_grad():
        scores = targets.of(head(leaf))
    weights = torch.stack(gradients_of(scores, leaf), 1)
    with torch.no_grad():
        bias = targets.of(head(torch.zeros_like(pooled)))
        maps = torch.bmm(weights, cells) / divisor
    return Maps(maps.reshape(*maps.shape[:2], *passed.features.shape[2:]), bias)


def _gradient_times_features(passed: Pass, targets: Targets) -> Maps:
    """Normalization statistics are held: a normalization does not see how long its input is, so that the gradient of
    features that are read through one alone (a ViT's last block reads its tokens so) is orthogonal to them.
    """
    pins = passed.held()
    on_grid, prefix = passed.gradients(targets.of, pins)
    maps = (on_grid * passed.features[:, None]).sum(2)
    bias = passed.at_zero(targets.of, pins) + (prefix * passed.prefix_tokens[:, None]).sum((2, 3))
    return Maps(maps, bias)


@method(
    "contrastive-cam",
    summary="the map of S_c - S_d, with d the strongest other class: why c and not its nearest rival",
    paper="Prabhushankar et al., Contrastive Explanations in Neural Networks, ICIP 2020, on maps of Zhou et al.",
)
def contrastive_cam(passed: Pass, targets: Targets) -> Maps:
    """The map of each asked class against the strongest class that is not it; for a given pair use ``Contrast``.

    The map explains S_c - S_d: ``map.sum() + bias`` is that difference. Cost: as ``cam``.

    Args:
        passed: the forward pass.
        targets: classes; not a score of another kind.

    Returns:
        maps (B, T, *grid), bias (B, T) and the differences explained (B, T).

    Raises:
        MethodError: the targets are no classes, or the model has a single logit.
    """
    return _against(passed, targets, rivals=1, strength=1.0)


@method(
    "finercam",
    summary="the map of Σ_d p_d (S_c - α S_d) / Σ_d p_d over the 3 classes d nearest to c in logit",
    paper="Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details, CVPR 2025",
)
def finercam(passed: Pass, targets: Targets, *, rivals: int = 3, strength: float = 1.0) -> Maps:
    """Finer-CAM: what tells a class from those that look most like it.

    The rivals d are the classes whose logits are nearest to that of c, weighted by their probabilities p_d, which are
    held, so that the explained score stays linear in the logits and the map exact where ``cam`` is. Cost: as ``cam``.

    Args:
        passed: the forward pass.
        targets: classes; not a score of another kind.
        rivals: how many classes to compare with (at most K - 1).
        strength: the paper's α: how much of the rivals' maps is subtracted.

    Returns:
        maps (B, T, *grid), bias (B, T) and the scores explained (B, T).

    Raises:
        MethodError: the targets are no classes, or the model has a single logit.
    """
    return _against(passed, targets, rivals=rivals, strength=strength)


def _against(passed: Pass, targets: Targets, *, rivals: int, strength: float) -> Maps:
    import torch

    logits = passed.logits
    if (targets.ids < 0).any() or logits.shape[1] < 2:
        raise MethodError("this method compares classes: ask for classes of a model that has at least two")
    asked = torch.from_numpy(targets.ids).to(logits.device)
    own = logits.gather(1, asked)[:, :, None]
    # One rival is the strongest other class; several are the nearest in logit.
    distance = (logits[:, None] - own).abs() if rivals > 1 else -logits[:, None].expand(-1, asked.shape[1], -1)
    distance = distance.scatter(2, asked[:, :, None], torch.inf)
    nearest = distance.topk(min(rivals, logits.shape[1] - 1), dim=2, largest=False).indices
    probability = logits.softmax(1)[:, None].expand_as(distance).gather(2, nearest)
    share = probability / probability.sum(2, keepdim=True).clamp_min(torch.finfo(logits.dtype).tiny)
    weights = torch.zeros_like(distance).scatter(2, nearest, -strength * share)
    weights = weights.scatter_add(2, asked[:, :, None], torch.ones_like(own))
    against = replace(
        targets, weights=weights.float().cpu().numpy(), ids=np.full_like(targets.ids, -1), everything=False
    )
    made = cam(passed, against)
    return Maps(made.maps, made.bias, against.of(logits))
