"""Choosing how boxes are made of a model's maps, on a split that is not evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camlucida.boxes.calibration import Calibration, calibrate
from camlucida.boxes.overlaps import Mode, Parts
from camlucida.errors import DataError
from camlucida.evaluation.maps import explained, laid, preprocess_for, size_for
from camlucida.explainer import Explainer
from camlucida.models import open_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from camlucida.data.record import Dataset
    from camlucida.explainer import ModelLike
    from camlucida.images.symmetries import TTA
    from camlucida.methods.registry import Compute
    from camlucida.pytorch.stages import Layers

Item = tuple[NDArray[np.float32], NDArray[Any]]


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
    """Choose normalization and threshold of a model's boxes (see ``calibrate.calibrate``).

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
        on_error: told of pictures that cannot be read; None raises.

    Raises:
        DataError: no record has a box (or a label), or a picture cannot be read.
    """
    opened = open_model(model)
    preprocess = preprocess_for(opened.preprocess, mode)
    explainer = Explainer(opened, method=method, layer=layer, preprocess=preprocess, tta=tta)
    records = [one for one in dataset.records if one.example.labels and (not boxes or len(one.truth.boxes))]
    if not records:
        wanted = "box" if boxes else "label"
        raise DataError(f"{dataset.name}: no record with a {wanted} to calibrate on; name another split")
    pairs = _pairs(explainer, dataset, records, mode, boxes, batch, on_error or _raise)
    heatmaps, guides = _unzipped(pairs)
    if boxes:
        return calibrate(heatmaps, guides, parts=parts, mode=mode)
    return calibrate(heatmaps, pictures=guides, parts=parts, mode=mode)


def _pairs(
    explainer: Explainer,
    dataset: Dataset,
    records: list[Any],
    mode: Mode,
    boxes: bool,
    batch: int,
    on_error: Callable[[str], None],
) -> Iterator[Item]:
    """Each map, with its true boxes or its picture, at the size of evaluation."""
    import cv2

    for some in explained(explainer, dataset.classes, records, batch=batch, on_error=on_error):
        for one in some:
            size_hw = size_for(one.view, mode)
            for label, grid in zip(one.labels, one.maps, strict=True):
                heatmap = laid(grid, one.view, mode)
                if boxes:
                    truth = one.record.truth
                    yield heatmap, truth.boxes_at(one.view.image_hw, size_hw)[truth.box_labels == label].clip(0)
                else:
                    pixels = one.picture.pixels
                    same = pixels.shape[:2] == size_hw
                    yield heatmap, pixels if same else cv2.resize(pixels, size_hw[::-1], interpolation=cv2.INTER_AREA)


def _unzipped(pairs: Iterator[Item]) -> tuple[Iterator[NDArray[np.float32]], Iterator[NDArray[Any]]]:
    """Two iterators that are read in turns, one pair at a time."""
    waiting: list[NDArray[Any]] = []

    def first() -> Iterator[NDArray[np.float32]]:
        for heatmap, guide in pairs:
            waiting.append(guide)
            yield heatmap

    def second() -> Iterator[NDArray[Any]]:
        while waiting:
            yield waiting.pop()

    return first(), second()


def _raise(message: str) -> None:
    raise DataError(message)
