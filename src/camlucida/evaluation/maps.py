"""Records through the model, a batch after the other: pictures are read ahead, maps of their own classes come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.boxes.calibration import filled
from camlucida.boxes.overlaps import Mode
from camlucida.data.record import Record
from camlucida.errors import CamlucidaError
from camlucida.evaluation.classes import class_ids, ranks_of
from camlucida.explainer import Explainer
from camlucida.images.batches import PreparedImage, prepared_batches
from camlucida.images.picture import Picture
from camlucida.images.preprocess import Preprocess, View

PROTOCOL_HW = (224, 224)
"""The public benchmark looks at pictures, maps and truth at this size."""


@dataclass(frozen=True, eq=False)
class Explained:
    """One picture as the model sees it.

    Attributes:
        index: its place in the dataset, from 0.
        record: where it comes from.
        picture: the picture.
        view: what the network's input covers of it.
        labels: its classes, ids of the data.
        ranks: the place of each among all logits, 0 the likeliest.
        maps: float32 (L, h, w), the map of each, at the network's own grid, in the method's unit.
        probabilities: of each; NaN where logits are none.
        predicted: the name of the likeliest class.
    """

    index: int
    record: Record
    picture: Picture
    view: View
    labels: tuple[int, ...]
    ranks: tuple[int, ...]
    maps: NDArray[np.float32]
    probabilities: tuple[float, ...]
    predicted: str


def preprocess_for(preprocess: Preprocess, mode: Mode) -> Preprocess:
    """The model's own in exact mode; in protocol mode the whole picture stretched to the model's input size."""
    return preprocess if mode == "exact" else replace(preprocess, fit="stretch", crop_fraction=1.0)


def size_for(view: View, mode: Mode) -> tuple[int, int]:
    """The size at which a picture is evaluated: its own in exact mode, 224×224 in protocol mode."""
    return view.image_hw if mode == "exact" else PROTOCOL_HW


def laid(grid: NDArray[np.float32], view: View, mode: Mode) -> NDArray[np.float32]:
    """A map over its picture at the size it is evaluated at: half-pixel bilinear in exact mode, what was not seen
    carrying the lowest value; the benchmark's bicubic resize in protocol mode.

    Args:
        grid: float32 h×w.
        view: what the network saw.
        mode: "exact" or "protocol".

    Returns:
        float32 H×W.
    """
    if mode == "protocol":
        resized: NDArray[np.float32] = cv2.resize(grid, PROTOCOL_HW[::-1], interpolation=cv2.INTER_CUBIC)
        return resized
    return filled(view.project(grid), view.seen())


def explained(
    explainer: Explainer,
    classes: Sequence[str],
    records: Sequence[Record],
    *,
    batch: int,
    on_error: Callable[[str], None],
) -> Iterator[list[Explained]]:
    """Explain records by the maps of their own classes; memory does not grow with their number.

    Args:
        explainer: the prepared model.
        classes: names of the data's classes.
        records: each with at least one label.
        batch: pictures that go through the model at once.
        on_error: told of every picture that cannot be read; the others go on.

    Yields:
        Up to ``batch`` explained pictures, in order.

    Raises:
        TargetError: the model does not know the data's classes.
    """
    needed = sorted({label for record in records for label in record.example.labels})
    ids: dict[int, int] | None = None
    if explainer.class_names is not None:  # said before any picture is read
        ids = class_ids(classes, needed, explainer.class_names, len(explainer.class_names))

    def read(item: tuple[int, Record]) -> Picture:
        return item[1].example.read()

    batches = prepared_batches(
        enumerate(records), read, explainer.preprocess, batch=batch,
        on_error=lambda item, error: on_error(f"{item[1].example.id}: {error}"),
    )  # fmt: skip
    with closing(batches):
        for prepared in batches:
            if ids is None:  # found with the first image where the model has no names
                width = explainer.runner.predict(prepared[0].values[None]).shape[1]
                ids = class_ids(classes, needed, None, width)
            yield _explained(explainer, classes, ids, prepared)


def _explained(
    explainer: Explainer,
    classes: Sequence[str],
    ids: Mapping[int, int],
    prepared: Sequence[PreparedImage[tuple[int, Record]]],
) -> list[Explained]:
    """One batch."""
    labels = [one.item[1].example.labels for one in prepared]
    most = max(map(len, labels))
    asked = np.array([[ids[one] for one in (*row, *row[:1] * (most - len(row)))] for row in labels], np.int64)
    found = explainer.explain_prepared(prepared, asked)
    if found.maps.ndim != 4:
        raise CamlucidaError(f"evaluate: expected maps over pictures, h×w, got a grid {found.grid}")
    made = []
    for i, one in enumerate(prepared):
        index, record = one.item
        own = record.example.labels
        made.append(
            Explained(
                index, record, one.picture, one.view, own,
                tuple(ranks_of(found.logits[i], [ids[label] for label in own])),
                found.maps[i, : len(own)], tuple(found.probabilities[i, : len(own)].tolist()),
                _likeliest(found.logits[i], explainer.class_names or classes),
            )
        )  # fmt: skip
    return made


def _likeliest(logits: NDArray[np.float32], labels: Sequence[Any]) -> str:
    wide = np.concatenate([-logits, logits]) if logits.size == 1 else logits
    best = int(wide.argmax())
    return str(labels[best]) if best < len(labels) else f"class {best}"
