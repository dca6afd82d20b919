"""Names of classes from a file of their own."""

from __future__ import annotations

import json
from pathlib import Path

from camlucida.errors import ExportError
from camlucida.images.picture import shown

_LARGEST = 2**24


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names of classes from a file: a JSON list, or one a line.

    Raises:
        ExportError: no such file, or no names in it.
    """
    name = shown(path)
    if not path.is_file():
        raise ExportError(f"{name}: no such file; expected the classes' names, one a line or as a JSON list")
    if path.stat().st_size > _LARGEST:
        raise ExportError(f"{name}: larger than {_LARGEST // 2**20} MiB, which no list of names is")
    try:
        text = path.read_text("utf-8-sig")
        names = json.loads(text) if text.lstrip().startswith("[") else [line.strip() for line in text.splitlines()]
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ExportError(f"{name}: neither lines of UTF-8 text nor a JSON list of names ({error})") from error
    while names and names[-1] == "":
        names.pop()
    if not names or not all(isinstance(each, str) for each in names):
        raise ExportError(f"{name}: expected the classes' names, one a line or as a JSON list of texts")
    return tuple(names)
