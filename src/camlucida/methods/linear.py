"""Maps that are linear in the features: class activation maps.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, section 2:
M_c(x, y) = Σ_k w_k^c f_k(x, y). Here in logits per cell: divided by the number of cells where the head takes the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from camlucida.errors import MethodError
from camlucida.methods.forward_pass import ForwardPass, Maps
from camlucida.pytorch.explicit_attention import map_over_batches
from camlucida.pytorch.model_pass import each_gradient_of
from camlucida.targets import Targets


def cam(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """Class activation maps of the targets.

    Behind an affine head (after mean or sum pooling) the map is the head applied to each cell: exact, and with
    ``map.sum() + bias`` equal to the score. With a normalization behind the pooling the same holds while this input's
    scale statistics are held. Behind other heads it is gradient x features at the last spatial features, with the bias
    of zero features; what is missing shows as the residual.

    Cost: one forward pass. All K classes: K·C·h·w multiply-adds; T classes: T backward passes through the head alone.

    Returns:
        maps (B, T, *grid) and bias (B, T).
    """
    if forward_pass.split.pooling is None or forward_pass.split.kind == "nonlinear":
        return _gradient_times_features(forward_pass, targets)
    pooled, head = forward_pass.pooled_head()
    cells = forward_pass.features.flatten(2)
    if targets.everything:
        return _of_all_classes(forward_pass, cells, pooled, head)
    return _of_some_classes(forward_pass, targets, cells, pooled, head)


def _of_all_classes(forward_pass: ForwardPass, cells: Tensor, pooled: Tensor, head: Callable[[Tensor], Tensor]) -> Maps:
    """The head applied to every cell as if it were the pooled vector: one matrix product, no gradient."""
    divisor = forward_pass.split.pooling.divisor if forward_pass.split.pooling else 1
    with torch.no_grad():
        bias = head(torch.zeros_like(pooled))
        at_cells = map_over_batches(head, cells.permute(2, 0, 1)) - bias  # (cells, B, K)
        maps = at_cells.permute(1, 2, 0).div(divisor)
    return Maps(maps.reshape(*maps.shape[:2], *forward_pass.features.shape[2:]), bias)


def _of_some_classes(
    forward_pass: ForwardPass, targets: Targets, cells: Tensor, pooled: Tensor, head: Callable[[Tensor], Tensor]
) -> Maps:
    """The head's gradient at the pooled vector is its weights (at this input's statistics)."""
    divisor = forward_pass.split.pooling.divisor if forward_pass.split.pooling else 1
    leaf = pooled.detach().clone().requires_grad_()
    with torch.enable_grad():
        scores = targets.of(head(leaf))
    if not scores.requires_grad or forward_pass.split.without_gradient:  # quantized layers, say
        return _combined(_of_all_classes(forward_pass, cells, pooled, head), targets)
    weights = torch.stack(list(each_gradient_of(scores, leaf)), 1)
    with torch.no_grad():
        bias = targets.of(head(torch.zeros_like(pooled)))
        maps = torch.bmm(weights, cells) / divisor
    return Maps(maps.reshape(*maps.shape[:2], *forward_pass.features.shape[2:]), bias)


def _combined(every: Maps, targets: Targets) -> Maps:
    """The maps of scores that are linear in the logits, from those of all classes.

    Raises:
        MethodError: a score is not linear in the logits.
    """
    if targets.weights is None or every.bias is None:
        raise MethodError("no gradient leads back through this head, so only classes and their contrasts have maps")
    weights = torch.from_numpy(targets.weights).to(every.maps)
    return Maps(torch.einsum("btk,bk...->bt...", weights, every.maps), torch.einsum("btk,bk->bt", weights, every.bias))


def _gradient_times_features(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """Normalization statistics are frozen: a normalization does not see how long its input is, so that the gradient of
    features that are read through one alone (a ViT's last block reads its tokens so) is orthogonal to them.
    """
    statistics = forward_pass.frozen_statistics()
    maps = forward_pass.gradient_times_features(targets.of, statistics)
    return Maps(maps, forward_pass.at_zero(targets.of, statistics))


def contrastive_cam(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """The map of each asked class against the strongest class that is not it; for a given pair use ``Contrast``.

    The map explains S_c - S_d: ``map.sum() + bias`` is that difference. Cost: as ``cam``.

    Args:
        forward_pass: the forward pass.
        targets: classes; not a score of another kind.

    Returns:
        maps (B, T, *grid), bias (B, T) and the differences explained (B, T).

    Raises:
        MethodError: the targets are no classes, or the model has a single logit.
    """
    return _against(forward_pass, targets, rivals=1, strength=1.0)


def finercam(forward_pass: ForwardPass, targets: Targets, *, rivals: int = 3, strength: float = 1.0) -> Maps:
    """Finer-CAM: what tells a class from those that look most like it.

    The rivals d are the classes whose logits are nearest to that of c, weighted by their probabilities p_d, which are
    held, so that the explained score stays linear in the logits and the map exact where ``cam`` is. Cost: as ``cam``.

    Args:
        forward_pass: the forward pass.
        targets: classes; not a score of another kind.
        rivals: how many classes to compare with (at most K - 1).
        strength: the paper's α: how much of the rivals' maps is subtracted.

    Returns:
        maps (B, T, *grid), bias (B, T) and the scores explained (B, T).

    Raises:
        MethodError: the targets are no classes, or the model has a single logit.
    """
    return _against(forward_pass, targets, rivals=rivals, strength=strength)


def _against(forward_pass: ForwardPass, targets: Targets, *, rivals: int, strength: float) -> Maps:
    logits = forward_pass.logits
    if (targets.ids < 0).any() or logits.shape[1] < 2:
        raise MethodError("this method compares classes: ask for classes of a model that has at least two")
    class_ids = torch.from_numpy(targets.ids).to(logits.device)
    own = logits.gather(1, class_ids)[:, :, None]
    # One rival is the strongest other class; several are the nearest in logit.
    distance = (logits[:, None] - own).abs() if rivals > 1 else -logits[:, None].expand(-1, class_ids.shape[1], -1)
    distance = distance.scatter(2, class_ids[:, :, None], torch.inf)
    nearest = distance.topk(min(rivals, logits.shape[1] - 1), dim=2, largest=False).indices
    probability = logits.softmax(1)[:, None].expand_as(distance).gather(2, nearest)
    share = probability / probability.sum(2, keepdim=True).clamp_min(torch.finfo(logits.dtype).tiny)
    weights = torch.zeros_like(distance).scatter(2, nearest, -strength * share)
    weights = weights.scatter_add(2, class_ids[:, :, None], torch.ones_like(own))
    against = replace(
        targets, weights=weights.float().cpu().numpy(), ids=np.full_like(targets.ids, -1), everything=False
    )
    return cam(forward_pass, against)._replace(scores=against.of(logits))
