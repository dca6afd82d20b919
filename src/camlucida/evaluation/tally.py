"""One picture's counters for every metric: what worker processes compute, and all that is kept of a picture.

Each metric is updated with the one picture, and its counters are handed back. They add up: over pictures to the
evaluation's numbers, with random weights to its confidence intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.boxes.calibration import Calibration
from camlucida.boxes.guesses import guesses_of_rank
from camlucida.boxes.localize import iou
from camlucida.boxes.overlaps import Mode
from camlucida.data.record import Truth
from camlucida.evaluation.accuracy import Accuracy, PerClass
from camlucida.evaluation.centre_baselines import centre_map, centre_overlaps, counted
from camlucida.evaluation.maps import laid, size_for
from camlucida.images.preprocess import View
from camlucida.metrics import (
    BoxExtents,
    EnergyPointing,
    Localization,
    MaskIoU,
    MaxBoxAcc,
    MaxLocalization,
    MaxMaskIoU,
    Metric,
    PointingGame,
    PxAP,
    part_overlaps,
)

Counters = dict[str, dict[str, NDArray[Any]]]

DELTAS = (0.3, 0.5, 0.7)
TOLERANCE = 15
CLASS_NUMBERS = ("top1", "gt_known", "iou", "pointing", "mask_iou")


@dataclass(frozen=True)
class Settings:
    """What is the same for all pictures.

    Attributes:
        mode: "protocol" or "exact".
        calibration: how the boxes at the operating point are made.
        classes: how many classes the data has.
    """

    mode: Mode
    calibration: Calibration
    classes: int


@dataclass(frozen=True, eq=False)
class Work:
    """One picture without its pixels: what its counters are made of.

    Attributes:
        index: its place in the dataset.
        view: what the network saw of it.
        labels: its classes.
        ranks: the place of each among all logits.
        maps: float32 (L, h, w), one for each.
        truth: boxes and masks.
        found: (P, 4) boxes of a two-stage localizer, half-open pixels of the picture; None without one.
    """

    index: int
    view: View
    labels: tuple[int, ...]
    ranks: tuple[int, ...]
    maps: NDArray[np.float32]
    truth: Truth
    found: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Tally:
    """One picture's counters, and how well its box (or else its mask) fits: NaN where there is neither."""

    index: int
    counters: Counters
    overlap: float


def metric_makers(settings: Settings) -> dict[str, Callable[[], Metric]]:
    """What makes every metric, by name. Names with "centre:" and "whole:" are the baselines'."""
    mode = settings.mode
    makers: dict[str, Callable[[], Metric]] = {
        "accuracy": Accuracy,
        "class": partial(PerClass, CLASS_NUMBERS, settings.classes),
        "whole:v2": partial(MaxBoxAcc, DELTAS, mode, "all"),
        "whole:mask": MaskIoU,
        "whole:pxap": PxAP,
        "whole:energy": EnergyPointing,
        "centre:energy": EnergyPointing,
        "energy": EnergyPointing,
        "mask": MaskIoU,
        "guesses": Localization,
    }
    for who in ("", "centre:"):
        makers |= {f"{who}v2": partial(MaxBoxAcc, DELTAS, mode, "all"), f"{who}best": MaxLocalization}
        makers |= {f"{who}pxap": PxAP, f"{who}best mask": MaxMaskIoU}
        makers |= {f"{who}pointing": partial(PointingGame, TOLERANCE), f"{who}strict": partial(PointingGame, 1)}
    for who in ("", "whole:", "found:"):
        makers |= {f"{who}at": Localization, f"{who}extents": BoxExtents}
    return makers


def tally(work: Work, settings: Settings) -> Tally:
    """The counters of one picture; metrics that do not apply to it are left out.

    Raises:
        DataError: its mask cannot be read.
    """
    metrics = _Metrics(metric_makers(settings))
    metrics("accuracy").update([min(work.ranks)])
    size_hw = size_for(work.view, settings.mode)
    truth_boxes = work.truth.boxes_at(work.view.image_hw, size_hw).clip(0)
    mask, ignore = work.truth.masks_at(size_hw, settings.mode) if len(work.labels) == 1 else (None, None)
    overlaps = []
    for label, rank, grid in zip(work.labels, work.ranks, work.maps, strict=True):
        boxes = truth_boxes[work.truth.box_labels == label]
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
        numbers = {"top1": float(rank < 1)}
        heatmap = laid(grid, work.view, settings.mode)
        marked = settings.calibration.mask(heatmap)
        if len(boxes):
            guess = settings.calibration.boxes(heatmap)
            numbers |= _count_boxes(metrics, settings, heatmap, guess, boxes, label, rank, work.found, work.view)
        if mask is not None and mask.any():
            numbers |= _count_masks(metrics, heatmap, marked, mask, ignore)
        region = boxes if len(boxes) else mask
        if region is not None and len(region) and _has_pixel(region, size_hw):
            shown = heatmap if settings.mode == "protocol" else work.view.project(grid)  # unseen: no energy
            numbers |= _count_pointing(metrics, heatmap, shown, region, label)
        metrics("class").update(label, **numbers)
        overlaps.append(numbers.get("iou", numbers.get("mask_iou", np.nan)))
    return Tally(work.index, {name: metric.counters for name, metric in metrics.used.items()}, _least(overlaps))


class _Metrics:
    """Metrics by name, made when first asked for."""

    def __init__(self, makers: dict[str, Callable[[], Metric]]) -> None:
        self._makers = makers
        self.used: dict[str, Metric] = {}

    def __call__(self, name: str) -> Any:
        if name not in self.used:
            self.used[name] = self._makers[name]()
        return self.used[name]


def _count_boxes(
    metrics: _Metrics,
    settings: Settings,
    heatmap: NDArray[np.float32],
    guess: NDArray[np.int64],
    boxes: NDArray[np.float64],
    label: int,
    rank: int,
    found: NDArray[np.float64] | None,
    view: View,
) -> dict[str, float]:
    mode, size_hw = settings.mode, (heatmap.shape[0], heatmap.shape[1])
    top = [_top(rank)]
    largest, everything = part_overlaps(heatmap, boxes, ("largest", "all"), mode=mode)
    centre = centre_overlaps(size_hw, boxes, mode)
    whole_box = np.array([[0, 0, size_hw[1], size_hw[0]]])
    for who, overlaps in (("", largest), ("centre:", centre)):
        metrics(f"{who}best").update([overlaps], [0], top=top)
    whole = iou(*counted(whole_box, boxes, size_hw, mode)).max(axis=1)  # at any threshold
    for who, overlaps in (("", everything), ("centre:", centre), ("whole:", whole)):
        _add_overlaps(metrics(f"{who}v2"), overlaps)
    for name, some in (("at", guess), ("whole:at", whole_box), ("guesses", guesses_of_rank(heatmap, rank))):
        ours, theirs = counted(some, boxes, size_hw, mode)
        metrics(name).update([ours], [theirs], [0], top=top)
    for name, some in (("extents", guess), ("whole:extents", whole_box)):
        metrics(name).update([some], [boxes])
    if found is not None:
        there = found * np.tile([size_hw[1] / view.image_hw[1], size_hw[0] / view.image_hw[0]], 2)
        ours, theirs = counted(there, boxes, size_hw, mode)
        metrics("found:at").update([ours], [theirs], [0], top=top)
        metrics("found:extents").update([there], [boxes])
    fit = float(iou(*counted(guess, boxes, size_hw, mode)).max(initial=0.0))
    return {"gt_known": float(fit >= 0.5), "iou": fit}


def _count_masks(
    metrics: _Metrics,
    heatmap: NDArray[np.float32],
    marked: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    ignore: NDArray[np.bool_] | None,
) -> dict[str, float]:
    left_out = None if ignore is None else [ignore]
    cone = centre_map((heatmap.shape[0], heatmap.shape[1]))
    metrics("mask").update([marked], [mask], left_out)
    metrics("whole:mask").update([np.ones_like(mask)], [mask], left_out)
    for who, one in (("", heatmap), ("centre:", cone)):
        metrics(f"{who}pxap").update(one[None], [mask], left_out)
        metrics(f"{who}best mask").update(one[None], [mask], left_out)
    constant = metrics("whole:pxap")  # a constant map has all its pixels at one threshold
    background = ~mask if ignore is None else ~mask & ~ignore
    constant.counters = {"inside": np.array([mask.sum()]), "outside": np.array([background.sum()])}
    return {"mask_iou": float(metrics("mask").compute())}


def _count_pointing(
    metrics: _Metrics, heatmap: NDArray[np.float32], shown: NDArray[np.float32], region: NDArray[Any], label: int
) -> dict[str, float]:
    cone = centre_map((heatmap.shape[0], heatmap.shape[1]))
    for who, one in (("", heatmap), ("centre:", cone)):
        for name in ("pointing", "strict"):
            metrics(f"{who}{name}").update(one[None], [region], [label])
    metrics("energy").update(shown[None], [region])
    metrics("whole:energy").update(np.ones((1, *heatmap.shape)), [region])
    metrics("centre:energy").update(cone[None], [region])
    return {"pointing": float(metrics("pointing").counters["hits"][label])}


def _add_overlaps(metric: MaxBoxAcc, overlaps: NDArray[np.float64]) -> None:
    """What `MaxBoxAcc.update` counts, from overlaps that are known already; a single one holds at every threshold."""
    correct = overlaps >= np.array(metric.iou)[:, None]
    metric.counters["correct"] = metric.counters["correct"][:, : overlaps.size] + correct
    metric.counters["images"] += 1


def _least(overlaps: list[float]) -> float:
    """The least of a picture's known overlaps; NaN where there is none."""
    known = [overlap for overlap in overlaps if not np.isnan(overlap)]
    return min(known, default=float("nan"))


def _top(rank: int) -> list[int]:
    """Five likeliest classes among which class 0 stands at this rank, if at all."""
    return [0 if place == rank else 1 for place in range(5)]


def _has_pixel(region: NDArray[Any], size_hw: tuple[int, int]) -> bool:
    """Whether a mask or boxes hold a pixel's centre."""
    if region.dtype == np.bool_:
        return bool(region.any())
    x1, y1, x2, y2 = np.ceil(region - 0.5).clip(0, [*size_hw[::-1]] * 2).T
    return bool(((x2 > x1) & (y2 > y1)).any())
