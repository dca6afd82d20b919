"""Checks of what comes into the metrics; every message says what was wrong and in which image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.boxes.localize import as_boxes, as_heatmap
from camlucida.boxes.overlaps import THRESHOLDS
from camlucida.errors import CamlucidaError
from camlucida.metrics.metric import Heatmaps


def as_heatmaps(heatmaps: Heatmaps) -> list[NDArray[Any]]:
    """Check heatmaps, one at a time."""
    if isinstance(heatmaps, np.ndarray) and heatmaps.ndim != 3:
        raise CamlucidaError(f"heatmaps: expected (N, H, W), got shape {heatmaps.shape}")
    if not isinstance(heatmaps, Sequence | np.ndarray):
        raise CamlucidaError(f"heatmaps: expected an array (N, H, W) or a list of H×W, got {type(heatmaps).__name__}")
    checked = []
    for i, heatmap in enumerate(heatmaps):
        try:
            checked.append(as_heatmap(heatmap))
        except CamlucidaError as error:
            raise CamlucidaError(f"image {i}: {error}") from error
    return checked


def check_count(name: str, values: Sequence[Any] | NDArray[Any], count: int) -> None:
    """Check that there is one entry an image."""
    if len(values) != count:
        raise CamlucidaError(f"{name}: expected one entry an image, {count}, got {len(values)}")


def as_overlap(value: float) -> float:
    """Check an overlap that is asked for: above 0, at most 1."""
    if not 0 < value <= 1:
        raise CamlucidaError(f"iou: expected an overlap in (0, 1], got {value}")
    return float(value)


def as_overlaps(overlaps: ArrayLike | Sequence[ArrayLike], images: int) -> NDArray[np.float64]:
    """Check what `box_overlaps` gave for each image: (N, 1000)."""
    values = np.asarray(overlaps, np.float64)
    if values.shape != (images, THRESHOLDS.size):
        raise CamlucidaError(f"overlaps: expected {(images, THRESHOLDS.size)}, got {values.shape}")
    return values


def as_classes(classes: ArrayLike) -> NDArray[np.int64]:
    """Check the ids of the true classes: int64 (N,)."""
    array = np.asarray(classes)
    if array.size and (array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < 0):
        raise CamlucidaError(f"classes: expected integers (N,) of at least 0, got {array.dtype} {array.shape}")
    return array.astype(np.int64).reshape(-1)


def ranks(true: NDArray[np.int64], logits: ArrayLike | None, top: ArrayLike | None) -> NDArray[np.int64]:
    """The place of the true class, 0 the likeliest; beyond all where it is not among the top."""
    if (logits is None) == (top is None):
        raise CamlucidaError("give either logits or top, the likeliest classes in order")
    name, scores = ("logits", np.asarray(logits)) if top is None else ("top", np.asarray(top))
    if scores.ndim != 2 or len(scores) != len(true) or scores.dtype.kind not in ("fiu" if top is None else "iu"):
        raise CamlucidaError(f"{name}: expected ({len(true)}, K), got {scores.dtype} {scores.shape}")
    if top is not None:
        same = scores == true[:, None]
        return np.where(same.any(axis=1), same.argmax(axis=1), np.iinfo(np.int64).max)
    if np.isnan(scores).any():
        raise CamlucidaError("logits: some are NaN")
    if true.max(initial=-1) >= scores.shape[1]:
        raise CamlucidaError(f"classes: {true.max()} is not among the {scores.shape[1]} classes of the logits")
    own = np.take_along_axis(scores, true[:, None], axis=1)
    before = (scores == own) & (np.arange(scores.shape[1]) < true[:, None])
    rank: NDArray[np.int64] = ((scores > own) | before).sum(axis=1)
    return rank


def as_mask(mask: ArrayLike, shape: tuple[int, ...], name: str) -> NDArray[np.bool_]:
    """Check a mask: bool of the heatmap's shape."""
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.shape != shape:
        raise CamlucidaError(f"{name}: expected bool of the heatmap's shape {shape}, got {array.dtype} {array.shape}")
    return array


def as_region(truth: ArrayLike, shape: tuple[int, ...], i: int) -> NDArray[np.bool_]:
    """The object's pixels, from a mask or from boxes (a pixel belongs to a box if its centre does); at least one."""
    if np.asarray(truth).dtype == np.bool_:
        region = as_mask(truth, shape, f"truth: image {i}")
    else:
        region = np.zeros(shape, bool)
        for x1, y1, x2, y2 in np.ceil(as_boxes(truth, f"truth: image {i}") - 0.5).clip(0).astype(int).tolist():
            region[y1:y2, x1:x2] = True
    if not region.any():
        raise CamlucidaError(f"truth: image {i} has no pixel of the object; leave such images out")
    return region
