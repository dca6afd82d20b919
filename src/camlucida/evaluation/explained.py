"""Records through the model, a batch after the other: pictures are read ahead, maps of their own classes come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camlucida.boxes.overlaps import Mode
from camlucida.data.record import Record
from camlucida.errors import CamlucidaError
from camlucida.evaluation.class_matching import both_logits, class_ids, ranks_of
from camlucida.evaluation.labelled_map import MappedPicture
from camlucida.explainer import Explainer
from camlucida.images.batches import PreparedImage, prepared_batches
from camlucida.images.picture import Picture
from camlucida.models import open_model

if TYPE_CHECKING:
    from camlucida.images.symmetries import TTA
    from camlucida.methods.forward_pass import Compute
    from camlucida.models.model import ModelLike
    from camlucida.pytorch.stages import Layers


@dataclass(frozen=True, eq=False, kw_only=True)
class Explained(MappedPicture):
    """One picture as the model sees it: what is counted of it, where it comes from and its pixels.

    Attributes:
        probabilities: of each label; NaN where logits are none.
        predicted: the name of the likeliest class.
    """

    record: Record
    picture: Picture
    probabilities: tuple[float, ...]
    predicted: str


def explainer_for(model: ModelLike, mode: Mode, *, method: str | Compute, layer: Layers, tta: TTA) -> Explainer:
    """A model prepared as a mode sees pictures: by its own preprocessing in exact mode; in protocol mode the whole
    picture stretched to its input size.
    """
    opened = open_model(model)
    preprocess = opened.preprocess
    if mode == "protocol":
        preprocess = replace(preprocess, fit="stretch", crop_fraction=1.0)
    return Explainer(opened, method=method, layer=layer, preprocess=preprocess, tta=tta)


def explained(
    explainer: Explainer,
    classes: Sequence[str],
    records: Sequence[Record],
    *,
    batch: int,
    on_error: Callable[[str], None],
) -> Iterator[list[Explained]]:
    """Explain records, each with at least one label, by the maps of their own classes, in order and up to ``batch`` at
    once; memory does not grow with their number. ``on_error`` is called for every picture that cannot be read.

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
    labels = [image.item[1].example.labels for image in prepared]
    most = max(map(len, labels))
    asked = np.array([[ids[label] for label in (*row, *row[:1] * (most - len(row)))] for row in labels], np.int64)
    explanation = explainer.explain_prepared(prepared, asked)
    if explanation.maps.ndim != 4:
        raise CamlucidaError(f"evaluate: expected maps over pictures, h×w, got a grid {explanation.grid}")
    pictures = []
    for i, (image, own) in enumerate(zip(prepared, labels, strict=True)):
        index, record = image.item
        logits = explanation.logits[i]
        pictures.append(
            Explained(
                index=index, record=record, truth=record.truth, picture=image.picture, view=image.view, labels=own,
                ranks=tuple(ranks_of(logits, [ids[label] for label in own])), maps=explanation.maps[i, : len(own)],
                probabilities=tuple(explanation.probabilities[i, : len(own)].tolist()),
                predicted=_likeliest(logits, explainer.class_names or classes),
            )
        )  # fmt: skip
    return pictures


def _likeliest(logits: NDArray[np.float32], class_names: Sequence[Any]) -> str:
    best = int(both_logits(logits).argmax())
    return str(class_names[best]) if best < len(class_names) else f"class {best}"
