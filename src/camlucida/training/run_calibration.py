"""From the maps of a finished run to its calibration: how boxes and masks are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from camlucida.boxes.calibration import Calibration
from camlucida.data.record import Dataset, Record
from camlucida.errors import TrainingError
from camlucida.evaluation.operating_point import calibrated
from camlucida.training.run_folder import open_run, store_calibration

Guide = Literal["auto", "boxes", "pseudo"]


def calibrate_run(folder: Path, records: Sequence[Record], guide: Guide = "auto") -> Calibration:
    """Choose how boxes are made of a run's maps on a validation split, and store it with the run.

    The weights do not change.

    Args:
        folder: a run.
        records: validation pictures; those without a label are left out.
        guide: "boxes": true boxes of the split; "pseudo": pseudo-boxes made of the pictures' own colours, without any
            truth; "auto": true boxes if the split has any.

    Returns:
        The calibration; its ``how`` says which it was.

    Raises:
        TrainingError: no record has a label, or boxes are to guide and there are none.
        ModelError: the run cannot be opened.
        DataError: a picture cannot be read.
    """
    labelled = tuple(record for record in records if record.example.labels)
    if not labelled:
        raise TrainingError("calibrate: no validation picture has a label")
    boxed = any(len(record.truth.boxes) for record in labelled)
    if guide == "boxes" and not boxed:
        raise TrainingError("calibrate: the validation split has no boxes; take pseudo")
    model = open_run(folder)
    validation = Dataset("the validation split", tuple(model.class_names or ()), labelled)
    calibration = calibrated(model, validation, boxes=boxed and guide != "pseudo")
    store_calibration(folder, calibration)
    return calibration
