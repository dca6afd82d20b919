"""A small TOML file beside an ONNX file: what the user knows of a model whose own file does not say it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from camlucida.errors import ModelError
from camlucida.images.picture import shown
from camlucida.images.preprocess import Preprocess
from camlucida.targets import Activation

_LARGEST = 2**20
_PICTURES = ("size", "fit", "crop_fraction", "interpolation", "mean", "std", "scale", "order")
_KEYS = (*_PICTURES, "class_names", "activation", "output")


@dataclass(frozen=True)
class Sidecar:
    """What it says; nothing of what it leaves out.

    Attributes:
        name: of the file.
        fields: of ``Preprocess``, where it says something of pictures.
        class_names: of the classes, in the order of the logits.
        activation: how logits become probabilities.
        output: which of the model's outputs scores the classes.
    """

    name: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    activation: Activation | None = None
    output: str | None = None

    def preprocess(self, base: Preprocess) -> Preprocess:
        """A preprocessing with these fields; means and deviations alone are taken for every channel.

        Raises:
            ModelError: a field is out of range.
        """
        values = dict(self.fields)
        if {"mean", "std", "scale"} & values.keys():  # the numbers that are not given are not ImageNet's
            channels = max(len(values.get(key, ())) for key in ("mean", "std"))
            channels = channels if channels > 1 else len(base.mean)
            values = {"mean": (0.0,), "std": (1.0,)} | values
            for key in ("mean", "std"):
                same = len(set(values[key])) == 1
                if same and len(base.mean) == 1:  # three equal numbers are one of grey
                    values[key] = values[key][:1]
                elif same and len(values[key]) == 1:
                    values[key] = values[key] * channels
        try:
            return replace(base, **values)
        except (TypeError, ValueError, ModelError) as error:
            raise ModelError(f"{self.name}: {str(error).removeprefix('preprocess: ')}") from error


def read_sidecar(model: Path) -> Sidecar:
    """What stands beside a model, in the file that is called alike and ends in ``.toml``: ``net.toml`` of ``net.onnx``.

    ``size = [224, 224]``, ``mean = [104, 117, 123]``, ``std``, ``scale = 255``, ``order = "bgr"``, ``fit``,
    ``crop_fraction``, ``interpolation`` (see ``Preprocess``), ``class_names``, ``activation``, ``output``: any of
    them.

    Raises:
        ModelError: it is no TOML, or says something else.
    """
    path = model.with_suffix(".toml")
    name = shown(path)
    if path == model or not path.is_file():
        return Sidecar()
    if path.stat().st_size > _LARGEST:
        raise ModelError(f"{name}: larger than {_LARGEST // 2**20} MiB, which no description of a model is")
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{name}: cannot be read as TOML ({shown(str(error))[:120]}); mend it or take it away"
        ) from error
    unknown = sorted(values.keys() - set(_KEYS))
    if unknown:
        raise ModelError(f"{name}: does not know {shown(unknown[0])!r}; expected some of {', '.join(_KEYS)}")
    fields = {key: _plain(name, key, values[key]) for key in _PICTURES if key in values}
    if "size" in fields:
        fields["size_hw"] = fields.pop("size")
    names, activation, output = (values.get(key) for key in ("class_names", "activation", "output"))
    if names is not None and not (isinstance(names, list) and names and all(isinstance(one, str) for one in names)):
        raise ModelError(f"{name}: expected class_names a list of texts")
    if activation not in (None, *get_args(Activation)):
        raise ModelError(f"{name}: expected activation one of {', '.join(get_args(Activation))}, got {activation!r}")
    if output is not None and not isinstance(output, str | int):
        raise ModelError(f"{name}: expected output a name or a number, got {output!r}")
    return Sidecar(name, fields, None if names is None else tuple(names), activation,
                   None if output is None else str(output))  # fmt: skip


def _plain(name: str, key: str, value: Any) -> Any:
    numbers = isinstance(value, list) and all(isinstance(one, int | float) for one in value)
    single = isinstance(value, str if key in ("fit", "interpolation", "order") else int | float)
    expected = "a list of numbers" if key in ("size", "mean", "std") else "a text or a number"
    if not (numbers if key in ("size", "mean", "std") else single) or isinstance(value, bool):
        raise ModelError(f"{name}: expected {key} {expected}, got {shown(str(value))[:60]}")
    return tuple(value) if numbers else value
