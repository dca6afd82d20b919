"""From the maps of a finished run to its calibration: how boxes and masks are made of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from camlucida.calibrate import Calibration, calibrate, filled
from camlucida.data.record import Record
from camlucida.errors import TrainingError
from camlucida.explainer import Explainer
from camlucida.training.run import open_run, store_calibration

Guide = Literal["auto", "boxes", "pseudo"]
_BATCH = 16


def calibrate_run(folder: Path, records: Sequence[Record], guide: Guide = "auto") -> Calibration:
    """Choose how boxes are made of a run's maps on a validation split, and store it with the run.

    The maps are of each picture's first label, laid over the picture; the weights do not change.

    Args:
        folder: a run.
        records: validation pictures; those without a label are left out.
        guide: "boxes": true boxes of the split; "pseudo": pseudo-boxes made of the pictures' own colours, without any
            truth; "auto": true boxes if the split has any.

    Returns:
        The calibration; its ``how`` says which it was.

    Raises:
        TrainingError: no record has a label, or boxes are asked and there are none.
        ModelError: the run cannot be opened.
    """
    labelled = [record for record in records if record.example.labels]
    boxed = [record for record in labelled if len(record.truth.boxes)]
    if guide == "boxes" and not boxed:
        raise TrainingError("calibrate: the validation split has no boxes; take pseudo")
    explainer = Explainer(open_run(folder))
    if boxed and guide != "pseudo":
        laid, again = itertools.tee(_laid(explainer, boxed))
        sizes = (heatmap.shape for heatmap, _ in again)
        boxes = (
            record.truth.boxes_at((height, width), (height, width))
            for record, (height, width) in zip(boxed, sizes, strict=True)
        )
        found = calibrate((heatmap for heatmap, _ in laid), boxes)
    elif labelled:
        laid, again = itertools.tee(_laid(explainer, labelled))
        found = calibrate((heatmap for heatmap, _ in laid), pictures=(picture for _, picture in again))
    else:
        raise TrainingError("calibrate: no validation picture has a label")
    store_calibration(folder, found.to_dict())
    return found


def _laid(
    explainer: Explainer, records: Sequence[Record]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:  # fmt: skip
    """The first label's map over each picture (H×W), and the picture (H×W×3)."""
    for start in range(0, len(records), _BATCH):
        batch = records[start : start + _BATCH]
        pictures = [record.example.read() for record in batch]
        made = explainer.explain_pictures(pictures, np.array([record.example.labels[:1] for record in batch]))
        for i, picture in enumerate(pictures):
            yield filled(made.heatmap(i), made.seen(i)), picture.pixels
