"""How well a map's boxes fit the true ones, at every threshold at once.

Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020, and their code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.boxes.localize import as_boxes, as_heatmap
from camlucida.boxes.thresholds import contours, fine_levels, outer_parts
from camlucida.errors import CamlucidaError

Mode = Literal["protocol", "exact"]
Parts = Literal["all", "largest"]

THRESHOLDS = np.arange(0, 1, 0.001)
"""The benchmark's thresholds."""

THRESHOLD_LEVELS = (THRESHOLDS * 255).astype(np.int64) + 1
"""The least 8-bit level of a pixel above each of them: the benchmark asks for more than int(t · 255)."""

_SIDE = np.iinfo(np.int16).max


def box_overlaps(
    heatmap: ArrayLike, boxes_xyxy: ArrayLike, *, mode: Mode = "protocol", parts: Parts = "all"
) -> NDArray[np.float64]:
    """The best IoU of one map's boxes with the true boxes, at each of the benchmark's 1000 thresholds.

    The map is scaled by min–max and cut to 8 bits (only 255 thresholds differ); pixels strictly above the threshold
    count. Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", CVPR 2020, and their code.

    Args:
        heatmap: real H×W, finite, any unit; sides up to 32,767.
        boxes_xyxy: (M, 4), M at least 1, half-open pixels of the heatmap.
        mode: "protocol", to the bit what the benchmark's code does: contours, so holes get boxes too; x2 and y2 kept
            within the map; truth cut to integers; 1 added to all widths and heights although x2 and y2 are exclusive;
            a constant map predicts the top left pixel. "exact": half-open boxes, no holes, nothing added.
            Protocol mode takes the truth as the benchmark's metadata has it: a square of 10 pixels found exactly
            scores 0.826 if its x2, y2 are the last pixels inside, as ImageNet's are, and 1 if they are half-open.
        parts: "all", any of the parts may match (V2); "largest", only the largest: by contour area in protocol mode,
            by pixels in exact mode (V1).

    Returns:
        float64 (1000,) in [0, 1].

    Raises:
        CamlucidaError: a bad heatmap or box, or no box.

    >>> heatmap = np.zeros((224, 224))
    >>> heatmap[50:60, 50:60] = 1
    >>> box_overlaps(heatmap, [[50, 50, 59, 59]])[500].round(3).item()
    0.826
    >>> box_overlaps(heatmap, [[50, 50, 60, 60]], mode="exact")[500].item()
    1.0
    """
    return part_overlaps(heatmap, boxes_xyxy, (parts,), mode=mode)[0]


def part_overlaps(
    heatmap: ArrayLike, boxes_xyxy: ArrayLike, parts: Sequence[Parts], *, mode: Mode = "protocol"
) -> list[NDArray[np.float64]]:
    """`box_overlaps` for each of `parts`, in about the time of one: they share their component trees.

    >>> heatmap = np.zeros((9, 9)); heatmap[0, 0] = heatmap[4:7, 4:7] = 1
    >>> [one[500].item() for one in part_overlaps(heatmap, [[0, 0, 1, 1]], ("all", "largest"), mode="exact")]
    [1.0, 0.0]
    """
    values = as_heatmap(heatmap)
    if max(values.shape) > _SIDE:
        raise CamlucidaError(f"heatmap: expected sides of at most {_SIDE} pixels, got {values.shape}; resize it")
    truth = as_boxes(boxes_xyxy)
    if not len(truth):
        raise CamlucidaError("boxes: expected at least one true box an image, got none; leave such images out")
    protocol = mode != "exact"
    if protocol:
        if (truth < 0).any():
            raise CamlucidaError(
                f"boxes: protocol mode needs coordinates of at least 0, got {truth.min():g}; clip them"
            )
        truth = np.trunc(truth) + np.array([0, 0, 1, 1])
    overlaps = []
    for found in (contours if protocol else outer_parts)(fine_levels(values), parts):
        boxes = found.boxes
        if protocol:
            # The benchmark adds 1 to widths and heights: the same as half-open boxes with x2 and y2 one further.
            inside = np.array([values.shape[1] - 1, values.shape[0] - 1])
            boxes = np.concatenate([boxes[:, :2], np.minimum(boxes[:, 2:], inside) + 1], axis=1)
        best = np.zeros(256)
        np.maximum.at(best, found.levels, _best_overlaps(boxes, truth))
        overlaps.append(best[THRESHOLD_LEVELS])
    return overlaps


def _best_overlaps(boxes: NDArray[np.int64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """`iou(boxes, truth).max(axis=1)` for thousands of boxes and few true ones, several times as fast."""
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T, np.float64)
    areas = (x2 - x1) * (y2 - y1)
    best = np.zeros(len(boxes))
    for left, top, right, bottom in truth.tolist():
        across = np.maximum(np.minimum(x2, right) - np.maximum(x1, left), 0.0)
        across *= np.maximum(np.minimum(y2, bottom) - np.maximum(y1, top), 0.0)
        np.maximum(best, across / (areas + (right - left) * (bottom - top) - across), out=best)
    return best
