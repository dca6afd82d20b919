"""The whole evaluation on one screen: records -> maps -> counters -> figures, verdict and cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.boxes.calibration import Calibration
from camlucida.boxes.localize import as_boxes
from camlucida.boxes.overlaps import THRESHOLDS, Mode
from camlucida.data.record import Dataset, Record
from camlucida.errors import CamlucidaError, DataError
from camlucida.evaluation.bootstrap import LEVEL, Bootstrap
from camlucida.evaluation.cases import cases_of
from camlucida.evaluation.classes import class_ids
from camlucida.evaluation.figures import measured
from camlucida.evaluation.grid_pointing import Known, layouts, play
from camlucida.evaluation.maps import Explained, explained, preprocess_for
from camlucida.evaluation.processes import Job, counted_in_order
from camlucida.evaluation.result import ClassRow, Evaluation
from camlucida.evaluation.tally import DELTAS, TOLERANCE, Settings, Work, metric_makers
from camlucida.evaluation.verdict import warnings
from camlucida.explainer import Explainer
from camlucida.images.picture import Picture
from camlucida.metrics import GridPointing, MaxBoxAcc
from camlucida.metrics.accumulate import Metric
from camlucida.models import open_model

if TYPE_CHECKING:
    from camlucida.explainer import ModelLike
    from camlucida.images.symmetries import TTA
    from camlucida.methods.registry import Compute
    from camlucida.pytorch.stages import Layers


class Boxer(Protocol):
    """A two-stage localizer: boxes of a picture, without a map."""

    def boxes(self, picture: Picture) -> ArrayLike:
        """One box (4,) or several (M, 4), half-open xyxy pixels of the picture."""
        ...


Localizer = Boxer | Callable[[Picture], ArrayLike]


def evaluate(
    model: ModelLike,
    dataset: Dataset,
    *,
    split: str | None = None,
    method: str | Compute = "cam",
    layer: Layers = None,
    tta: TTA = "one",
    mode: Mode = "exact",
    calibration: Calibration | None = None,
    localizer: Localizer | None = None,
    batch: int = 16,
    workers: int = 0,
    bootstrap: int = 1000,
    mosaics: int = 100,
    seed: int = 0,
    on_error: Callable[[str], None] | None = None,
    on_pictures: Callable[[int], None] | None = None,
) -> Evaluation:
    """Evaluate how well a classifier classifies, and how well its maps find what it names.

    Each picture is judged by the map of its own class (each of them, where it has several), at two kinds of thresholds:
    the operating point, chosen before, and the best single one, chosen on the evaluated pictures. Pictures without
    boxes or masks count for classification alone. Memory does not grow with the number of pictures.

    Args:
        model: see ``explain``; its classes are found by the names of the data's, and it may know more.
        dataset: labelled pictures with their truth (``data.open_dataset``).
        split: evaluate this split alone; None: all records.
        method: of the maps.
        layer: of the maps.
        tta: the maps as means over flips and turns of each picture (see ``explain``).
        mode: "exact": the picture as the model's preprocessing shows it, the map laid over it at its own size,
            half-open boxes. "protocol": the public benchmark's: the whole picture stretched to the model's input (224
            for its models), the map resized to 224×224 by bicubic interpolation, truth cut to integers at that size,
            contours and +1 pixel (see ``metrics.box_overlaps``).
        calibration: the operating point; None: the model's own, else the paper's rule (20 % of the maximum).
        localizer: also judge boxes that come from elsewhere: a function of a picture, or an object with ``boxes``.
        batch: pictures that go through the model at once.
        workers: processes that count boxes and masks; 0: none but this one. A script that asks for some needs
            ``if __name__ == "__main__":`` around it.
        bootstrap: resamples of the 95 % confidence intervals (see ``bootstrap.Bootstrap``); 0: none.
        mosaics: of the grid pointing game; 0: none.
        seed: of resamples and mosaics.
        on_error: told of every picture or mask that cannot be read, which is left out; None raises.
        on_pictures: told of every number of pictures done since the last time.

    Raises:
        DataError: there is no such split, no labelled record in it, or a file cannot be read.
        TargetError: the model does not know a class of the data.
        CamlucidaError: another subclass says what was wrong with model, method or settings.
    """
    for name, number, least in (("batch", batch, 1), ("workers", workers, 0), ("mosaics", mosaics, 0)):
        if number < least:
            raise CamlucidaError(f"evaluate: {name}: expected at least {least}, got {number}")
    if mode not in ("exact", "protocol"):
        raise CamlucidaError(f"mode: expected 'protocol' or 'exact', got {mode!r}")
    part = dataset.split(split) if split is not None else dataset
    records = [record for record in part.records if record.example.labels]
    if not records:
        where = f"split {split!r} of {dataset.name}" if split is not None else dataset.name
        raise DataError(f"{where}: no labelled record to evaluate; name another split or label")
    opened = open_model(model)
    preprocess = preprocess_for(opened.preprocess, mode)
    explainer = Explainer(opened, method=method, layer=layer, preprocess=preprocess, tta=tta)
    own: Calibration | None = getattr(opened, "calibration", None)
    settings = Settings(mode, calibration or own or Calibration(), len(dataset.classes))
    skipped: list[str] = []

    def skip(message: str) -> None:
        if on_error is None:
            raise DataError(message)
        skipped.append(message)
        on_error(message)

    sums = Bootstrap(bootstrap, seed)
    overlaps = np.full(len(records), np.nan)
    known: list[Known] = []
    located = any(_has_place(record) for record in records)

    def work() -> Iterator[Job]:
        for some in explained(explainer, dataset.classes, records, batch=batch, on_error=skip):
            known.extend(_known(some, located))
            yield [_work(one, localizer) for one in some], settings

    for done in counted_in_order(work(), workers):
        for trouble in done.troubles:
            skip(trouble)
        if done.tallies:
            sums.add([one.index for one in done.tallies], [one.counters for one in done.tallies])
            overlaps[[one.index for one in done.tallies]] = [one.overlap for one in done.tallies]
        if on_pictures is not None:
            on_pictures(len(done.tallies) + len(done.troubles))
    if "accuracy" not in sums.pictures:
        raise DataError(f"{dataset.name}: none of its {len(records)} pictures could be read")

    makers = {**metric_makers(settings), "grid": GridPointing}
    tile_hw = _play(explainer, dataset, records, layouts(known, mosaics, seed), sums, batch)
    figures = tuple(measured(sums, makers))
    curves = _curves(sums, makers)
    return Evaluation(
        opened.name, opened.note, explainer.method.name, dataset.name + (f", split {split}" if split else ""), mode,
        settings.calibration, sums.pictures["accuracy"], tuple(skipped), len(part.records) - len(records),
        warnings(figures), figures, _rows(sums, makers, dataset.classes), THRESHOLDS.copy() if curves else np.zeros(0),
        curves, tuple(cases_of(explainer, dataset.classes, records, overlaps, settings)),
        _settings(explainer, bootstrap, seed, mosaics, tile_hw),
    )  # fmt: skip


def _work(one: Explained, localizer: Localizer | None) -> Work:
    found = None
    if localizer is not None:
        given = localizer(one.picture) if callable(localizer) else localizer.boxes(one.picture)
        found = as_boxes(np.atleast_2d(np.asarray(given, np.float64)), f"localizer: {one.record.example.id}")
    truth = one.record.truth
    masks = {name: made() for name in ("mask", "ignore") if callable(made := getattr(truth, name))}
    return Work(one.index, one.view, one.labels, one.ranks, one.maps, replace(truth, **masks), found)


def _has_place(record: Record) -> bool:
    return bool(len(record.truth.boxes)) or record.truth.mask is not None


def _known(some: list[Explained], located: bool) -> list[Known]:
    """The pictures of one class each that the model classifies rightly. Where some records have boxes or masks, a
    picture without any holds no thing.
    """
    return [
        Known(one.index, one.labels[0], one.probabilities[0], _has_place(one.record) or not located)
        for one in some
        if len(one.labels) == 1 and one.ranks[0] == 0
    ]


def _play(
    explainer: Explainer,
    dataset: Dataset,
    records: list[Record],
    mosaics: list[tuple[Known, ...]],
    sums: Bootstrap,
    batch: int,
) -> tuple[int, int] | None:
    """The grid pointing game; the size of the tiles as the network saw them, None where it was not played."""
    if not mosaics:
        return None
    labels = sorted({tile.label for mosaic in mosaics for tile in mosaic})
    width = explainer.runner.predict(explainer.preprocess(records[mosaics[0][0].index].example.read().pixels)[0][None])
    ids = class_ids(dataset.classes, labels, explainer.class_names, width.shape[1])
    tile_hw = None
    for place, (counters, tile_hw) in enumerate(play(explainer, records, ids, mosaics, batch)):  # noqa: B007
        sums.add([place], [{"grid": counters}])
    return tile_hw


def _curves(sums: Bootstrap, makers: dict[str, Callable[[], Metric]]) -> dict[str, NDArray[np.float64]]:
    """Box accuracy against the threshold, for each overlap, and the centre's beside it."""
    if "v2" not in sums.pictures:
        return {}
    own, centre = (sums.metric(name, makers[name]()) for name in ("v2", "centre:v2"))
    assert isinstance(own, MaxBoxAcc)
    assert isinstance(centre, MaxBoxAcc)
    curves = {f"{delta}": curve for delta, curve in zip(DELTAS, own.compute().curves, strict=True)}
    return curves | {"centre 0.5": centre.compute().curves[DELTAS.index(0.5)]}


def _rows(sums: Bootstrap, makers: dict[str, Callable[[], Metric]], classes: tuple[str, ...]) -> tuple[ClassRow, ...]:
    found: Any = sums.metric("class", makers["class"]())
    means = found.compute()
    rows = []
    for label in np.flatnonzero(means["pictures"]).tolist():
        numbers = [None if np.isnan(means[name][label]) else float(means[name][label]) for name in found.names]
        rows.append(ClassRow(classes[label], int(means["pictures"][label]), *numbers))
    return tuple(rows)


def _settings(
    explainer: Explainer, bootstrap: int, seed: int, mosaics: int, tile_hw: tuple[int, int] | None
) -> dict[str, Any]:
    from camlucida.results.saving import versions

    return {
        "bootstrap": bootstrap, "interval": LEVEL, "seed": seed, "tolerance": TOLERANCE, "mosaics": mosaics,
        "mosaic tile": None if tile_hw is None else list(tile_hw), "input": list(explainer.preprocess.size_hw),
        "fit": explainer.preprocess.fit, "views": explainer.tta, "versions": versions(),
    }  # fmt: skip
