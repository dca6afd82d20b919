"""One picture's explanation in plain values: what the JSON lines, the table, COCO's boxes and the overlays agree on."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camlucida.boxes import localize
from camlucida.images.ahead import WORKERS, ahead

if TYPE_CHECKING:
    from camlucida.explanation import Explanation

PictureRecord = dict[str, Any]
"""What is known of one picture, in JSON's own types; the record of one class is such a mapping too."""


def records(explanations: Iterable[Explanation], threshold: float) -> Generator[PictureRecord]:
    """The record of every picture, in order, made in other threads."""
    singles = (explanation[i] for explanation in explanations for i in range(len(explanation)))
    for future in ahead(lambda single: record_of(single, 0, threshold), singles, lambda: WORKERS):
        yield future.result()


def record_of(explanation: Explanation, index: int, threshold: float) -> PictureRecord:
    """One picture's explanation in JSON's own types, with boxes above a share of each map's maximum."""
    evidence = (explanation.evidence(index, t) if explanation.views else None for t in range(explanation.maps.shape[1]))
    classes = [class_record(explanation, index, t, heatmap, threshold) for t, heatmap in enumerate(evidence)]
    return picture_record(explanation, index, classes)


def class_record(
    explanation: Explanation, index: int, target: int, evidence: NDArray[np.float32] | None, threshold: float
) -> PictureRecord:
    """One score of one picture: name, id (-1 for a contrast), probability, score, bias, residual, box and area.

    The box is half-open xyxy pixels around the largest part above the threshold, the area that part's pixels; None and
    0 where the map is nowhere positive or has no heatmap. Numbers that are not finite become None.
    """
    box: list[int] | None = None
    area = 0
    if evidence is not None:
        corners, area = localize.largest_part(localize.mask(evidence, threshold))
        box = list(corners) if area else None
    return {
        "name": explanation.names[index][target],
        "id": int(explanation.classes[index, target]),
        "probability": number(explanation.probabilities[index, target]),
        "score": number(explanation.scores[index, target]),
        "bias": number(explanation.bias[index, target]),
        "residual": number(explanation.residual[index, target]),
        "box": box,
        "area": area,
    }


def picture_record(explanation: Explanation, index: int, classes: list[PictureRecord]) -> PictureRecord:
    """A picture's record from its classes' records."""
    picture = explanation.pictures[index] if explanation.pictures else None
    view = explanation.views[index] if explanation.views else None
    return {
        "picture": picture.source if picture else f"input {index}",
        "note": picture.note if picture else "",
        "model": explanation.origin.model,
        "method": explanation.origin.method,
        "grid": list(explanation.grid),
        "image_hw": list(view.image_hw) if view else None,
        "seen_xyxy": list(view.seen_xyxy) if view else None,
        "classes": classes,
    }


def number(value: Any) -> float | None:
    """Make a float that JSON knows: None where it is not finite.

    >>> number(np.float32(0.5)), number(np.nan)
    (0.5, None)
    """
    return float(value) if np.isfinite(value) else None
