"""Choosing how boxes are made of a model's maps, on a split that is not evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.boxes.calibration import Calibration, calibrate
from camlucida.boxes.overlaps import Mode, Parts
from camlucida.boxes.pseudo_boxes import pseudo_box
from camlucida.errors import DataError
from camlucida.evaluation.explained import Explained, explained, explainer_for
from camlucida.evaluation.labelled_map import laid, size_for

if TYPE_CHECKING:
    from camlucida.data.record import Dataset
    from camlucida.images.symmetries import TTA
    from camlucida.methods.forward_pass import Compute
    from camlucida.models.model import ModelLike
    from camlucida.pytorch.stages import Layers

Pair = tuple[NDArray[np.float32], NDArray[np.float64] | None]


def calibrated(
    model: ModelLike,
    dataset: Dataset,
    *,
    method: str | Compute = "cam",
    layer: Layers = None,
    tta: TTA = "one",
    mode: Mode = "exact",
    boxes: bool = True,
    parts: Parts = "largest",
    batch: int = 16,
    on_error: Callable[[str], None] | None = None,
) -> Calibration:
    """Choose normalization and threshold of a model's boxes (see ``boxes.calibration.calibrate``).

    Args:
        model: see ``explain``.
        dataset: the pictures to choose on: a validation split (``dataset.split("val")``), never the one evaluated.
        method: of the maps.
        layer: of the maps.
        tta: the maps as means over flips and turns of each picture (see ``explain``).
        mode: how overlaps are counted and pictures seen, as in ``evaluate``.
        boxes: choose with the true boxes; False: with pseudo-boxes, no truth is looked at.
        parts: "largest" or "all".
        batch: pictures that go through the model at once.
        on_error: called for every picture that cannot be read; None raises.

    Raises:
        DataError: no record has a box (or a label), or a picture cannot be read.
    """
    explainer = explainer_for(model, mode, method=method, layer=layer, tta=tta)
    records = [one for one in dataset.records if one.example.labels and (not boxes or len(one.truth.boxes))]
    if not records:
        wanted = "box" if boxes else "label"
        raise DataError(f"{dataset.name}: no record with a {wanted} to calibrate on; name another split")
    batches = explained(explainer, dataset.classes, records, batch=batch, on_error=on_error or _raise)
    pairs_of = _true_pairs if boxes else _pseudo_pairs
    pairs = (pair for pictures in batches for picture in pictures for pair in pairs_of(picture, mode))
    return calibrate(pairs, how="boxes" if boxes else "pseudo", parts=parts, mode=mode)


def _true_pairs(picture: Explained, mode: Mode) -> Iterator[Pair]:
    """Each map with its true boxes, at the size of evaluation."""
    truth = picture.record.truth
    boxes = truth.boxes_at(picture.view.image_hw, size_for(picture.view, mode)).clip(0)
    for label, grid in zip(picture.labels, picture.maps, strict=True):
        yield laid(grid, picture.view, mode), boxes[truth.box_labels == label]


def _pseudo_pairs(picture: Explained, mode: Mode) -> Iterator[Pair]:
    """Each map with the box that the picture's own colours draw, at the size of evaluation."""
    pixels, size_hw = picture.picture.pixels, size_for(picture.view, mode)
    if pixels.shape[:2] != size_hw:
        pixels = np.asarray(cv2.resize(pixels, size_hw[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    for grid in picture.maps:
        heatmap = laid(grid, picture.view, mode)
        yield heatmap, pseudo_box(pixels, heatmap)


def _raise(message: str) -> None:
    raise DataError(message)
