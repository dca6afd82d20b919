"""Write a model whole or not at all: in one file, with its data beside it only where they do not fit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from camlucida.errors import ExportError, OutputError
from camlucida.images.picture import shown
from camlucida.onnx.extra import EncodeError, onnx
from camlucida.onnx.load import external_bytes

_ALIGNED = 4096
"""Where tensors begin in a data file, in bytes, so that they can be mapped into memory."""


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A place to write ``out`` to, in a folder of its own beside it; what lies there is moved to its place at the end.

    If the block fails, nothing of it stays.

    Raises:
        OutputError: nothing can be written there.
    """
    folder: Path | None = None
    try:
        try:
            folder = Path(tempfile.mkdtemp(prefix=".camlucida-", dir=out.parent))
            yield folder / out.name
            files = sorted(
                folder.iterdir(), key=lambda path: path.name == out.name
            )  # the model last: it is of its data
            for path in files:
                path.replace(out.parent / path.name)
        except OSError as error:
            why = error.strerror or error
            raise OutputError(f"{shown(out)}: cannot be written ({why}); choose another place") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def save(model: Any, path: Path, folder: Path | None) -> None:
    """Write a ``ModelProto``.

    Args:
        model: not changed.
        path: of the file.
        folder: where its external data lie, if it has any; they are copied to ``path`` with ``.data`` behind its name.

    Raises:
        ExportError: it is too large for one file.
    """
    if folder is not None:
        model = _with_data_beside(model, path, folder)
    try:
        path.write_bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise ExportError(f"{shown(path.name)}: larger than 2 GiB; keep the weights of the source beside it") from error


def _with_data_beside(model: Any, path: Path, folder: Path) -> Any:
    new = onnx.ModelProto()
    new.CopyFrom(model)
    data = path.with_name(f"{path.name}.data")
    with data.open("xb") as file:
        for tensor in new.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            file.write(bytes(-file.tell() % _ALIGNED))
            start = file.tell()
            file.write(external_bytes(tensor, folder))
            del tensor.external_data[:]
            for key, value in (("location", data.name), ("offset", start), ("length", file.tell() - start)):
                tensor.external_data.add(key=key, value=str(value))
    return new
