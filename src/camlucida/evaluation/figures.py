"""The numbers of an evaluation, read from its counters: figures with intervals and baselines, curves, a row a class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from camlucida.evaluation.bootstrap import Bootstrap, interval
from camlucida.evaluation.findings import CLASS_NUMBERS, Baseline, ClassRow, Figure, Value
from camlucida.evaluation.labelled_map import CountingSettings
from camlucida.evaluation.measures import CLASSES, DELTAS, FIGURES, V2, Beside, Measure


def measured(sums: Bootstrap, settings: CountingSettings) -> tuple[Figure, ...]:
    """Every figure that some picture counted for, with its interval and its baselines."""
    rows = [spec for spec in FIGURES if spec.measure.name in sums.pictures]
    wanted: dict[Measure, list[Beside]] = {}
    for spec in rows:
        for one in (Beside("", spec.measure, spec.pick), *spec.baselines):
            if isinstance(one.measure, Measure):
                wanted.setdefault(one.measure, []).append(one)
    known: dict[tuple[Measure, object], NDArray[np.float64]] = {}
    for measure, some in wanted.items():
        values = sums.values(measure.name, measure.make(settings), [one.pick for one in some])
        known |= {(measure, one.pick): value for one, value in zip(some, values, strict=True)}

    figures = []
    for spec in rows:
        own = known[spec.measure, spec.pick]
        baselines = []
        for one in spec.baselines:
            other = known[one.measure, one.pick] if isinstance(one.measure, Measure) else np.full_like(own, one.measure)
            if np.isfinite(other[0]):
                baselines.append(Baseline(one.name, _value(other), _value(own - other)))
        threshold = None
        if spec.threshold is not None:
            threshold = float(spec.threshold(sums.metric(spec.measure.name, spec.measure.make(settings)).compute()))
        count = sums.pictures[spec.measure.name]
        figures.append(Figure(spec.key, spec.title, spec.group, _value(own), count, threshold, tuple(baselines)))
    return tuple(figures)


def accuracy_curves(sums: Bootstrap, settings: CountingSettings) -> dict[str, NDArray[np.float64]]:
    """Box accuracy against the threshold, for each overlap, and the centre's beside it; nothing without boxes."""
    if V2["maps"].name not in sums.pictures:
        return {}
    own, centre = (sums.metric(V2[by].name, V2[by].make(settings)).compute().curves for by in ("maps", "centre"))
    curves = {str(delta): curve for delta, curve in zip(DELTAS, own, strict=True)}
    return curves | {"centre 0.5": centre[DELTAS.index(0.5)]}


def class_rows(sums: Bootstrap, settings: CountingSettings, classes: tuple[str, ...]) -> tuple[ClassRow, ...]:
    """What each class that occurs scored."""
    means = sums.metric(CLASSES.name, CLASSES.make(settings)).compute()
    rows = []
    for label in np.flatnonzero(means["pictures"]).tolist():
        known = {name: None if np.isnan(means[name][label]) else float(means[name][label]) for name in CLASS_NUMBERS}
        rows.append(ClassRow(classes[label], int(means["pictures"][label]), **known))
    return tuple(rows)


def _value(values: NDArray[np.float64]) -> Value:
    return Value(float(values[0]), *(interval(values) or ()))
