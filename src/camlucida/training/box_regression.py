"""Boxes of a dense localizer: from scores and distances at every cell to one box, its loss, and boxes that move with
their augmented pictures. Boxes are (…, 4) x0, y0, x1, y1 in shares of the picture's width and height.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camlucida.training.augment import Pixels


def centres(grid_hw: tuple[int, int], like: Tensor) -> Tensor:
    """The cells' centres: (h·w, 2), x and y in [0, 1], in reading order.

    >>> centres((1, 2), torch.zeros(())).tolist()
    [[0.25, 0.5], [0.75, 0.5]]
    """
    rows, columns = grid_hw
    y = (torch.arange(rows, dtype=like.dtype, device=like.device) + 0.5) / rows
    x = (torch.arange(columns, dtype=like.dtype, device=like.device) + 0.5) / columns
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], 1)


def decoded(scores: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """One box a picture: the mean of the cells' boxes, weighted by the softmax of their scores.

    Args:
        scores: (B, h, w), any real numbers.
        distances: (B, 4, h, w), at least 0: from each cell's centre to the left, upper, right and lower side, in shares
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

    >>> [one.tolist() for one in overlap(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[1.0, 0, 2, 1]]))]
    [[0.0], [0.0]]
    """
    inside = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp_min(0).prod(1)
    around = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp_min(0).prod(1)
    union = sum((one[:, 2:] - one[:, :2]).clamp_min(0).prod(1) for one in (a, b)) - inside
    tiny = torch.finfo(a.dtype).tiny
    iou = inside / union.clamp_min(tiny)
    return iou, iou - (around - union) / around.clamp_min(tiny)


def box_loss(boxes: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """1 − GIoU plus the sum of the sides' distances, averaged with weights.

    The distance of a side is taken as it is, not squared, so that the answer is the median of noisy pseudo-boxes rather
    than their mean, and a few boxes far off do not draw it to themselves.

    Args:
        boxes: (B, 4).
        wanted: (B, 4).
        weights: (B,), at least 0: how far each wanted box is trusted.

    Returns:
        A scalar; 0 if all weights are 0.
    """
    _, generalized = overlap(boxes, wanted)
    losses = 1 - generalized + (boxes - wanted).abs().sum(1)
    return (weights * losses).sum() / weights.sum().clamp_min(1e-6)


def moved(
    picture: Pixels, box: NDArray[np.float32], augment: str, rng: np.random.Generator
) -> tuple[Pixels, NDArray[np.float32]]:
    """A picture and its box, augmented alike.

    Args:
        picture: size×size×3.
        box: (4,), in shares.
        augment: "none"; "dihedral" and "affine": shifts by up to a twelfth of the side, quarter turns, flips; else
            flips alone.
        rng: the picture's own.

    Returns:
        New arrays.

    >>> picture, box = np.zeros((8, 8, 3), np.uint8), np.array([0.0, 0.0, 0.25, 0.5], np.float32)
    >>> moved(picture, box, "flips", np.random.default_rng(1))[1].tolist()
    [0.0, 0.0, 0.25, 0.5]
    >>> moved(picture, box, "flips", np.random.default_rng(2))[1].tolist()
    [0.75, 0.0, 1.0, 0.5]
    """
    if augment == "none":
        return picture, box
    if augment in ("dihedral", "affine"):
        size = len(picture)
        most = size // 12
        x, y = rng.integers(2 * most + 1, size=2)
        if most:
            wide = cv2.copyMakeBorder(picture, most, most, most, most, cv2.BORDER_REFLECT_101)
            picture = wide[y : y + size, x : x + size]
            box = np.clip(box + np.tile([most - x, most - y], 2).astype(np.float32) / size, 0, 1)
        turns = int(rng.integers(4))
        picture = np.rot90(picture, turns)
        for _ in range(turns):  # counter-clockwise: what was at the right is at the top
            box = np.array([box[1], 1 - box[2], box[3], 1 - box[0]], np.float32)
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
        box = np.array([1 - box[2], box[1], 1 - box[0], box[3]], np.float32)
    return picture, box.astype(np.float32)
