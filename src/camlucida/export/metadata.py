"""What travels in the file: labels, preprocessing, and where the maps come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import camlucida
from camlucida.errors import ExportError, ModelError
from camlucida.export.surgery import Found
from camlucida.images.picture import shown
from camlucida.images.preprocess import Preprocess
from camlucida.targets import Activation

_LARGEST_LABELS = 2**24


def entries(
    found: Found,
    sha256: str,
    labels: tuple[str, ...] | None,
    preprocess: Preprocess | None,
    calibration: Mapping[str, Any] | None = None,
    activation: Activation | None = None,
) -> dict[str, str]:
    """The metadata of a file with maps. What is not known is left out.

    Args:
        found: what ``add_maps`` said; what its graph ends in says how logits become probabilities.
        sha256: of the source.
        labels: of the classes.
        preprocess: of pictures.
        calibration: of boxes and masks, a JSON object.
        activation: where the graph ends in none.
    """
    known: dict[str, str | None] = {
        "labels": None if labels is None else json.dumps(labels, ensure_ascii=False),
        "preprocess": None if preprocess is None else json.dumps(asdict(preprocess)),
        "calibration": None if calibration is None else json.dumps(calibration),
        "activation": found.activation or activation,
        "head": found.head,
        "features": found.features,
        "method": "cam",
        "camlucida": camlucida.__version__,
        "source_sha256": sha256,
    }
    return {key: value for key, value in known.items() if value is not None}


def put(model: Any, values: Mapping[str, str]) -> None:
    """Write entries into a ``ModelProto``'s metadata, over those of the same names."""
    others = [(one.key, one.value) for one in model.metadata_props if one.key not in values]
    del model.metadata_props[:]
    for key, value in [*others, *values.items()]:
        model.metadata_props.add(key=key, value=value)


def stored(model: Any, key: str) -> Any:
    """What a ``ModelProto``'s metadata has as JSON under a name; None if nothing, or no JSON."""
    for one in model.metadata_props:
        if one.key == key:
            try:
                return json.loads(one.value)
            except json.JSONDecodeError:
                return None
    return None


def stored_labels(model: Any) -> tuple[str, ...] | None:
    """The labels in a ``ModelProto``'s metadata, if there are any."""
    labels = stored(model, "labels")
    named = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    return tuple(labels) if named else None


def stored_preprocess(model: Any) -> Preprocess | None:
    """The preprocessing in a ``ModelProto``'s metadata, if there is any."""
    fields = stored(model, "preprocess")
    if not isinstance(fields, dict):
        return None
    try:
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
        return Preprocess(**values)
    except (TypeError, ModelError):
        return None


def read_labels(path: Path) -> tuple[str, ...]:
    """Names of classes from a file: a JSON list, or one a line.

    Raises:
        ExportError: no such file, or no names in it.
    """
    name = shown(path)
    if not path.is_file():
        raise ExportError(f"{name}: no such file; expected the classes' names, one a line or as a JSON list")
    if path.stat().st_size > _LARGEST_LABELS:
        raise ExportError(f"{name}: larger than {_LARGEST_LABELS // 2**20} MiB, which no list of names is")
    try:
        text = path.read_text("utf-8-sig")
        labels = json.loads(text) if text.lstrip().startswith("[") else [line.strip() for line in text.splitlines()]
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ExportError(f"{name}: neither lines of UTF-8 text nor a JSON list of names ({error})") from error
    while labels and labels[-1] == "":
        labels.pop()
    if not labels or not all(isinstance(label, str) for label in labels):
        raise ExportError(f"{name}: expected the classes' names, one a line or as a JSON list of texts")
    return tuple(labels)
