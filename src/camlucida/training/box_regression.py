"""Boxes of a dense localizer: from scores and distances at every cell to one box, and its loss.

Boxes are (…, 4) x0, y0, x1, y1 in shares of the picture's width and height.
"""

from __future__ import annotations

import torch
from torch import Tensor


def centres(grid_hw: tuple[int, int], like: Tensor) -> Tensor:
    """The cells' centres: (h·w, 2), x and y in [0, 1], in reading order.

    >>> centres((1, 2), torch.zeros(())).tolist()
    [[0.25, 0.5], [0.75, 0.5]]
    """
    y, x = ((torch.arange(cells, dtype=like.dtype, device=like.device) + 0.5) / cells for cells in grid_hw)
    return torch.cartesian_prod(y, x).flip(1)


def decoded(scores: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """One box a picture: the mean of the cells' boxes, weighted by the softmax of their scores (B, h, w).

    Distances (B, 4, h, w), at least 0, are from each cell's centre to the left, upper, right and lower side, in shares
    of the picture's width and height.

    Returns:
        boxes (B, 4) and the weights (B, h, w), which sum to 1.

    >>> boxes, weights = decoded(torch.tensor([[[9.0, -9.0]]]), torch.full((1, 4, 1, 2), 0.1))
    >>> boxes
    tensor([[0.1500, 0.4000, 0.3500, 0.6000]])
    """
    weights = scores.flatten(1).softmax(1)
    middle = centres((scores.shape[1], scores.shape[2]), distances)
    reach = distances.flatten(2).transpose(1, 2)
    cells = torch.cat([middle - reach[..., :2], middle + reach[..., 2:]], 2)
    return (weights[:, :, None] * cells).sum(1), weights.view_as(scores)


def overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalized IoU (Rezatofighi et al., CVPR 2019) of boxes (B, 4), pair by pair: (B,) and (B,).

    >>> [shares.tolist() for shares in overlap(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[1.0, 0, 2, 1]]))]
    [[0.0], [0.0]]
    """
    inside = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(1)
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp_min(0).prod(1)
    union = sum((boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(1) for boxes in (a, b)) - inside
    tiny = torch.finfo(a.dtype).tiny
    iou = inside / union.clamp_min(tiny)
    return iou, iou - (around - union) / around.clamp_min(tiny)


def box_loss(boxes: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """1 − GIoU plus the sum of the sides' distances, averaged with weights (B,), at least 0: how far each wanted box is
    trusted. A scalar; 0 if all weights are 0.

    The distance of a side is taken as it is, not squared, so that the answer is the median of noisy pseudo-boxes rather
    than their mean, and a few boxes far off do not draw it to themselves.
    """
    _, generalized = overlap(boxes, wanted)
    losses = 1 - generalized + (boxes - wanted).abs().sum(1)
    return (weights * losses).sum() / weights.sum().clamp_min(1e-6)
