"""How well maps find objects: box accuracy over thresholds, pixel average precision, localization, pointing.

Heatmaps are real arrays H×W in any unit, at the size in which the truth is given; the public benchmark resizes both to
224×224. Boxes are xyxy pixels, half-open. All scores are shares in [0, 1], not percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.boxes.localize import as_boxes, iou
from camlucida.boxes.overlaps import THRESHOLDS, Mode, Parts, box_overlaps
from camlucida.boxes.thresholds import unit_scaled
from camlucida.errors import CamlucidaError
from camlucida.metrics.checks import as_classes, as_heatmaps, as_mask, as_overlap, as_overlaps, check_count, ranks
from camlucida.metrics.metric import Heatmaps, Masks, Metric


@dataclass(frozen=True, eq=False)
class BoxAccuracy:
    """Box accuracy at the best threshold, one threshold for all images.

    Attributes:
        iou: the asked overlaps δ.
        accuracy: for each δ, the share of images with a box of IoU ≥ δ at that δ's best threshold.
        threshold: for each δ, the lowest best threshold, a share of the map's range.
        mean: the mean of `accuracy`: MaxBoxAccV2 for δ = 0.3, 0.5, 0.7.
        thresholds: float64 (1000,), the benchmark's: 0, 0.001 … 0.999.
        curves: float64 (D, 1000), the accuracy at each threshold.
    """

    iou: tuple[float, ...]
    accuracy: tuple[float, ...]
    threshold: tuple[float, ...]
    mean: float
    thresholds: NDArray[np.float64]
    curves: NDArray[np.float64]


class MaxBoxAcc(Metric):
    """MaxBoxAcc and MaxBoxAccV2 (Choe et al., CVPR 2020): box accuracy at the best threshold for all images.

    Args:
        iou: the overlaps δ in (0, 1].
        mode: "protocol" or "exact", see `box_overlaps`.
        parts: "all" or "largest", see `box_overlaps`; without it "largest" for a single δ (V1), else "all" (V2).

    >>> metric = MaxBoxAcc(iou=(0.5, 0.9), mode="exact")
    >>> heatmap = np.zeros((1, 8, 8))
    >>> heatmap[0, 2:4, 2:6] = 1
    >>> metric.update(heatmap, [[[2, 2, 6, 5]]])
    >>> metric.compute().accuracy
    (1.0, 0.0)
    """

    def __init__(
        self, iou: Sequence[float] = (0.3, 0.5, 0.7), mode: Mode = "protocol", parts: Parts | None = None
    ) -> None:
        self.iou = tuple(as_overlap(value) for value in iou)
        if not self.iou:
            raise CamlucidaError("iou: expected at least one overlap, got none")
        if mode not in ("protocol", "exact"):
            raise CamlucidaError(f"mode: expected 'protocol' or 'exact', got {mode!r}")
        if parts not in ("all", "largest", None):
            raise CamlucidaError(f"parts: expected 'all' or 'largest', got {parts!r}")
        self.mode: Mode = mode
        self.parts: Parts = parts or ("largest" if len(self.iou) == 1 else "all")
        self.counters = {
            "correct": np.zeros((len(self.iou), THRESHOLDS.size), np.int64),
            "images": np.zeros(1, np.int64),
        }

    def update(self, heatmaps: Heatmaps, boxes: Sequence[ArrayLike]) -> None:
        """Count some images: heatmaps (N, H, W) or a list of H×W; boxes one (M, 4) array of xyxy an image, M ≥ 1."""
        maps = as_heatmaps(heatmaps)
        check_count("boxes", boxes, len(maps))
        overlaps = np.zeros((len(maps), THRESHOLDS.size))
        for i, (heatmap, truth) in enumerate(zip(maps, boxes, strict=True)):
            try:
                overlaps[i] = box_overlaps(heatmap, truth, mode=self.mode, parts=self.parts)
            except CamlucidaError as error:
                raise CamlucidaError(f"image {i}: {error}") from error
        self.update_overlaps(overlaps)

    def update_overlaps(self, overlaps: Sequence[ArrayLike] | NDArray[np.float64]) -> None:
        """Count some images by what `box_overlaps` gave for each: (N, 1000)."""
        values = as_overlaps(overlaps, len(overlaps))
        self.counters["correct"] += [np.count_nonzero(values >= iou, axis=0) for iou in self.iou]
        self.counters["images"] += len(values)

    def compute(self) -> BoxAccuracy:
        """The accuracies so far; raises CamlucidaError before the first image."""
        curves = self.counters["correct"] / self.images
        best = curves.argmax(axis=1)
        accuracy = curves.max(axis=1)
        return BoxAccuracy(
            self.iou, tuple(accuracy.tolist()), tuple(THRESHOLDS[best].tolist()), float(accuracy.mean()),
            THRESHOLDS.copy(), curves,
        )  # fmt: skip


class PxAP(Metric):
    """Pixel average precision (Choe et al., CVPR 2020): Σ P_k (R_k − R_{k−1}) over 1001 thresholds, pixels pooled.

    Each map is scaled by min–max. A pixel is predicted where its value is at least the threshold.

    >>> metric = PxAP()
    >>> metric.update(np.array([[[0.0, 0.5, 1.0]]]), np.array([[[False, True, True]]]))
    >>> metric.compute()
    1.0
    """

    def __init__(self) -> None:
        self.counters = {"inside": np.zeros(1001, np.int64), "outside": np.zeros(1001, np.int64)}

    def update(self, heatmaps: Heatmaps, masks: Masks, ignore: Masks | None = None) -> None:
        """Count some images: heatmaps (N, H, W), masks bool (N, H, W); `ignore` leaves out pixels off the mask."""
        maps = as_heatmaps(heatmaps)
        check_count("masks", masks, len(maps))
        if ignore is not None:
            check_count("ignore", ignore, len(maps))
        inside, outside = np.zeros(1001, np.int64), np.zeros(1001, np.int64)
        for i, heatmap in enumerate(maps):
            mask = as_mask(masks[i], heatmap.shape, f"masks: image {i}")
            other = ~mask
            if ignore is not None:
                other &= ~as_mask(ignore[i], heatmap.shape, f"ignore: image {i}")
            if heatmap.min() == heatmap.max():  # all pixels at the lowest threshold
                inside[0] += np.count_nonzero(mask)
                outside[0] += np.count_nonzero(other)
                continue
            bins = _bins(unit_scaled(heatmap))
            inside += np.bincount(bins[mask], minlength=1001)
            outside += np.bincount(bins[other], minlength=1001)
        self.counters["inside"] += inside
        self.counters["outside"] += outside

    def compute(self) -> float:
        """The average precision so far; raises CamlucidaError if no mask had a pixel."""
        hits = self.counters["inside"][::-1].cumsum()
        predicted = hits + self.counters["outside"][::-1].cumsum()
        if not hits[-1]:
            raise CamlucidaError("PxAP: no foreground pixel in any mask; call update with masks first")
        precision = hits / np.maximum(predicted, 1)
        return float((precision * np.diff(hits / hits[-1], prepend=0.0)).sum())


@dataclass(frozen=True)
class LocalizationScores:
    """Shares of images: the class right (`classes_top1`, `classes_top5`), the box right (`gt_known`), or both."""

    top1: float
    top5: float
    gt_known: float
    classes_top1: float
    classes_top5: float


class Localization(Metric):
    """Top-1, Top-5 and GT-known localization (Zhou et al., CVPR 2016, section 3.2): IoU with a true box at least `iou`.

    Args:
        iou: in (0, 1], half-open boxes.

    >>> metric = Localization()
    >>> metric.update([[[0, 0, 4, 4]]], [[[0, 0, 4, 5]]], [1], logits=[[2.0, 1.0, 0.0]])
    >>> metric.compute()
    LocalizationScores(top1=0.0, top5=1.0, gt_known=1.0, classes_top1=0.0, classes_top5=1.0)
    """

    def __init__(self, iou: float = 0.5) -> None:
        self.iou = as_overlap(iou)
        self.counters = {"right": np.zeros(5, np.int64), "images": np.zeros(1, np.int64)}

    def update(
        self,
        predicted: Sequence[ArrayLike],
        boxes: Sequence[ArrayLike],
        classes: ArrayLike,
        *,
        logits: ArrayLike | None = None,
        top: ArrayLike | None = None,
    ) -> None:
        """Count some images.

        Args:
            predicted: one (P, 4) array an image, from the map of its true class: a guess whose class is wrong never
                counts, so other classes' boxes are not needed. P may be 0; the best of several counts.
            boxes: one (M, 4) array of true boxes an image, M ≥ 1.
            classes: int (N,), the true classes.
            logits: real (N, K); equal ones rank by class number.
            top: int (N, T), class numbers, likeliest first; give either this or the logits.

        Raises:
            CamlucidaError: lengths that differ, bad boxes, classes or logits.
        """
        true = as_classes(classes)
        check_count("predicted", predicted, len(true))
        check_count("boxes", boxes, len(true))
        rank = ranks(true, logits, top)
        found = np.zeros(len(true), bool)
        for i, (guesses, truth) in enumerate(zip(predicted, boxes, strict=True)):
            overlaps = iou(as_boxes(guesses, f"predicted: image {i}"), as_boxes(truth, f"boxes: image {i}"))
            if not overlaps.shape[1]:
                raise CamlucidaError(f"boxes: image {i} has no true box; leave such images out")
            found[i] = overlaps.max(initial=0) >= self.iou
        one, five = rank < 1, rank < 5
        self.counters["right"] += [int(np.sum(right)) for right in (found & one, found & five, found, one, five)]
        self.counters["images"] += len(true)

    def compute(self) -> LocalizationScores:
        """The scores so far; raises CamlucidaError before the first image."""
        return LocalizationScores(*(self.counters["right"] / self.images).tolist())


def _bins(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The last of the thresholds 0, 0.001 … 0.999, 1 that each value reaches, compared exactly."""
    edges = np.append(THRESHOLDS, [1.0, np.inf])
    bins = (values * 1000).astype(np.int64)
    bins -= values < edges[bins]
    bins += values >= edges[bins + 1]
    return bins
