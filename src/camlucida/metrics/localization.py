"""How well maps find objects: box accuracy over thresholds, pixel average precision, localization, pointing.

Heatmaps are real arrays H×W in any unit, at the size in which the truth is given; the public benchmark resizes both to
224×224. Boxes are xyxy pixels, half-open. All scores are shares in [0, 1], not percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.boxes.localize import as_boxes, as_heatmap, iou
from camlucida.boxes.thresholds import contours, fine_levels, outer_parts, unit_scaled
from camlucida.errors import CamlucidaError
from camlucida.metrics._inputs import as_classes, as_heatmaps, as_mask, as_overlap, check_count, ranks
from camlucida.metrics.accumulate import Metric, seen

Mode = Literal["protocol", "exact"]
Parts = Literal["all", "largest"]

THRESHOLDS = np.arange(0, 1, 0.001)  # the benchmark's
_LEVELS = (THRESHOLDS * 255).astype(np.int64) + 1  # a pixel above int(t · 255) has at least this 8-bit level
_SIDE = np.iinfo(np.int16).max


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
    fine = fine_levels(values)
    constant = not fine.any()
    if mode == "exact":
        if constant:
            return [np.zeros(THRESHOLDS.size) for _ in parts]
        found = [(one.levels, one.boxes) for one in outer_parts(fine, parts)]
    else:
        if (truth < 0).any():
            raise CamlucidaError(
                f"boxes: protocol mode needs coordinates of at least 0, got {truth.min():g}; clip them"
            )
        if constant:
            found = [(np.arange(256), np.zeros((256, 4), np.int64)) for _ in parts]
        else:
            found = [(one.levels, one.boxes) for one in contours(fine, parts)]
        # The benchmark adds 1 to widths and heights: the same as half-open boxes with x2 and y2 one further.
        inside = np.array([values.shape[1] - 1, values.shape[0] - 1])
        found = [
            (levels, np.concatenate([boxes[:, :2], np.minimum(boxes[:, 2:], inside) + 1], axis=1))
            for levels, boxes in found
        ]
        truth = np.trunc(truth) + np.array([0, 0, 1, 1])
    overlaps = []
    for levels, boxes in found:
        best = np.zeros(256)
        np.maximum.at(best, levels, _best_overlaps(boxes, truth))
        overlaps.append(best[_LEVELS])
    return overlaps


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

    def _settings(self) -> tuple[object, ...]:
        return self.iou, self.mode, self.parts

    def update(self, heatmaps: ArrayLike | Sequence[ArrayLike], boxes: Sequence[ArrayLike]) -> None:
        """Count some images: heatmaps (N, H, W) or a list of H×W; boxes one (M, 4) array of xyxy an image, M ≥ 1."""
        maps = as_heatmaps(heatmaps)
        check_count("boxes", boxes, len(maps))
        correct = np.zeros_like(self.counters["correct"])
        for i, (heatmap, truth) in enumerate(zip(maps, boxes, strict=True)):
            try:
                overlaps = box_overlaps(heatmap, truth, mode=self.mode, parts=self.parts)
            except CamlucidaError as error:
                raise CamlucidaError(f"image {i}: {error}") from error
            correct += overlaps >= np.array(self.iou)[:, None]
        self.counters["correct"] += correct
        self.counters["images"] += len(maps)

    def compute(self) -> BoxAccuracy:
        """The accuracies so far; raises CamlucidaError before the first image."""
        curves = self.counters["correct"] / seen(self.counters["images"].item())
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

    def _settings(self) -> tuple[object, ...]:
        return ()

    def update(
        self,
        heatmaps: ArrayLike | Sequence[ArrayLike],
        masks: Sequence[ArrayLike] | NDArray[np.bool_],
        ignore: Sequence[ArrayLike] | NDArray[np.bool_] | None = None,
    ) -> None:
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

    def _settings(self) -> tuple[object, ...]:
        return (self.iou,)

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
        return LocalizationScores(*(self.counters["right"] / seen(self.counters["images"].item())).tolist())


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


def _bins(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The last of the thresholds 0, 0.001 … 0.999, 1 that each value reaches, compared exactly."""
    edges = np.append(THRESHOLDS, [1.0, np.inf])
    bins = (values * 1000).astype(np.int64)
    bins -= values < edges[bins]
    bins += values >= edges[bins + 1]
    return bins
