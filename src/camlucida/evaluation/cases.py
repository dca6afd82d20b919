"""The pictures that a reader should look at: the best, the median and the worst, by how well their boxes fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.data.record import Record
from camlucida.drawing import overlay as draw
from camlucida.evaluation.explained import Explained, explained
from camlucida.evaluation.findings import Box, Case
from camlucida.evaluation.labelled_map import CountingSettings, laid, size_for
from camlucida.explainer import Explainer

EACH = 6
"""Cases of each kind."""

SIDE = 320
"""Pixels: larger pictures are scaled down to this longest side for the page."""


def chosen(overlaps: NDArray[np.float64], each: int = EACH) -> list[tuple[str, int]]:
    """Kinds and indices of the cases: the best first, then those around the median, then the worst first.

    Overlaps (N,) say how well each picture fits, NaN where there is no truth to fit. There are at most ``each`` of a
    kind; fewer where there are few pictures, none of which comes twice.

    >>> chosen(np.array([0.5, np.nan, 0.9, 0.1, 0.2]), 1)
    [('best', 2), ('median', 0), ('worst', 3)]
    """
    order = [int(i) for i in np.argsort(-overlaps, kind="stable") if np.isfinite(overlaps[i])]
    each = min(each, max(1, len(order) // 3))
    start = max(each, (len(order) - each) // 2)
    best, median = order[:each], order[start : start + each]
    worst = [i for i in order[::-1][:each] if i not in (*best, *median)]
    kinds = (("best", best), ("median", median), ("worst", worst))
    return [(kind, index) for kind, indices in kinds for index in indices]


def cases_of(
    explainer: Explainer,
    classes: Sequence[str],
    records: Sequence[Record],
    overlaps: NDArray[np.float64],
    settings: CountingSettings,
) -> Iterator[Case]:
    """Explain once more the pictures that ``chosen`` takes by the records' overlaps, and draw them."""
    kinds = chosen(overlaps)
    some = [records[index] for _, index in kinds]
    gone: list[str] = []  # they were read a moment ago; a case that is gone since is left out
    for batch in explained(explainer, classes, some, batch=len(some) or 1, on_error=gone.append):
        for one in batch:
            kind, index = kinds[one.index]
            yield _case(kind, one, classes, float(overlaps[index]), settings)


def _case(kind: str, one: Explained, classes: Sequence[str], overlap: float, settings: CountingSettings) -> Case:
    """The first class with boxes speaks for a picture of several."""
    with_boxes = [label in one.record.truth.box_labels for label in one.labels]
    place = with_boxes.index(True) if any(with_boxes) else 0
    label, grid, image_hw = one.labels[place], one.maps[place], one.view.image_hw
    size_hw = size_for(one.view, settings.mode)
    back = np.tile([image_hw[1] / size_hw[1], image_hw[0] / size_hw[0]], 2)
    guess = settings.calibration.boxes(laid(grid, one.view, settings.mode)) * back
    true = one.record.truth.boxes_at(image_hw, image_hw)[one.record.truth.box_labels == label]
    seen = one.view.seen()
    drawn = draw.overlay(one.picture.pixels, one.view.project(grid), opacity=0.6, seen=None if seen.all() else seen)
    return Case(
        kind, one.record.example.id, classes[label], one.predicted, overlap, _plain(guess), _plain(true), image_hw,
        _jpeg(drawn),
    )  # fmt: skip


def _plain(boxes: NDArray[np.float64]) -> tuple[Box, ...]:
    return tuple((a, b, c, d) for a, b, c, d in np.round(boxes, 2).tolist())


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    scale = SIDE / max(pixels.shape[:2])
    if scale < 1:
        size_wh = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        pixels = np.asarray(cv2.resize(pixels, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
    coded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, 85))[1]
    return bytes(coded)
