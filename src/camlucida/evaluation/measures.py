"""The table of all that is measured: each metric with what it counts of whom, each figure with what stands beside it.

One line here is one metric or one number: counting, intervals, table, page and JSON go through these tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from camlucida import metrics
from camlucida.boxes.guesses import guesses_of_rank
from camlucida.evaluation.bootstrap import Pick
from camlucida.evaluation.findings import CLASS_NUMBERS
from camlucida.evaluation.labelled_map import CountingSettings, LabelledMap, Need, Prediction, Predictor

DELTAS = (0.3, 0.5, 0.7)
TOLERANCE = 15


class Accuracy(metrics.Metric):
    """Classification: the shares of pictures whose class is the likeliest, and among the five likeliest.

    >>> metric = Accuracy()
    >>> metric.update([0, 3, 7])
    >>> metric.compute()
    (0.333, 0.667)
    """

    def __init__(self) -> None:
        self.counters = {"right": np.zeros(2, np.int64), "images": np.zeros(1, np.int64)}

    def update(self, ranks: list[int]) -> None:
        """Count some pictures by the place of their class among all logits, 0 the likeliest."""
        self.counters["right"] += [sum(rank < 1 for rank in ranks), sum(rank < 5 for rank in ranks)]
        self.counters["images"] += len(ranks)

    def compute(self) -> tuple[float, float]:
        """Top-1 and top-5; raises CamlucidaError before the first picture."""
        top1, top5 = (self.counters["right"] / self.images).tolist()
        return top1, top5


class PerClass(metrics.Metric):
    """Sums of some numbers, by their names, for each of so many classes, over the pictures where a number is known.

    >>> metric = PerClass(("top1", "iou"), 3)
    >>> metric.update(2, top1=1.0, iou=0.4)
    >>> metric.update(2, top1=0.0)
    >>> metric.compute()["top1"], metric.compute()["iou"].tolist()
    (array([nan, nan, 0.5]), [nan, nan, 0.4])
    """

    def __init__(self, names: tuple[str, ...], classes: int) -> None:
        self.names = names
        shape = (len(names), classes)
        self.counters = {"sums": np.zeros(shape), "counts": np.zeros(shape, np.int64)}

    def update(self, label: int, **numbers: float) -> None:
        """Count one picture of a class."""
        for name, number in numbers.items():
            row = self.names.index(name)
            self.counters["sums"][row, label] += number
            self.counters["counts"][row, label] += 1

    def compute(self) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
        """The mean of each number for each class (NaN where no picture has one), and under "pictures" the counts."""
        counts = self.counters["counts"]
        means = np.where(counts > 0, self.counters["sums"] / np.maximum(counts, 1), np.nan)
        return {**dict(zip(self.names, means, strict=True)), "pictures": counts.max(axis=0).astype(np.float64)}


Make = Callable[[CountingSettings], metrics.Metric]
Update = Callable[[Any, LabelledMap, Prediction], None]


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric of what one predictor says.

    Attributes:
        name: of its counters.
        make: makes the empty metric.
        by: whose predictions it counts.
        need: the truth that it needs.
        update: counts one class of one picture: metric, class with its truth, prediction. None: counted elsewhere.
    """

    name: str
    make: Make
    by: Predictor = "maps"
    need: Need = "boxes"
    update: Update | None = None


ACCURACY = Measure("accuracy", lambda _: Accuracy())  # counted once a picture
CLASSES = Measure("classes", lambda settings: PerClass(tuple(CLASS_NUMBERS), settings.classes))
GRID = Measure("grid", lambda _: metrics.GridPointing())  # counted once a mosaic


def _measures(name: str, make: Make, need: Need, update: Update, *by: Predictor) -> dict[Predictor, Measure]:
    """The metric for each of some predictors."""
    return {one: Measure(f"{name} of {one}", make, one, need, update) for one in by}


def _localize(metric: Any, target: LabelledMap, boxes: NDArray[Any]) -> None:
    ours, theirs = target.pair(boxes)
    metric.update([ours], [theirs], [0], top=[target.top])


def _mask(metric: Any, target: LabelledMap, said: Prediction) -> None:
    metric.update([said.heatmap], [target.mask], target.ignore)


def _point(metric: Any, target: LabelledMap, said: Prediction) -> None:
    metric.update([said.heatmap], [target.region], [target.label])


AT = _measures(
    "localization", lambda _: metrics.Localization(), "boxes",
    lambda metric, target, said: _localize(metric, target, said.boxes), "maps", "whole", "localizer",
)  # fmt: skip
GUESSES = _measures(
    "five guesses", lambda _: metrics.Localization(), "boxes",
    lambda metric, target, said: _localize(metric, target, guesses_of_rank(said.heatmap, target.rank)), "maps",
)  # fmt: skip
EXTENTS = _measures(
    "extents", lambda _: metrics.BoxExtents(), "boxes",
    lambda metric, target, said: metric.update([said.boxes], [target.boxes]), "maps", "whole", "localizer",
)  # fmt: skip
BEST = _measures(
    "best localization", lambda _: metrics.MaxLocalization(), "boxes",
    lambda metric, target, said: metric.update([said.overlaps["largest"]], [0], top=[target.top]), "maps", "centre",
)  # fmt: skip
V2 = _measures(
    "box accuracy", lambda settings: metrics.MaxBoxAcc(DELTAS, settings.mode, "all"), "boxes",
    lambda metric, _, said: metric.update_overlaps([said.overlaps["all"]]), "maps", "whole", "centre",
)  # fmt: skip
MASK = _measures(
    "mask", lambda _: metrics.MaskIoU(), "mask",
    lambda metric, target, said: metric.update([said.mask], [target.mask], target.ignore), "maps", "whole",
)  # fmt: skip
BEST_MASK = _measures("best mask", lambda _: metrics.MaxMaskIoU(), "mask", _mask, "maps", "centre")
PXAP = _measures("pxap", lambda _: metrics.PxAP(), "mask", _mask, "maps", "whole", "centre")
POINTING = _measures("pointing", lambda _: metrics.PointingGame(TOLERANCE), "region", _point, "maps", "centre")
STRICT = _measures("strict pointing", lambda _: metrics.PointingGame(1), "region", _point, "maps", "centre")
ENERGY = _measures(
    "energy", lambda _: metrics.EnergyPointing(), "region",
    lambda metric, target, said: metric.update([said.energy], [target.region]), "maps", "whole", "centre",
)  # fmt: skip

FAMILIES = (AT, GUESSES, EXTENTS, BEST, V2, MASK, BEST_MASK, PXAP, POINTING, STRICT, ENERGY)
"""Add your own: a family above, its name here, and the figures that it gives below."""

MEASURES = tuple(measure for family in FAMILIES for measure in family.values())


class Beside(NamedTuple):
    """A baseline: its name, its metric (or a constant), and its number from what the metric computes."""

    name: str
    measure: Measure | float
    pick: Pick


@dataclass(frozen=True, eq=False)
class FigureSpec:
    """How a ``Figure`` is made: from whose counters, and which numbers of what the metric computes."""

    key: str
    title: str
    group: str
    measure: Measure
    pick: Pick
    baselines: tuple[Beside, ...] = ()
    threshold: Pick | None = None


_CLASSIFICATION, _MASKS, _POINTING = "classification", "masks", "pointing"
_OPERATING = "boxes at the operating point, IoU ≥ 0.5"
_BEST = "boxes at the best single threshold, chosen on these very pictures"
_LOCALIZER = "two-stage localizer, IoU ≥ 0.5"

_GT_KNOWN, _TOP1, _TOP5 = attrgetter("gt_known"), attrgetter("top1"), attrgetter("top5")
_THRESHOLD, _FIRST, _SECOND = attrgetter("threshold"), itemgetter(0), itemgetter(1)


def _localized(
    key: str, title: str, group: str, measure: Measure, pick: Pick, beside: Pick | None = None, at: Pick | None = None
) -> FigureSpec:
    """Boxes that must fit, beside one around the whole picture and a centred one."""
    baselines = (Beside("whole image", AT["whole"], beside or pick),
                 Beside("centre box", BEST["centre"], beside or pick))  # fmt: skip
    return FigureSpec(key, title, group, measure, pick, baselines, at)


def _extents(key: str, title: str, group: str, measure: Measure, name: str) -> FigureSpec:
    pick = attrgetter(name)
    return FigureSpec(key, title, group, measure, pick, (Beside("whole image", EXTENTS["whole"], pick),))


def _box_accuracy(key: str, title: str, pick: Pick, at: Pick | None = None) -> FigureSpec:
    baselines = Beside("whole image", V2["whole"], pick), Beside("centre box", V2["centre"], pick)
    return FigureSpec(key, title, _BEST, V2["maps"], pick, baselines, at)


def _at(place: int, name: str) -> Pick:
    """The number at one of the overlaps."""
    return lambda computed: getattr(computed, name)[place]


_COMMONEST = Beside("commonest class", CLASSES, lambda means: means["pictures"].max() / means["pictures"].sum())
_CENTRE_MASK = Beside("centre map", BEST_MASK["centre"], _FIRST)
_WHOLE_MASK = Beside("whole image", MASK["whole"], float)

FIGURES = (
    FigureSpec("top1", "top-1", _CLASSIFICATION, ACCURACY, _FIRST, (_COMMONEST,)),
    FigureSpec("top5", "top-5", _CLASSIFICATION, ACCURACY, _SECOND),
    _localized("gt_known", "GT-known Loc", _OPERATING, AT["maps"], _GT_KNOWN),
    _localized("top1_loc", "Top-1 Loc", _OPERATING, AT["maps"], _TOP1),
    _localized("top5_loc", "Top-5 Loc", _OPERATING, AT["maps"], _TOP5),
    _localized("five_guesses", "Top-5 Loc, five guesses", _OPERATING, GUESSES["maps"], _GT_KNOWN, _TOP5),
    _extents("box_iou", "mean box IoU", _OPERATING, EXTENTS["maps"], "iou"),
    _extents("box_recall", "share of the true box covered", _OPERATING, EXTENTS["maps"], "recall"),
    _extents("box_precision", "share of the box that is right", _OPERATING, EXTENTS["maps"], "precision"),
    _localized("max_box_acc", "MaxBoxAcc = GT-known Loc", _BEST, BEST["maps"], _GT_KNOWN, at=_THRESHOLD),
    _localized("best_top1_loc", "Top-1 Loc there", _BEST, BEST["maps"], _TOP1, at=_THRESHOLD),
    _localized("best_top5_loc", "Top-5 Loc there", _BEST, BEST["maps"], _TOP5, at=_THRESHOLD),
    _box_accuracy("max_box_acc_v2", "MaxBoxAccV2", attrgetter("mean")),
    *(_box_accuracy(f"max_box_acc_v2_{delta}", f"… IoU ≥ {delta}", _at(i, "accuracy"), _at(i, "threshold"))
      for i, delta in enumerate(DELTAS)),
    FigureSpec("pxap", "PxAP", _MASKS, PXAP["maps"], float,
               (Beside("whole image", PXAP["whole"], float), Beside("centre map", PXAP["centre"], float))),
    FigureSpec("mask_iou", "mask IoU, operating point", _MASKS, MASK["maps"], float, (_WHOLE_MASK, _CENTRE_MASK)),
    FigureSpec("best_mask_iou", "mask IoU, best threshold", _MASKS, BEST_MASK["maps"], _FIRST,
               (_WHOLE_MASK, _CENTRE_MASK), _SECOND),
    FigureSpec("pointing", f"pointing game, {TOLERANCE} px", _POINTING, POINTING["maps"], float,
               (Beside("centre point", POINTING["centre"], float),)),
    FigureSpec("pointing_strict", "pointing game, on the object", _POINTING, STRICT["maps"], float,
               (Beside("centre point", STRICT["centre"], float),)),
    FigureSpec("energy", "energy-based pointing", _POINTING, ENERGY["maps"], float,
               (Beside("whole image", ENERGY["whole"], float), Beside("centre map", ENERGY["centre"], float))),
    FigureSpec("grid_pointing", "grid pointing, 2×2 mosaics", _POINTING, GRID, float,
               (Beside("chance", 0.25, float),)),
    _localized("found_gt_known", "GT-known Loc", _LOCALIZER, AT["localizer"], _GT_KNOWN),
    _localized("found_top1_loc", "Top-1 Loc", _LOCALIZER, AT["localizer"], _TOP1),
    _localized("found_top5_loc", "Top-5 Loc", _LOCALIZER, AT["localizer"], _TOP5),
    _extents("found_iou", "mean box IoU", _LOCALIZER, EXTENTS["localizer"], "iou"),
)  # fmt: skip
"""All figures, in the order of table, page and JSON."""
