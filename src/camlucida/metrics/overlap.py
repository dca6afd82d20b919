"""How well masks and boxes cover the object: mask IoU, box extents, localization at the best single threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.boxes.localize import as_boxes, iou
from camlucida.boxes.overlaps import THRESHOLD_LEVELS, THRESHOLDS
from camlucida.boxes.thresholds import STEPS, fine_levels
from camlucida.errors import CamlucidaError
from camlucida.metrics.checks import as_classes, as_heatmaps, as_mask, as_overlap, as_overlaps, check_count, ranks
from camlucida.metrics.metric import Heatmaps, Masks, Metric


class MaskIoU(Metric):
    """Mask IoU: the mean over pictures of the intersection over union of predicted and true object pixels.

    >>> metric = MaskIoU()
    >>> metric.update([np.array([[True, True, False]])], [np.array([[False, True, True]])])
    >>> round(metric.compute(), 3)
    0.333
    """

    def __init__(self) -> None:
        self.counters = {"overlap": np.zeros(1), "images": np.zeros(1, np.int64)}

    def update(self, predicted: Masks, masks: Masks, ignore: Masks | None = None) -> None:
        """Count some pictures: bool H×W each; pixels of `ignore` off the true mask are left out; each has an object."""
        check_count("masks", masks, len(predicted))
        for i, one in enumerate(predicted):
            marked = as_mask(one, np.shape(one), f"predicted: image {i}")
            inside, outside = _regions(masks, ignore, i, marked.shape)
            hits, extra = np.count_nonzero(marked & inside), np.count_nonzero(marked & outside)
            self.counters["overlap"] += hits / (np.count_nonzero(inside) + extra)
        self.counters["images"] += len(predicted)

    def compute(self) -> float:
        """The mean so far; raises CamlucidaError before the first picture."""
        return float(self.counters["overlap"].item() / self.images)


class MaxMaskIoU(Metric):
    """Mask IoU at the best of the benchmark's 1000 thresholds, one for all pictures; maps are scaled by min–max.

    Maps are cut to 8 bits first, as for boxes (see `box_overlaps`); all pixels above the threshold are predicted.

    >>> metric = MaxMaskIoU()
    >>> metric.update(np.array([[[0.0, 0.5, 1.0]]]), [np.array([[False, True, True]])])
    >>> metric.compute()
    (1.0, 0.0)
    """

    def __init__(self) -> None:
        self.counters = {"overlap": np.zeros(THRESHOLDS.size), "images": np.zeros(1, np.int64)}

    def update(self, heatmaps: Heatmaps, masks: Masks, ignore: Masks | None = None) -> None:
        """Count some pictures: heatmaps (N, H, W) or a list; bool masks; pixels of `ignore` off the mask left out."""
        maps = as_heatmaps(heatmaps)
        check_count("masks", masks, len(maps))
        overlap = np.zeros(THRESHOLDS.size)
        for i, heatmap in enumerate(maps):
            inside, outside = _regions(masks, ignore, i, heatmap.shape)
            levels = fine_levels(heatmap) // STEPS
            hits, extra = (
                np.bincount(levels[region], minlength=257)[::-1].cumsum()[::-1] for region in (inside, outside)
            )
            overlap += (hits / (hits[0] + extra))[THRESHOLD_LEVELS]
        self.counters["overlap"] += overlap
        self.counters["images"] += len(maps)

    def compute(self) -> tuple[float, float]:
        """The best mean so far, and the lowest threshold that gives it; raises CamlucidaError before any picture."""
        curve = self.counters["overlap"] / self.images
        return float(curve.max()), float(THRESHOLDS[curve.argmax()])


@dataclass(frozen=True)
class Extents:
    """Means over pictures, between the predicted and the true box that fit best.

    Attributes:
        iou: intersection over union.
        recall: share of the true box that the predicted one covers: low for maps that find points, not extents.
        precision: share of the predicted box that lies in the true one: low for boxes that are too large.
    """

    iou: float
    recall: float
    precision: float


class BoxExtents(Metric):
    """How boxes miss: mean IoU, and the shares of the true box covered and of the predicted box that is right.

    >>> metric = BoxExtents()
    >>> metric.update([[[0, 0, 5, 10]]], [[[0, 0, 10, 10]]])
    >>> metric.compute()
    Extents(iou=0.5, recall=0.5, precision=1.0)
    """

    def __init__(self) -> None:
        self.counters = {"sums": np.zeros(3), "images": np.zeros(1, np.int64)}

    def update(self, predicted: Sequence[ArrayLike], boxes: Sequence[ArrayLike]) -> None:
        """Count some pictures: one (P, 4) array of predicted and one (M, 4), M ≥ 1, of true half-open boxes each."""
        check_count("boxes", boxes, len(predicted))
        sums = np.zeros(3)
        for i, one in enumerate(predicted):
            guess, truth = as_boxes(one, f"predicted: image {i}"), as_boxes(boxes[i], f"boxes: image {i}")
            if not len(truth):
                raise CamlucidaError(f"boxes: image {i} has no true box; leave such images out")
            overlaps = iou(guess, truth)
            if not overlaps.any():
                continue
            p, t = np.unravel_index(overlaps.argmax(), overlaps.shape)
            sides = np.minimum(guess[p, 2:], truth[t, 2:]) - np.maximum(guess[p, :2], truth[t, :2])
            shared = float(sides.prod())
            areas = [float(np.prod(box[2:] - box[:2])) for box in (truth[t], guess[p])]
            sums += [overlaps[p, t], shared / areas[0], shared / areas[1]]
        self.counters["sums"] += sums
        self.counters["images"] += len(predicted)

    def compute(self) -> Extents:
        """The means so far; raises CamlucidaError before the first picture."""
        return Extents(*(self.counters["sums"] / self.images).tolist())


@dataclass(frozen=True, eq=False)
class BestLocalization:
    """Localization at the one threshold that puts most boxes right, the class aside (the lowest of equal ones).

    Attributes:
        top1: share of pictures with class and box right.
        top5: the class among the first five, and the box right.
        gt_known: the box right; MaxBoxAcc, where only the largest part is boxed.
        threshold: a share of the map's range.
        curves: float64 (3, 1000): top1, top5, gt_known at each of the benchmark's thresholds.
    """

    top1: float
    top5: float
    gt_known: float
    threshold: float
    curves: NDArray[np.float64]


class MaxLocalization(Metric):
    """Top-1, Top-5 and GT-known localization at the best single threshold.

    Args:
        iou: the overlap that makes a box right, in (0, 1].

    >>> from camlucida.metrics import box_overlaps
    >>> heatmap = np.zeros((8, 8)); heatmap[2:4, 2:6] = 1
    >>> metric = MaxLocalization()
    >>> metric.update([box_overlaps(heatmap, [[2, 2, 6, 5]], mode="exact", parts="largest")], [0], top=[[1, 0]])
    >>> found = metric.compute()
    >>> found.top1, found.top5, found.gt_known
    (0.0, 1.0, 1.0)
    """

    def __init__(self, iou: float = 0.5) -> None:
        self.iou = as_overlap(iou)
        self.counters = {"right": np.zeros((3, THRESHOLDS.size), np.int64), "images": np.zeros(1, np.int64)}

    def update(
        self,
        overlaps: ArrayLike,
        classes: ArrayLike,
        *,
        logits: ArrayLike | None = None,
        top: ArrayLike | None = None,
    ) -> None:
        """Count some pictures.

        Args:
            overlaps: (N, 1000), of each picture what `box_overlaps` gave for the map of its true class.
            classes: int (N,), the true classes.
            logits: real (N, K).
            top: int (N, T), class numbers, likeliest first; give either this or the logits.
        """
        true = as_classes(classes)
        values = as_overlaps(overlaps, len(true))
        rank = ranks(true, logits, top)
        found = values >= self.iou
        right = [found[rank < 1].sum(axis=0), found[rank < 5].sum(axis=0), found.sum(axis=0)]
        self.counters["right"] += np.stack(right)
        self.counters["images"] += len(true)

    def compute(self) -> BestLocalization:
        """The scores so far; raises CamlucidaError before the first picture."""
        curves = self.counters["right"] / self.images
        best = int(curves[2].argmax())
        top1, top5, gt_known = curves[:, best].tolist()
        return BestLocalization(top1, top5, gt_known, float(THRESHOLDS[best]), curves)


def _regions(
    masks: Masks, ignore: Masks | None, i: int, shape: tuple[int, ...]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The object's pixels, of which there is one, and the background's."""
    inside = as_mask(masks[i], shape, f"masks: image {i}")
    if not inside.any():
        raise CamlucidaError(f"masks: image {i} has no pixel of the object; leave such images out")
    return inside, ~inside if ignore is None else ~inside & ~as_mask(ignore[i], shape, f"ignore: image {i}")
