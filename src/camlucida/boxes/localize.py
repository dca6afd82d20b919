"""Heatmap → mask → boxes: the rule of Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016,
section 3.2. Keep what is above 20 % of the map's maximum; put a box around the largest connected part.

Heatmaps are signed float arrays H×W at the picture's size, in any unit. Boxes are xyxy pixels, half-open: x2 and y2 are
the first column and row outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.errors import CamlucidaError


@dataclass(frozen=True, eq=False)
class Components:
    """The connected parts of a mask: largest area first, equal areas by their first pixel in reading order.

    Attributes:
        boxes: int64 (M, 4), half-open xyxy pixels; the tightest box around each part.
        areas: int64 (M,), pixels in each part (not in its box).
        scores: float32 (M,), the heatmap's maximum inside each part, in the heatmap's unit.
    """

    boxes: NDArray[np.int64]
    areas: NDArray[np.int64]
    scores: NDArray[np.float32]


def as_heatmap(heatmap: ArrayLike) -> NDArray[Any]:
    """Check a heatmap and return it as an array, without a copy where it already is one.

    Args:
        heatmap: real numbers H×W, H and W at least 1, all finite.

    Returns:
        The array; integer maps become float64.

    Raises:
        CamlucidaError: not H×W, empty, not real numbers, or with NaN or infinite values (these are never hidden).
    """
    array = np.asarray(heatmap)
    if array.dtype.kind not in "fiu":
        raise CamlucidaError(f"heatmap: expected real numbers, got dtype {array.dtype}")
    if array.ndim != 2 or array.size == 0:
        raise CamlucidaError(f"heatmap: expected H×W with H, W >= 1, got shape {array.shape}; pass one map at a time")
    if array.dtype.kind != "f":
        return array.astype(np.float64)
    wrong = array.size - int(np.count_nonzero(np.isfinite(array)))
    if wrong:
        raise CamlucidaError(
            f"heatmap: {wrong} of {array.size} values are NaN or infinite; look for an overflow in the model or method"
        )
    return array


def mask(heatmap: ArrayLike, threshold: float = 0.2, *, percentile: float | None = None) -> NDArray[np.bool_]:
    """Mark the pixels that carry the evidence (Zhou et al., CVPR 2016, section 3.2).

    Args:
        heatmap: float H×W, signed, any unit.
        threshold: share of the map's maximum in [0, 1]; a pixel must be strictly above it.
        percentile: in [0, 100]; if given, it replaces `threshold`: a pixel must be strictly above this percentile of
            the map's values, and above 0.

    Returns:
        bool H×W. Empty (all False) where the map's maximum is not positive: there is no evidence to mark.

    Raises:
        CamlucidaError: a bad heatmap (see `as_heatmap`), threshold or percentile.

    >>> mask([[0.0, 1.0], [2.0, 5.0]]).astype(int)
    array([[0, 0],
           [1, 1]])
    """
    array = as_heatmap(heatmap)
    if not 0 <= threshold <= 1:
        raise CamlucidaError(f"threshold: expected a share of the maximum in [0, 1], got {threshold}")
    if percentile is not None and not 0 <= percentile <= 100:
        raise CamlucidaError(f"percentile: expected a number in [0, 100], got {percentile}")
    if percentile is None:
        cut = threshold * float(array.max())
    else:
        cut = float(np.percentile(array.astype(np.float64, copy=False), percentile))
    above: NDArray[np.bool_] = array > np.float64(max(cut, 0.0))  # compared in float64: strict to the last bit
    return above


def components(
    heatmap: ArrayLike, mask: NDArray[np.bool_], *, minimum_area: int = 1, connectivity: int = 8
) -> Components:
    """Find the connected parts of a mask.

    Args:
        heatmap: float H×W, signed, any unit; gives the scores.
        mask: bool H×W.
        minimum_area: parts of fewer pixels are dropped; at least 1.
        connectivity: 8 (pixels that touch at a corner belong together) or 4 (only those that share a side).

    Returns:
        Components: M parts, largest first; M = 0 for an empty mask.

    Raises:
        CamlucidaError: a bad heatmap, a mask that is not bool of the heatmap's shape, a bad area or connectivity.

    >>> found = components([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 3.0]], np.eye(3, dtype=bool), connectivity=4)
    >>> found.boxes.tolist(), found.scores.tolist()
    ([[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3]], [1.0, 0.0, 3.0])
    """
    values = as_heatmap(heatmap)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != values.shape:
        got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise CamlucidaError(f"mask: expected a bool array of the heatmap's shape {values.shape}, got {got}")
    if minimum_area < 1:
        raise CamlucidaError(f"minimum_area: expected at least 1 pixel, got {minimum_area}")
    if connectivity not in (4, 8):
        raise CamlucidaError(f"connectivity: expected 4 or 8, got {connectivity}")

    binary = np.ascontiguousarray(mask).view(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(binary, connectivity=connectivity, ltype=cv2.CV_32S)
    pixels = np.flatnonzero(mask)
    label = labels.ravel()[pixels]  # 1 … count-1 for each marked pixel, in reading order
    first = np.empty(count, np.int64)
    first[label[::-1]] = pixels[::-1]  # the last assignment wins, so each part keeps its first pixel
    scores = np.full(count, -np.inf, np.float32)
    np.maximum.at(scores, label, values.ravel()[pixels].astype(np.float32, copy=False))

    areas = stats[:, cv2.CC_STAT_AREA].astype(np.int64)
    kept = 1 + np.flatnonzero(areas[1:] >= minimum_area)  # label 0 is the background
    kept = kept[np.lexsort((first[kept], -areas[kept]))]
    left, top, width, height = stats[kept, :4].astype(np.int64).T
    return Components(np.stack([left, top, left + width, top + height], axis=1), areas[kept], scores[kept])


def boxes(
    heatmap: ArrayLike,
    threshold: float = 0.2,
    *,
    percentile: float | None = None,
    largest: bool = True,
    minimum_area: int = 1,
) -> NDArray[np.int64]:
    """Box the evidence: `mask`, then `components` (8-connected).

    Args:
        heatmap: float H×W, signed, any unit.
        threshold: share of the map's maximum in [0, 1].
        percentile: in [0, 100]; replaces `threshold` (see `mask`).
        largest: only the largest part (the paper's rule), or every part, largest first.
        minimum_area: parts of fewer pixels get no box.

    Returns:
        int64 (M, 4), half-open xyxy pixels; M <= 1 if `largest`; M = 0 where the map has no positive evidence.

    Raises:
        CamlucidaError: see `mask` and `components`.

    >>> heatmap = np.zeros((6, 8))
    >>> heatmap[1:4, 2:7] = 1.0
    >>> boxes(heatmap)
    array([[2, 1, 7, 4]])
    """
    array = as_heatmap(heatmap)
    marked = mask(array, threshold, percentile=percentile)
    if largest and minimum_area == 1:
        box, area = largest_part(marked)
        return np.array([box] if area else [], np.int64).reshape(-1, 4)
    found = components(array, marked, minimum_area=minimum_area).boxes
    return found[:1] if largest else found


def largest_part(mask: NDArray[np.bool_]) -> tuple[tuple[int, int, int, int], int]:
    """The first of `components` (8-connected), several times as fast.

    Args:
        mask: bool H×W.

    Returns:
        Its half-open xyxy box and its area in pixels; the area is 0 for an empty mask.

    >>> largest_part(np.array([[True, False, False], [False, False, True], [True, False, True]]))
    ((2, 1, 3, 3), 2)
    """
    count, labels = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    areas = np.bincount(labels.ravel(), minlength=count)
    areas[0] = 0
    area = int(areas.max())
    if area == 0:
        return (0, 0, 0, 0), 0
    first = labels.flat[int((areas == area)[labels].argmax())]  # of equal ones, the first in reading order
    x, y, width, height = cv2.boundingRect((labels == first).view(np.uint8))
    return (x, y, x + width, y + height), area


def iou(a_xyxy: ArrayLike, b_xyxy: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of every pair of half-open boxes. Nothing is added to widths or heights.

    Args:
        a_xyxy: (N, 4), finite, x1 <= x2 and y1 <= y2.
        b_xyxy: (M, 4), likewise.

    Returns:
        float64 (N, M) in [0, 1]; 0 where both boxes are empty.

    Raises:
        CamlucidaError: wrong shape, not finite, or corners in the wrong order.

    >>> iou([[0, 0, 2, 2]], [[1, 0, 3, 2], [0, 0, 2, 2], [5, 5, 6, 6]])
    array([[0.333..., 1. , 0. ]])
    """
    a, b = as_boxes(a_xyxy, "a_xyxy"), as_boxes(b_xyxy, "b_xyxy")
    shared = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    intersection = np.prod(np.clip(shared, 0, None), axis=2)
    area_a, area_b = np.prod(a[:, 2:] - a[:, :2], axis=1), np.prod(b[:, 2:] - b[:, :2], axis=1)
    union = area_a[:, None] + area_b[None, :] - intersection
    overlap: NDArray[np.float64] = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return overlap


def as_boxes(boxes_xyxy: ArrayLike, name: str = "boxes") -> NDArray[np.float64]:
    """Check boxes and return them as float64 (M, 4).

    Args:
        boxes_xyxy: (M, 4), finite, x1 <= x2 and y1 <= y2; an empty list is no box.
        name: what the message calls them.

    Raises:
        CamlucidaError: wrong shape, not finite, or corners in the wrong order (perhaps boxes in x, y, width, height).
    """
    array = np.asarray(boxes_xyxy)
    if array.size == 0 and array.ndim <= 2:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "fiu":
        raise CamlucidaError(f"{name}: expected numbers of shape (M, 4), got {array.dtype} {array.shape}")
    array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1) | (array[:, 2:] < array[:, :2]).any(axis=1))
    if bad.size:
        raise CamlucidaError(
            f"{name}: box {bad[0]} is {array[bad[0]].tolist()}, expected finite x1, y1, x2, y2, x1 <= x2 and y1 <= y2"
        )
    return array
