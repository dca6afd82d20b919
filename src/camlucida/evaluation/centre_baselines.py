"""What needs no network: the picture's centre, a centred box of one size for all pictures, the whole picture.

The centre is a map too: a cone, 1 in the middle, falling evenly with the distance from it, measured in shares of the
picture's sides, to 0 in the corners. Its maximum is the centre point; its parts above a threshold are centred discs (in
the picture's proportions) whose boxes are centred boxes of one relative size. Going through the same thresholds as the
maps do, the best of these sizes is chosen on the evaluated pictures themselves, as the best threshold is. At 224×224
its boxes are those of the centred Gaussian that the public benchmark takes as its centre baseline (Choe et al., 2020).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.boxes.localize import iou
from camlucida.boxes.overlaps import THRESHOLD_LEVELS, Mode
from camlucida.boxes.thresholds import STEPS, fine_levels


@lru_cache(maxsize=16)
def centre_map(size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """The cone: float32 H×W in [0, 1]; not to be changed.

    >>> centre_map((3, 3)).round(2)[1].tolist()
    [0.28999..., 1.0, 0.28999...]
    """
    height, width = size_hw
    y = (2 * np.arange(height) + 1 - height) / max(height - 1, 1)
    x = (2 * np.arange(width) + 1 - width) / max(width - 1, 1)
    cone: NDArray[np.float32] = (1 - np.hypot(y[:, None], x) / np.sqrt(2)).astype(np.float32)
    cone.setflags(write=False)
    return cone


@lru_cache(maxsize=16)
def centre_boxes(size_hw: tuple[int, int]) -> NDArray[np.int64]:
    """The centred box at each of the 1000 thresholds: int64 (1000, 4), half-open; not to be changed."""
    levels = fine_levels(centre_map(size_hw)) // STEPS
    spans = []
    for profile in (levels.max(axis=0), levels.max(axis=1)):  # across, then down
        above = profile >= THRESHOLD_LEVELS[:, None]
        spans.append((above.argmax(axis=1), above.shape[1] - above[:, ::-1].argmax(axis=1)))
    (x1, x2), (y1, y2) = spans
    boxes = np.stack([x1, y1, x2, y2], axis=1)
    boxes.setflags(write=False)
    return boxes


def centre_overlaps(size_hw: tuple[int, int], truth: NDArray[np.float64], mode: Mode) -> NDArray[np.float64]:
    """What `metrics.box_overlaps` gives for the centre map and true boxes (M, 4), half-open, M ≥ 1, fast: the best IoU
    at each threshold, float64 (1000,).
    """
    overlaps: NDArray[np.float64] = iou(*counted(centre_boxes(size_hw), truth, size_hw, mode)).max(axis=1)
    return overlaps


def counted(
    boxes: NDArray[Any], truth: NDArray[np.float64], size_hw: tuple[int, int], mode: Mode
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Boxes and truth as a mode counts them, so that their plain IoU is the mode's.

    Exact mode leaves them. Protocol mode cuts truth to integers, keeps x2 and y2 within the picture, and takes every
    box as one pixel wider and higher (see `metrics.box_overlaps`).

    >>> square = np.array([[50.0, 50, 60, 60]])
    >>> float(iou(*counted(square, square - [0, 0, 1, 1], (224, 224), "protocol"))[0, 0])
    0.826...
    """
    if mode == "exact":
        return boxes.astype(np.float64), truth
    grown = boxes.astype(np.float64)
    grown[:, 2:] = np.minimum(grown[:, 2:], [size_hw[1] - 1, size_hw[0] - 1]) + 1
    return grown, np.trunc(truth) + np.array([0, 0, 1, 1])
