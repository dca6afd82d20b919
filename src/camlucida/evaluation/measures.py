"""The table of all that is measured: each metric with what it counts of whom, each figure with what stands beside it.

One line here is one metric or one number: counting, intervals, table, page and JSON go through these tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any

from camlucida.boxes.guesses import guesses_of_rank
from camlucida.evaluation.accuracy import Accuracy, PerClass
from camlucida.evaluation.bootstrap import Pick
from camlucida.evaluation.findings import CLASS_NUMBERS
from camlucida.evaluation.labelled_map import CountingSettings, LabelledMap, Need
from camlucida.evaluation.predictions import Predictor
from camlucida.metrics import (
    BoxExtents,
    EnergyPointing,
    GridPointing,
    Localization,
    MaskIoU,
    MaxBoxAcc,
    MaxLocalization,
    MaxMaskIoU,
    Metric,
    PointingGame,
    PxAP,
)

DELTAS = (0.3, 0.5, 0.7)
TOLERANCE = 15

Update = Callable[[Any, LabelledMap, Any], None]


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
    make: Callable[[CountingSettings], Metric]
    by: Predictor = "maps"
    need: Need = "boxes"
    update: Update | None = None


ACCURACY = Measure("accuracy", lambda _: Accuracy())  # counted once a picture
CLASSES = Measure("classes", lambda settings: PerClass(tuple(CLASS_NUMBERS), settings.classes))
GRID = Measure("grid", lambda _: GridPointing())  # counted once a mosaic


def _measures(
    name: str, make: Callable[[CountingSettings], Metric], need: Need, by: tuple[Predictor, ...], update: Update
) -> dict[Predictor, Measure]:
    return {one: Measure(f"{name} of {one}", make, one, need, update) for one in by}


AT = _measures(
    "localization", lambda _: Localization(), "boxes", ("maps", "whole", "localizer"),
    lambda metric, target, said: _localize(metric, target, said.boxes),
)  # fmt: skip
GUESSES = _measures(
    "five guesses", lambda _: Localization(), "boxes", ("maps",),
    lambda metric, target, said: _localize(metric, target, guesses_of_rank(said.heatmap, target.rank)),
)  # fmt: skip
EXTENTS = _measures(
    "extents", lambda _: BoxExtents(), "boxes", ("maps", "whole", "localizer"),
    lambda metric, target, said: metric.update([said.boxes], [target.boxes]),
)  # fmt: skip
BEST = _measures(
    "best localization", lambda _: MaxLocalization(), "boxes", ("maps", "centre"),
    lambda metric, target, said: metric.update([said.overlaps("largest")], [0], top=[target.top]),
)  # fmt: skip
V2 = _measures(
    "box accuracy", lambda settings: MaxBoxAcc(DELTAS, settings.mode, "all"), "boxes", ("maps", "whole", "centre"),
    lambda metric, target, said: metric.update_overlaps([said.overlaps("all")]),
)  # fmt: skip
MASK = _measures(
    "mask", lambda _: MaskIoU(), "mask", ("maps", "whole"),
    lambda metric, target, said: metric.update([said.mask], [target.mask], target.ignored),
)  # fmt: skip
BEST_MASK = _measures(
    "best mask", lambda _: MaxMaskIoU(), "mask", ("maps", "centre"),
    lambda metric, target, said: metric.update([said.heatmap], [target.mask], target.ignored),
)  # fmt: skip
PXAP = _measures(
    "pxap", lambda _: PxAP(), "mask", ("maps", "whole", "centre"),
    lambda metric, target, said: metric.update([said.heatmap], [target.mask], target.ignored),
)  # fmt: skip
POINTING = _measures(
    "pointing", lambda _: PointingGame(TOLERANCE), "region", ("maps", "centre"),
    lambda metric, target, said: metric.update([said.heatmap], [target.region], [target.label]),
)  # fmt: skip
STRICT = _measures(
    "strict pointing", lambda _: PointingGame(1), "region", ("maps", "centre"),
    lambda metric, target, said: metric.update([said.heatmap], [target.region], [target.label]),
)  # fmt: skip
ENERGY = _measures(
    "energy", lambda _: EnergyPointing(), "region", ("maps", "whole", "centre"),
    lambda metric, target, said: metric.update([said.energy], [target.region]),
)  # fmt: skip

MEASURES = tuple(
    measure
    for family in (AT, GUESSES, EXTENTS, BEST, V2, MASK, BEST_MASK, PXAP, POINTING, STRICT, ENERGY)
    for measure in family.values()
)
"""Add your own: a family above, its name here, and the figures that it gives below."""


def _localize(metric: Localization, target: LabelledMap, boxes: Any) -> None:
    ours, theirs = target.pair(boxes)
    metric.update([ours], [theirs], [0], top=[target.top])


@dataclass(frozen=True, eq=False)
class Beside:
    """A baseline: its name, its metric (or a constant), and its number from what the metric computes."""

    name: str
    measure: Measure | float
    pick: Pick


@dataclass(frozen=True, eq=False)
class FigureSpec:
    """How a figure is made.

    Attributes:
        key: see ``Figure``.
        title: see ``Figure``.
        group: see ``Figure``.
        measure: whose counters it is read from.
        pick: the number, from what the metric computes.
        baselines: beside it.
        threshold: the best threshold, from what the metric computes.
    """

    key: str
    title: str
    group: str
    measure: Measure
    pick: Pick
    baselines: tuple[Beside, ...] = ()
    threshold: Pick | None = None


_CLASSIFICATION = "classification"
_OPERATING = "boxes at the operating point, IoU ≥ 0.5"
_BEST = "boxes at the best single threshold, chosen on these very pictures"
_MASKS = "masks"
_POINTING = "pointing"
_LOCALIZER = "two-stage localizer, IoU ≥ 0.5"

_GT_KNOWN, _TOP1, _TOP5, _IOU = (attrgetter(name) for name in ("gt_known", "top1", "top5", "iou"))
_FIRST, _THRESHOLD = itemgetter(0), attrgetter("threshold")


def _localized(
    key: str, title: str, group: str, measure: Measure, pick: Pick, beside: Pick | None = None,
    threshold: Pick | None = None,
) -> FigureSpec:  # fmt: skip
    """Boxes that must fit, beside one around the whole picture and a centred one."""
    baselines = (
        Beside("whole image", AT["whole"], beside or pick), Beside("centre box", BEST["centre"], beside or pick),
    )  # fmt: skip
    return FigureSpec(key, title, group, measure, pick, baselines, threshold)


def _extents(key: str, title: str, group: str, measure: Measure, pick: Pick) -> FigureSpec:
    return FigureSpec(key, title, group, measure, pick, (Beside("whole image", EXTENTS["whole"], pick),))


def _box_accuracy(key: str, title: str, pick: Pick, threshold: Pick | None = None) -> FigureSpec:
    baselines = (Beside("whole image", V2["whole"], pick), Beside("centre box", V2["centre"], pick))
    return FigureSpec(key, title, _BEST, V2["maps"], pick, baselines, threshold)


def _at(place: int, name: str) -> Pick:
    """The number at one of the overlaps."""
    return lambda computed: getattr(computed, name)[place]


_COMMONEST = (Beside("commonest class", CLASSES, lambda means: means["pictures"].max() / means["pictures"].sum()),)

FIGURES = (
    FigureSpec("top1", "top-1", _CLASSIFICATION, ACCURACY, _FIRST, _COMMONEST),
    FigureSpec("top5", "top-5", _CLASSIFICATION, ACCURACY, itemgetter(1)),
    _localized("gt_known", "GT-known Loc", _OPERATING, AT["maps"], _GT_KNOWN),
    _localized("top1_loc", "Top-1 Loc", _OPERATING, AT["maps"], _TOP1),
    _localized("top5_loc", "Top-5 Loc", _OPERATING, AT["maps"], _TOP5),
    _localized("five_guesses", "Top-5 Loc, five guesses", _OPERATING, GUESSES["maps"], _GT_KNOWN, _TOP5),
    _extents("box_iou", "mean box IoU", _OPERATING, EXTENTS["maps"], _IOU),
    _extents("box_recall", "share of the true box covered", _OPERATING, EXTENTS["maps"], attrgetter("recall")),
    _extents("box_precision", "share of the box that is right", _OPERATING, EXTENTS["maps"], attrgetter("precision")),
    _localized("max_box_acc", "MaxBoxAcc = GT-known Loc", _BEST, BEST["maps"], _GT_KNOWN, threshold=_THRESHOLD),
    _localized("best_top1_loc", "Top-1 Loc there", _BEST, BEST["maps"], _TOP1, threshold=_THRESHOLD),
    _localized("best_top5_loc", "Top-5 Loc there", _BEST, BEST["maps"], _TOP5, threshold=_THRESHOLD),
    _box_accuracy("max_box_acc_v2", "MaxBoxAccV2", attrgetter("mean")),
    *(
        _box_accuracy(
            f"max_box_acc_v2_{delta}", f"… IoU ≥ {delta}", _at(place, "accuracy"), _at(place, "threshold")
        )
        for place, delta in enumerate(DELTAS)
    ),
    FigureSpec(
        "pxap", "PxAP", _MASKS, PXAP["maps"], float,
        (Beside("whole image", PXAP["whole"], float), Beside("centre map", PXAP["centre"], float)),
    ),
    FigureSpec(
        "mask_iou", "mask IoU, operating point", _MASKS, MASK["maps"], float,
        (Beside("whole image", MASK["whole"], float), Beside("centre map", BEST_MASK["centre"], _FIRST)),
    ),
    FigureSpec(
        "best_mask_iou", "mask IoU, best threshold", _MASKS, BEST_MASK["maps"], _FIRST,
        (Beside("whole image", MASK["whole"], float), Beside("centre map", BEST_MASK["centre"], _FIRST)), itemgetter(1),
    ),
    FigureSpec(
        "pointing", f"pointing game, {TOLERANCE} px", _POINTING, POINTING["maps"], float,
        (Beside("centre point", POINTING["centre"], float),),
    ),
    FigureSpec(
        "pointing_strict", "pointing game, on the object", _POINTING, STRICT["maps"], float,
        (Beside("centre point", STRICT["centre"], float),),
    ),
    FigureSpec(
        "energy", "energy-based pointing", _POINTING, ENERGY["maps"], float,
        (Beside("whole image", ENERGY["whole"], float), Beside("centre map", ENERGY["centre"], float)),
    ),
    FigureSpec(
        "grid_pointing", "grid pointing, 2×2 mosaics", _POINTING, GRID, float, (Beside("chance", 0.25, float),)
    ),
    _localized("found_gt_known", "GT-known Loc", _LOCALIZER, AT["localizer"], _GT_KNOWN),
    _localized("found_top1_loc", "Top-1 Loc", _LOCALIZER, AT["localizer"], _TOP1),
    _localized("found_top5_loc", "Top-5 Loc", _LOCALIZER, AT["localizer"], _TOP5),
    _extents("found_iou", "mean box IoU", _LOCALIZER, EXTENTS["localizer"], _IOU),
)  # fmt: skip
"""All figures, in the order of table, page and JSON."""
