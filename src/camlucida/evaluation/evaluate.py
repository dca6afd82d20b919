"""The whole evaluation on one screen: records -> maps -> counters -> figures, verdict and cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike

from camlucida.boxes.calibration import Calibration
from camlucida.boxes.localize import as_boxes
from camlucida.boxes.overlaps import THRESHOLDS, Mode
from camlucida.data.record import Dataset
from camlucida.errors import CamlucidaError, DataError
from camlucida.evaluation.bootstrap import LEVEL, Bootstrap
from camlucida.evaluation.cases import cases_of
from camlucida.evaluation.counting import counted_in_order
from camlucida.evaluation.explained import Explained, explained, explainer_for
from camlucida.evaluation.figures import accuracy_curves, class_rows, measured
from camlucida.evaluation.grid_pointing import Known, known_of, layouts, play
from camlucida.evaluation.labelled_map import CountingSettings, MappedPicture
from camlucida.evaluation.measures import ACCURACY, GRID, TOLERANCE
from camlucida.evaluation.result import Evaluation
from camlucida.evaluation.verdict import warnings
from camlucida.images.picture import Picture
from camlucida.results.versions import versions

if TYPE_CHECKING:
    from camlucida.images.symmetries import TTA
    from camlucida.methods.forward_pass import Compute
    from camlucida.models.model import ModelLike
    from camlucida.pytorch.stages import Layers


class ImageLocalizer(Protocol):
    """Gives boxes of an image without a map, as what ``training.box_localizer.open_localizer`` opens does."""

    def boxes(self, picture: Picture) -> ArrayLike:
        """One box (4,) or several (M, 4), half-open xyxy pixels of the image."""
        ...


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
    localizer: ImageLocalizer | Callable[[Picture], ArrayLike] | None = None,
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
        localizer: also judge boxes that come from elsewhere: an opened localizer, or a function of an image.
        batch: pictures that go through the model at once.
        workers: processes that count boxes and masks; 0: none but this one. A script that asks for some needs
            ``if __name__ == "__main__":`` around it.
        bootstrap: resamples of the 95 % confidence intervals (see ``bootstrap.Bootstrap``); 0: none.
        mosaics: of the grid pointing game; 0: none.
        seed: of resamples and mosaics.
        on_error: called for every picture or mask that cannot be read, which is left out; None raises.
        on_pictures: progress callback, with the number of pictures done since its last call.

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
    explainer = explainer_for(model, mode, method=method, layer=layer, tta=tta)
    opened = explainer.model
    settings = CountingSettings(mode, calibration or opened.calibration or Calibration(), len(dataset.classes))
    sums = Bootstrap(bootstrap, seed)
    overlaps = np.full(len(records), np.nan)
    located = any(record.truth.located for record in records)
    known: list[Known] = []
    skipped: list[str] = []

    def skip(message: str) -> None:
        if on_error is None:
            raise DataError(message)
        skipped.append(message)
        on_error(message)

    def mapped() -> Iterator[list[MappedPicture]]:
        for pictures in explained(explainer, dataset.classes, records, batch=batch, on_error=skip):
            known.extend(known_of(pictures, located))
            yield [_mapped(picture, localizer) for picture in pictures]

    for tallies, errors in counted_in_order(mapped(), settings, workers):
        for error in errors:
            skip(error)
        sums.add([tally.index for tally in tallies], [tally.counters for tally in tallies])
        for tally in tallies:
            overlaps[tally.index] = tally.overlap
        if on_pictures is not None:
            on_pictures(len(tallies) + len(errors))
    if ACCURACY.name not in sums.pictures:
        raise DataError(f"{dataset.name}: none of its {len(records)} pictures could be read")

    tile_hw = None
    played = play(explainer, dataset.classes, records, layouts(known, mosaics, seed), batch)
    for place, (counters, tile_hw) in enumerate(played):  # noqa: B007
        sums.add([place], [{GRID.name: counters}])
    figures, curves = measured(sums, settings), accuracy_curves(sums, settings)
    return Evaluation(
        model=opened.name,
        note=opened.note,
        method=explainer.method.name,
        dataset=dataset.name + (f", split {split}" if split else ""),
        mode=mode,
        calibration=settings.calibration,
        pictures=sums.pictures[ACCURACY.name],
        skipped=tuple(skipped),
        unlabelled=len(part.records) - len(records),
        warnings=warnings(figures),
        figures=figures,
        classes=class_rows(sums, settings, dataset.classes),
        thresholds=THRESHOLDS.copy() if curves else np.zeros(0),
        curves=curves,
        cases=tuple(cases_of(explainer, dataset.classes, records, overlaps, settings)),
        settings={
            "bootstrap": bootstrap, "interval": LEVEL, "seed": seed, "tolerance": TOLERANCE, "mosaics": mosaics,
            "mosaic tile": None if tile_hw is None else list(tile_hw), "input": list(explainer.preprocess.size_hw),
            "fit": explainer.preprocess.fit, "views": explainer.tta, "versions": versions(),
        },
    )  # fmt: skip


def _mapped(picture: Explained, localizer: ImageLocalizer | Callable[[Picture], ArrayLike] | None) -> MappedPicture:
    """What is counted of a picture, small enough for another process: no pixels, and masks as arrays or files."""
    boxes = None
    if localizer is not None:
        said = localizer(picture.picture) if callable(localizer) else localizer.boxes(picture.picture)
        boxes = as_boxes(np.atleast_2d(np.asarray(said, np.float64)), f"localizer: {picture.record.example.id}")
    masks = {name: made() for name in ("mask", "ignore") if callable(made := getattr(picture.truth, name))}
    truth = replace(picture.truth, **masks)
    return MappedPicture(picture.index, picture.view, picture.labels, picture.ranks, picture.maps, truth, boxes)
