"""What an ONNX file says of itself beside its graph: class names, preprocessing, and where its maps come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

from camlucida.errors import CamlucidaError, ModelError
from camlucida.images.preprocess import Preprocess
from camlucida.targets import Activation

if TYPE_CHECKING:
    from camlucida.boxes.calibration import Calibration


@dataclass(frozen=True)
class Metadata:
    """What is known of a classifier beside its graph; None where nothing is.

    Attributes:
        class_names: in the order of the logits.
        preprocess: how pictures become inputs.
        calibration: how boxes and masks are made of its maps.
        activation: how logits become probabilities.
    """

    class_names: tuple[str, ...] | None = None
    preprocess: Preprocess | None = None
    calibration: Calibration | None = None
    activation: Activation | None = None


def usual_preprocess(size_hw: tuple[int, int]) -> Preprocess:
    """What is taken where a file says nothing of its preprocessing."""
    return Preprocess(size_hw, crop_fraction=0.875)


def read_metadata(entries: Mapping[str, str], name: str) -> Metadata:
    """The metadata of a file.

    Args:
        entries: texts by their keys, as the file has them.
        name: what messages call it.

    Raises:
        ModelError: an entry is not what it should be.

    Example:
        >>> read_metadata({"labels": '["cat", "dog"]'}, "pets.onnx").class_names
        ('cat', 'dog')
    """
    class_names, preprocess = stored_class_names(entries, name), stored_preprocess(entries, name)
    activation: Any = entries.get("activation")
    if activation not in (None, *get_args(Activation)):
        known = ", ".join(get_args(Activation))
        raise ModelError(f"{name}: its metadata 'activation' is {activation!r}, not one of {known}")
    return Metadata(class_names, preprocess, _calibration(entries, name), activation)


def stored_class_names(entries: Mapping[str, str], name: str) -> tuple[str, ...] | None:
    """The names of the classes alone; see ``read_metadata``."""
    names = _json(entries, "labels", name)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise ModelError(f"{name}: its metadata 'labels' is not a list of names")
    return tuple(names)


def stored_preprocess(entries: Mapping[str, str], name: str) -> Preprocess | None:
    """The preprocessing alone; see ``read_metadata``."""
    fields = _json(entries, "preprocess", name)
    if fields is None:
        return None
    try:
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
        return Preprocess(**values)
    except (TypeError, AttributeError) as error:
        raise ModelError(f"{name}: its metadata 'preprocess' does not describe one ({error})") from error


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


def _calibration(entries: Mapping[str, str], name: str) -> Calibration | None:
    """How boxes and masks are made of its maps, where a training run brought that with it."""
    fields = _json(entries, "calibration", name)
    if fields is None:
        return None
    from camlucida.boxes.calibration import Calibration

    try:
        return Calibration.from_dict(fields)
    except (TypeError, CamlucidaError) as error:
        raise ModelError(f"{name}: its metadata 'calibration' does not describe one ({error})") from error


def _json(entries: Mapping[str, str], key: str, name: str) -> Any:
    """An entry's value; None where there is no such entry (or a null)."""
    try:
        return json.loads(entries.get(key, "null"))
    except json.JSONDecodeError as error:
        raise ModelError(f"{name}: its metadata {key!r} is not JSON ({error})") from error
