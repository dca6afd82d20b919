"""What an ONNX file says of itself beside its graph: class names, preprocessing, and where its maps come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

from camlucida.errors import CamlucidaError, ModelError
from camlucida.images.picture import shown
from camlucida.images.preprocess import Preprocess
from camlucida.onnx.foreign_metadata import ANY, NAME_KEYS, PictureInput, fitted, foreign_preprocess, names_in
from camlucida.targets import Activation

if TYPE_CHECKING:
    from camlucida.boxes.calibration import Calibration


_LONGEST = 2**24
"""Characters of an entry; no list of names is longer."""


@dataclass(frozen=True)
class Metadata:
    """What is known of a classifier beside its graph; None where nothing is.

    Attributes:
        class_names: in the order of the logits.
        preprocess: how pictures become inputs.
        calibration: how boxes and masks are made of its maps.
        activation: how logits become probabilities.
        notes: what was passed over, and why, each in a line.
    """

    class_names: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    calibration: Calibration | None = None
    activation: Activation | None = None
    notes: tuple[str, ...] = ()


def read_metadata(entries: Mapping[str, str], classes: int | None = None, takes: PictureInput = ANY) -> Metadata:
    """The metadata of a file, ours and others'. What cannot be read, or does not fit the graph, is noted: entries of
    these names may be anybody's.

    Args:
        entries: texts by their keys, as the file has them.
        classes: how many logits the graph has, if that is known.
        takes: what the graph says of its pictures.

    Example:
        >>> read_metadata({"labels": '["cat", "dog"]'}, 2).class_names
        ('cat', 'dog')
        >>> read_metadata({"labels": "cat and dog"}, 2).notes
        ("its metadata 'labels' is no list of 2 names and was passed over",)
    """
    short = {key: text for key, text in entries.items() if len(text) <= _LONGEST}
    notes: list[str] = [f"its metadata {shown(key)[:40]!r} is too long to be read" for key in entries.keys() - short]
    class_names = _class_names(short, classes, notes)
    preprocess = _own_preprocess(short, notes) or foreign_preprocess(short, takes, notes)
    if preprocess is not None:
        preprocess = fitted(preprocess, takes, notes)
    activation: Any = short.get("activation", "").strip().lower() or None
    if activation not in (None, *get_args(Activation)):
        known = ", ".join(get_args(Activation))
        notes.append(f"its metadata 'activation' is none of {known} and was passed over")
        activation = None
    return Metadata(class_names, preprocess, _calibration(short, notes), activation, tuple(notes))


def _class_names(entries: Mapping[str, str], classes: int | None, notes: list[str]) -> tuple[str, ...] | None:
    """The first entry under one of the usual keys that names as many classes as there are."""
    for key in NAME_KEYS:
        if not entries.get(key, "").strip() or entries[key].strip() == "null":
            continue
        names = names_in(entries[key])
        if names is not None and (classes is None or len(names) in ({classes} if classes > 1 else {1, 2})):
            return names
        if key in ("labels", "names"):  # under other keys there may be anything
            count = f"{classes} " if classes else ""
            notes.append(f"its metadata {key!r} is no list of {count}names and was passed over")
    return None


def _own_preprocess(entries: Mapping[str, str], notes: list[str]) -> Preprocess | None:
    fields = _json(entries, "preprocess", notes)
    if fields is None:
        return None
    try:
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
        return Preprocess(**values)
    except (TypeError, ValueError, AttributeError, OverflowError, ModelError):
        notes.append("its metadata 'preprocess' does not say how pictures are prepared and was passed over")
        return None


def write_metadata(model: Any, metadata: Metadata, **others: str) -> None:
    """Write metadata into a ``ModelProto``, over entries of the same names. What is not known is left out.

    Args:
        model: changed in place.
        metadata: of the classifier.
        others: what else is said, text by key.
    """
    names, preprocess, calibration = metadata.class_names, metadata.preprocess, metadata.calibration
    known = {
        "labels": None if names is None else json.dumps(names, ensure_ascii=False),
        "preprocess": None if preprocess is None else json.dumps(asdict(preprocess)),
        "calibration": None if calibration is None else json.dumps(calibration.to_dict()),
        "activation": metadata.activation,
        **others,
    }
    written = {key: value for key, value in known.items() if value is not None}
    kept = [(one.key, one.value) for one in model.metadata_props if one.key not in written]
    del model.metadata_props[:]
    for key, value in [*kept, *written.items()]:
        model.metadata_props.add(key=key, value=value)


def _calibration(entries: Mapping[str, str], notes: list[str]) -> Calibration | None:
    """How boxes and masks are made of its maps, where a training run brought that with it."""
    fields = _json(entries, "calibration", notes)
    if fields is None:
        return None
    from camlucida.boxes.calibration import Calibration

    try:
        return Calibration.from_dict(fields)
    except (TypeError, ValueError, AttributeError, OverflowError, CamlucidaError):
        notes.append("its metadata 'calibration' does not say how boxes are made and was passed over")
        return None


def _json(entries: Mapping[str, str], key: str, notes: list[str]) -> Any:
    """An entry's value; None where there is no such entry (or a null), or none that can be read."""
    try:
        return json.loads(entries.get(key, "null"))
    except (ValueError, RecursionError):
        notes.append(f"its metadata {key!r} is not JSON and was passed over")
        return None
