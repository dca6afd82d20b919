"""The numbers of an evaluation: what each is called, which metric gives it, and what stands beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.evaluation.bootstrap import Bootstrap, Pick, interval
from camlucida.evaluation.result import Baseline, Figure, Value
from camlucida.evaluation.tally import DELTAS, TOLERANCE
from camlucida.metrics.accumulate import Metric

WHOLE, CENTRE_BOX, CENTRE, CENTRE_POINT = "whole image", "centre box", "centre map", "centre point"


@dataclass(frozen=True)
class Spec:
    """How a figure is made.

    Attributes:
        key: see ``Figure``.
        title: see ``Figure``.
        group: see ``Figure``.
        metric: the metric's name in ``tally.metric_makers``.
        pick: the number, from what the metric computes.
        baselines: name, metric and pick of each; a metric that is a number is a constant.
        threshold: the best threshold, from what the metric computes.
    """

    key: str
    title: str
    group: str
    metric: str
    pick: Pick
    baselines: tuple[tuple[str, str | float, Pick], ...] = ()
    threshold: Callable[[Any], float] | None = None


def specs() -> tuple[Spec, ...]:
    """All figures, in the order of the table."""
    return (*_classification(), *_operating(), *_best(), *_masks(), *_pointing(), *_found())


def _classification() -> tuple[Spec, ...]:
    group = "classification"
    common = (("commonest class", "class", lambda means: float(means["pictures"].max() / means["pictures"].sum())),)
    return (
        Spec("top1", "top-1", group, "accuracy", lambda top: float(top[0]), common),
        Spec("top5", "top-5", group, "accuracy", lambda top: float(top[1])),
    )


def _operating() -> tuple[Spec, ...]:
    group = "boxes at the operating point, IoU ≥ 0.5"

    def beside(pick: Pick) -> tuple[tuple[str, str | float, Pick], ...]:
        return ((WHOLE, "whole:at", pick), (CENTRE_BOX, "centre:best", pick))

    rows = [
        Spec(key, title, group, "at", pick, beside(pick))
        for key, title, pick in (
            ("gt_known", "GT-known Loc", _gt_known),
            ("top1_loc", "Top-1 Loc", _top1),
            ("top5_loc", "Top-5 Loc", _top5),
        )
    ]
    rows.append(
        Spec(
            "five_guesses", "Top-5 Loc, five guesses", group, "guesses", _gt_known,
            ((WHOLE, "whole:at", _top5), (CENTRE_BOX, "centre:best", _top5)),
        )
    )  # fmt: skip
    for key, title, part in (
        ("box_iou", "mean box IoU", "iou"),
        ("box_recall", "share of the true box covered", "recall"),
        ("box_precision", "share of the box that is right", "precision"),
    ):
        rows.append(Spec(key, title, group, "extents", _part(part), ((WHOLE, "whole:extents", _part(part)),)))
    return tuple(rows)


def _best() -> tuple[Spec, ...]:
    group = "boxes at the best single threshold, chosen on these very pictures"
    rows = [
        Spec(
            key, title, group, "best", pick, ((WHOLE, "whole:at", pick), (CENTRE_BOX, "centre:best", pick)),
            lambda found: float(found.threshold),
        )
        for key, title, pick in (
            ("max_box_acc", "MaxBoxAcc = GT-known Loc", _gt_known),
            ("best_top1_loc", "Top-1 Loc there", _top1),
            ("best_top5_loc", "Top-5 Loc there", _top5),
        )
    ]  # fmt: skip
    rows.append(
        Spec("max_box_acc_v2", "MaxBoxAccV2", group, "v2", _mean,
             ((WHOLE, "whole:v2", _mean), (CENTRE_BOX, "centre:v2", _mean)))
    )  # fmt: skip
    for place, delta in enumerate(DELTAS):
        pick = _at(place)
        rows.append(
            Spec(f"max_box_acc_v2_{delta}", f"… IoU ≥ {delta}", group, "v2", pick,
                 ((WHOLE, "whole:v2", pick), (CENTRE_BOX, "centre:v2", pick)), _threshold_at(place))
        )  # fmt: skip
    return tuple(rows)


def _masks() -> tuple[Spec, ...]:
    group = "masks"
    return (
        Spec("pxap", "PxAP", group, "pxap", float, ((WHOLE, "whole:pxap", float), (CENTRE, "centre:pxap", float))),
        Spec("mask_iou", "mask IoU, operating point", group, "mask", float,
             ((WHOLE, "whole:mask", float), (CENTRE, "centre:best mask", _first))),
        Spec("best_mask_iou", "mask IoU, best threshold", group, "best mask", _first,
             ((WHOLE, "whole:mask", float), (CENTRE, "centre:best mask", _first)), lambda found: float(found[1])),
    )  # fmt: skip


def _pointing() -> tuple[Spec, ...]:
    group = "pointing"
    return (
        Spec("pointing", f"pointing game, {TOLERANCE} px", group, "pointing", float,
             ((CENTRE_POINT, "centre:pointing", float),)),
        Spec("pointing_strict", "pointing game, on the object", group, "strict", float,
             ((CENTRE_POINT, "centre:strict", float),)),
        Spec("energy", "energy-based pointing", group, "energy", float,
             ((WHOLE, "whole:energy", float), (CENTRE, "centre:energy", float))),
        Spec("grid_pointing", "grid pointing, 2×2 mosaics", group, "grid", float, (("chance", 0.25, float),)),
    )  # fmt: skip


def _found() -> tuple[Spec, ...]:
    group = "two-stage localizer, IoU ≥ 0.5"
    rows = [
        Spec(key, title, group, "found:at", pick, ((WHOLE, "whole:at", pick), (CENTRE_BOX, "centre:best", pick)))
        for key, title, pick in (
            ("found_gt_known", "GT-known Loc", _gt_known),
            ("found_top1_loc", "Top-1 Loc", _top1),
            ("found_top5_loc", "Top-5 Loc", _top5),
        )
    ]
    iou = _part("iou")
    return (*rows, Spec("found_iou", "mean box IoU", group, "found:extents", iou, ((WHOLE, "whole:extents", iou),)))


def measured(sums: Bootstrap, makers: Mapping[str, Callable[[], Metric]]) -> list[Figure]:
    """Every figure that some picture counted for, with its interval and its baselines."""
    rows = [spec for spec in specs() if spec.metric in sums.pictures]
    wanted: dict[str, list[Pick]] = {}
    for spec in rows:
        for metric, pick in ((spec.metric, spec.pick), *(one[1:] for one in spec.baselines)):
            if isinstance(metric, str):
                wanted.setdefault(metric, []).append(pick)
    known: dict[tuple[str, Pick], NDArray[np.float64]] = {}
    for metric, picks in wanted.items():
        known |= {
            (metric, pick): one for pick, one in zip(picks, sums.values(metric, makers[metric](), picks), strict=True)
        }

    figures = []
    for spec in rows:
        own = known[spec.metric, spec.pick]
        beside = []
        for name, metric, pick in spec.baselines:
            other = known[metric, pick] if isinstance(metric, str) else np.full_like(own, metric)
            if np.isfinite(other[0]):
                beside.append(Baseline(name, _value(other), _value(own - other)))
        computed: Any = sums.metric(spec.metric, makers[spec.metric]())
        at = None if spec.threshold is None else spec.threshold(computed.compute())
        count = sums.pictures[spec.metric]
        figures.append(Figure(spec.key, spec.title, spec.group, _value(own), count, at, tuple(beside)))
    return figures


def _value(values: NDArray[np.float64]) -> Value:
    limits = interval(values)
    return Value(float(values[0])) if limits is None else Value(float(values[0]), *limits)


def _gt_known(found: Any) -> float:
    return float(found.gt_known)


def _top1(found: Any) -> float:
    return float(found.top1)


def _top5(found: Any) -> float:
    return float(found.top5)


def _mean(found: Any) -> float:
    return float(found.mean)


def _first(found: Any) -> float:
    return float(found[0])


def _part(name: str) -> Pick:
    return lambda found: float(getattr(found, name))


def _at(place: int) -> Pick:
    return lambda found: float(found.accuracy[place])


def _threshold_at(place: int) -> Pick:
    return lambda found: float(found.threshold[place])
