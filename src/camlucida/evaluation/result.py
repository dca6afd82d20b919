"""The result of an evaluation: frozen, in plain values for JSON, and written beside its page."""

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
from camlucida.evaluation.findings import Case, ClassRow, Figure
from camlucida.evaluation.page import page
from camlucida.results.files import make_folder, write_whole


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

    >>> from camlucida.evaluation.findings import Value
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
        place = Path(folder)
        make_folder(place)
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
