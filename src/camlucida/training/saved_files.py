"""The two files of a trained network: a record in JSON, weights in safetensors. Written whole, read within bounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from camlucida.errors import CamlucidaError, MissingExtraError, ModelError, TrainingError
from camlucida.images.picture import shown
from camlucida.images.preprocess import Preprocess
from camlucida.results.files import write_whole

try:
    from safetensors.torch import load_file, save
except ModuleNotFoundError as error:
    raise MissingExtraError("safetensors", "train") from error

VERSION = 1
MOST_RECORD, MOST_WEIGHTS = 16 * 2**20, 8 * 2**30
"""Bytes of the largest files that are read."""

Parsed = TypeVar("Parsed")


def write_record_file(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values and the version of their format, whole."""
    text = json.dumps({"version": VERSION, **values}, indent=2, ensure_ascii=False)
    write_whole(path, text.encode() + b"\n")


def read_record_file(path: Path, what: str, parse: Callable[[dict[str, Any]], Parsed]) -> Parsed:
    """What ``parse`` makes of the values that ``write_record_file`` wrote; ``what`` has the record, for messages.

    Raises:
        ModelError: there is no such file, or ``parse`` fails on what it holds.
    """
    where = shown(path)
    try:
        if path.stat().st_size > MOST_RECORD:
            raise ModelError(f"{where}: larger than {MOST_RECORD // 2**20} MiB; not the record of {what}")
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{where}: cannot be read ({error.strerror or error}); not the folder of {what}?") from error
    except ValueError as error:
        raise ModelError(f"{where}: no JSON; not the record of {what}") from error
    if not isinstance(values, dict) or values.get("version") != VERSION:
        raise ModelError(f"{where}: not the record of {what} of version {VERSION}")
    try:
        return parse(values)
    except (KeyError, TypeError, ValueError, AttributeError, CamlucidaError) as error:
        raise ModelError(f"{where}: {type(error).__name__}: {error}") from error


def preprocess_of(values: Any) -> Preprocess:
    """The preprocessing of a record: its fields, where JSON made lists of tuples."""
    fields: dict[str, Any] = {
        name: tuple(field) if isinstance(field, list) else field for name, field in values.items()
    }
    return Preprocess(**fields)


def write_weights_file(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors by name as safetensors, whole."""
    write_whole(path, save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}))


@contextmanager
def reading_weights(path: Path) -> Iterator[dict[str, Tensor]]:
    """The tensors of a weights file, for a block that makes their network and gives them to it.

    Raises:
        ModelError: the file is not there, too large or damaged, or the network could not be made or does not fit.
    """
    if not path.is_file():
        raise ModelError(f"{shown(path)}: not there yet; the run has not finished an epoch")
    if path.stat().st_size > MOST_WEIGHTS:
        raise ModelError(f"{shown(path)}: larger than {MOST_WEIGHTS // 2**30} GiB; not the weights of this run")
    try:
        yield load_file(path)
    except MissingExtraError:
        raise
    except CamlucidaError as error:
        raise ModelError(f"{shown(path.parent)}: {error}") from error
    except Exception as error:  # safetensors has its own error for damaged files
        raise ModelError(f"{shown(path)}: damaged ({type(error).__name__}: {error})") from error


def is_resumable(folder: Path, record: str, what: str) -> bool:
    """Whether a folder holds a record already; not if it is empty or not there. Refuses one with other files."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not (folder / record).is_file():
        raise TrainingError(f"{shown(folder)}: has files, but no {what}; choose an empty folder")
    return True
