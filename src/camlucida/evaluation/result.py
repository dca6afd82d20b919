"""What an evaluation found: frozen, in plain values for JSON, and as a page and a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.boxes.calibration import Calibration

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Value:
    """A number and the limits of its 95 % interval; the limits are None without a bootstrap."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Baseline:
    """What needs no network scores, and how much more the maps score: paired, so its interval is narrower."""

    name: str
    value: Value
    gain: Value


@dataclass(frozen=True)
class Figure:
    """One number of the evaluation.

    Attributes:
        key: its name in JSON.
        title: its name for people.
        group: the heading it stands under.
        value: a share in [0, 1].
        pictures: how many it was measured on.
        threshold: where it was taken at the best of all thresholds: that one; None otherwise.
        baselines: beside it.
    """

    key: str
    title: str
    group: str
    value: Value
    pictures: int
    threshold: float | None = None
    baselines: tuple[Baseline, ...] = ()


@dataclass(frozen=True)
class ClassRow:
    """What one class scored; None where nothing of the kind was measured."""

    name: str
    pictures: int
    top1: float | None
    gt_known: float | None
    iou: float | None
    pointing: float | None
    mask_iou: float | None


@dataclass(frozen=True)
class Case:
    """One picture shown on the page.

    Attributes:
        kind: "best", "median" or "worst", by the overlap.
        id: of the record.
        label: its class.
        predicted: the likeliest class.
        overlap: IoU of its box at the operating point (of its mask where there are no boxes).
        boxes: half-open xyxy pixels of the picture, as predicted.
        true_boxes: the true ones.
        size_hw: of the picture.
        jpeg: the picture under its map, without boxes; not in the JSON.
    """

    kind: str
    id: str
    label: str
    predicted: str
    overlap: float
    boxes: tuple[Box, ...]
    true_boxes: tuple[Box, ...]
    size_hw: tuple[int, int]
    jpeg: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything an evaluation found.

    Attributes:
        model: its name.
        note: what the model's source says about it.
        method: of the maps.
        dataset: its name, and the split.
        mode: "protocol" or "exact".
        calibration: the operating point: how masks and boxes were made.
        pictures: how many were evaluated.
        skipped: what could not be read, each with its reason.
        unlabelled: records without a class, left out.
        warnings: what a reader must not miss, first.
        figures: the numbers, in the order of the table.
        classes: each class of the data that occurs.
        thresholds: the 1000 thresholds of the curves; empty without boxes.
        curves: box accuracy at each of them by overlap, "0.3", "0.5", "0.7", and "centre 0.5".
        cases: pictures for the page.
        settings: what else it takes to repeat it: resamples, seed, tolerance, versions.

    >>> evaluation = Evaluation("net", "", "cam", "pets", "exact", Calibration(), 2, (), 0, (),
    ...     (Figure("top1", "classification, top-1", "classification", Value(0.5), 2),), ())
    >>> evaluation["top1"].value.value
    0.5
    """

    model: str
    note: str
    method: str
    dataset: str
    mode: str
    calibration: Calibration
    pictures: int
    skipped: tuple[str, ...]
    unlabelled: int
    warnings: tuple[str, ...]
    figures: tuple[Figure, ...]
    classes: tuple[ClassRow, ...]
    thresholds: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    curves: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    cases: tuple[Case, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Figure:
        """A figure by its key; raises KeyError where it was not measured."""
        for figure in self.figures:
            if figure.key == key:
                return figure
        raise KeyError(f"{key}: not measured here; there are {', '.join(figure.key for figure in self.figures)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; numbers that are not finite become None."""
        values: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("warnings", "model", "note", "method", "dataset", "mode", "pictures", "skipped", "unlabelled")
        }
        values["calibration"] = self.calibration.to_dict() | {"in words": str(self.calibration)}
        values["figures"] = [asdict(figure) for figure in self.figures]
        values["classes"] = [asdict(row) for row in self.classes]
        values["curves"] = {name: np.round(curve, 6).tolist() for name, curve in self.curves.items()}
        values["thresholds"] = np.round(self.thresholds, 3).tolist()
        values["cases"] = [{key: one for key, one in asdict(case).items() if key != "jpeg"} for case in self.cases]
        plain: dict[str, Any] = _finite(values | {"settings": dict(self.settings)})
        return plain

    def save(self, folder: str | Path) -> Path:
        """Write ``evaluation.json`` and ``evaluation.html``, each whole or not at all; the folder is made if missing.

        Raises:
            OutputError: the folder cannot be written.
        """
        from camlucida.evaluation.page import page
        from camlucida.results.saving import made_folder, write_whole

        place = Path(folder)
        made_folder(place)
        data = json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)
        write_whole(place / "evaluation.json", data.encode() + b"\n")
        write_whole(place / "evaluation.html", page(self).encode())
        return place


def _finite(value: Any) -> Any:
    """The same in JSON's own types."""
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
