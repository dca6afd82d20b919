"""Weights in a second file: which tensors of an ONNX file keep their data elsewhere, and whether that may be followed.

ONNX Runtime opens whatever file a tensor names, below the folder that the program happens to stand in where it is given
bytes. So every tensor is looked at first, with the bytes alone, for the package ``onnx`` is optional.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from camlucida.errors import ModelError
from camlucida.images.picture import shown

LARGEST_FILE = 2**31
"""Bytes; one protobuf message cannot be larger."""

ADVICE = "save it with its weights inside"

BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    **dict.fromkeys((17, 18, 19, 20, 24), 8), **dict.fromkeys((21, 22, 23), 4), 25: 2, 26: 2,
}  # fmt: skip
"""Of an element, by ``TensorProto.DataType``; texts (8) have no size."""

LARGEST_WHOLE = 2**31 - 2**24
"""Bytes of a file with its external data written into it; a little below the limit, for what is added must fit too."""

_SMALL = 2**16  # what ONNX Runtime must know of shapes lies in no other file
_MOST_READERS = 4  # of the same bytes
_MOST_FIELDS = 30_000_000
_DEEPEST = 100

_Message: TypeAlias = str
# Which fields of which messages lead to tensors (onnx.proto); everything else is passed over.
_LEADS: Mapping[_Message, Mapping[int, _Message]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


@dataclass(frozen=True)
class ExternalTensor:
    """A tensor whose data lie in another file.

    Attributes:
        name: its own; of nothing but one line's worth.
        dims: its sizes, as claimed.
        data_type: a ``TensorProto.DataType``.
        entries: what it says of its place: ``location``, ``offset``, ``length``.
    """

    name: str
    dims: tuple[int, ...]
    data_type: int
    entries: tuple[tuple[str, str], ...]

    def size(self, what: str) -> int:
        """How many bytes its data are.

        Raises:
            ModelError: it claims what no tensor is.
        """
        if self.data_type not in BITS:
            raise ModelError(f"{what} is of type {self.data_type}, whose data no other file holds; {ADVICE}")
        if any(not 0 <= side < 2**63 for side in self.dims) or math.prod(self.dims) > 2**40:
            raise ModelError(f"{what} claims the size {'×'.join(map(str, self.dims))}, which no weight has")
        return -(-math.prod(self.dims) * BITS[self.data_type] // 8)


@dataclass(frozen=True, eq=False)
class OnnxContent:
    """An ONNX file's bytes with its weights, and where those lie that do not fit in.

    Attributes:
        data: the file, its external data written into it.
        folder: of external data that were too large for that, all of which were looked at; None where all are inside.
    """

    data: bytes
    folder: Path | None = None


def content_of(path: Path, name: str) -> OnnxContent:
    """Read an ONNX file, and see that what it keeps in other files lies beside it.

    Raises:
        ModelError: no such file, no ONNX file, too large for one, or its data are where they are not followed.
    """
    if not path.is_file():
        raise ModelError(f"{name}: no such file")
    if path.stat().st_size > LARGEST_FILE:
        raise ModelError(f"{name}: larger than 2 GiB, which no ONNX file in one piece is")
    data = path.read_bytes()
    if data[4:8] == b"ORTM":
        raise ModelError(f"{name}: is in ONNX Runtime's own format; give the ONNX file that it was made from")
    claimed = check_external_data(data, path.parent, name)
    if not claimed:
        return OnnxContent(data)
    whole = len(data) + claimed < LARGEST_WHOLE
    inside = _with_data(data, "model", 0, len(data), path.parent, LARGEST_WHOLE if whole else _SMALL)
    return OnnxContent(inside or data, None if whole else path.parent.absolute())


def check_external_data(data: bytes, folder: Path, name: str) -> int:
    """See that a model's external data lie beside it and are as large as it says; how many bytes they are.

    Args:
        data: a ``ModelProto``, serialized.
        folder: where the model lies.
        name: what messages call it.

    Raises:
        ModelError: damaged, or data that are not followed.
    """
    claimed, held = 0, {}
    for tensor in external_tensors(data, name):
        path, _, size = checked_place(tensor, folder, name)
        claimed += size
        held[path] = path.stat().st_size
    if claimed > _MOST_READERS * sum(held.values()):
        raise ModelError(f"{name}: its tensors claim {claimed} bytes of files that hold {sum(held.values())}; {ADVICE}")
    return claimed


def checked_place(tensor: ExternalTensor, folder: Path, name: str) -> tuple[Path, int, int]:
    """The file that holds a tensor's data, where they begin, and how many bytes they are.

    It is a plain file at or below the model's folder, reached through no link.

    Raises:
        ModelError: it is anything else, or too short.
    """
    what = f"{name}: tensor {shown(tensor.name)!r}"
    expected, place = tensor.size(what), dict(tensor.entries)
    location = place.get("location", "")
    inside = PurePosixPath(location)
    strange = not location or any(sign in location for sign in "\\:*\0") or len(location) > 1000
    if strange or inside.is_absolute() or ".." in inside.parts or len(place) != len(tensor.entries):
        raise ModelError(
            f"{what} has its data at {shown(location)!r}, outside the model's folder; not followed; {ADVICE}"
        )
    path, status = folder, None
    try:
        for part in inside.parts:
            path = path / part
            if path.is_symlink():
                raise ModelError(f"{what} has its data behind the link {shown(location)!r}; not followed; {ADVICE}, "
                                 "or put the file itself beside the model")  # fmt: skip
        status = path.stat()
    except OSError:  # no such file, or no name of one
        pass
    if status is None or not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{what} has its data in {shown(location)!r}, which is not beside the model; put it there")
    offset, length = (_number(place.get(key), fallback) for key, fallback in (("offset", 0), ("length", expected)))
    if offset is None or length is None:
        raise ModelError(f"{what} has a place in {shown(location)!r} that is not a number; fetch the model again")
    if length != expected or offset < 0 or offset + expected > status.st_size:
        raise ModelError(
            f"{what} claims {expected} bytes that {shown(location)!r} does not hold; fetch both files again"
        )
    return path, offset, expected


def _number(text: str | None, fallback: int) -> int | None:
    """A whole number as it is written; None if it is none."""
    if text is None:
        return fallback
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None


def external_tensors(data: bytes, name: str) -> list[ExternalTensor]:
    """Every tensor of a model whose data lie in another file: of all graphs, branches, loops, functions, attributes.

    Raises:
        ModelError: the bytes are no ``ModelProto``.
    """
    if b"location" not in data:  # the key of every place; ONNX Runtime refuses data that are elsewhere and nowhere
        return []
    found = []
    counted = 0
    waiting: list[tuple[_Message, int, int, int]] = [("model", 0, len(data), 0)]
    while waiting:
        message, start, end, depth = waiting.pop()
        if message == "tensor":
            tensor, count = _external_tensor(data, start, end, name)
            counted += count
            if tensor is not None:
                found.append(tensor)
            continue
        leads = _LEADS[message]
        for number, kind, first, last in _fields(data, start, end, name):
            counted += 1
            if number in leads and kind == _BYTES:
                waiting.append((leads[number], first, last, depth + 1))
        if counted > _MOST_FIELDS or depth > _DEEPEST:
            raise ModelError(f"{name}: not a readable ONNX model (nested or long beyond any classifier)")
    return found


def _external_tensor(data: bytes, start: int, end: int, name: str) -> tuple[ExternalTensor | None, int]:
    """A tensor, if any part of it says that its data lie elsewhere; and how many fields were read."""
    dims: list[int] = []
    entries: list[tuple[str, str]] = []
    own, data_type, elsewhere, count = "", 0, False, 0
    for number, kind, first, last in _fields(data, start, end, name):
        count += 1
        if number == 1 and kind == _VARINT:
            dims.append(first)
        elif number == 1 and kind == _BYTES:
            at = first
            while at < last:
                size, at = _varint(data, at, last, name)
                dims.append(size)
        elif number == 2 and kind == _VARINT:
            data_type = first
        elif number == 8 and kind == _BYTES:
            own = data[first : min(last, first + 200)].decode(errors="replace")
        elif number == 14 and kind == _VARINT:
            elsewhere = elsewhere or first & 0xFFFFFFFF == 1  # as protobuf reads an enum
        elif number == 13 and kind == _BYTES:
            texts = {key: data[begin:stop] for key, sort, begin, stop in _fields(data, first, last, name) if sort == 2}
            entries.append((texts.get(1, b"").decode(errors="replace"), texts.get(2, b"").decode(errors="replace")))
    if not elsewhere and not entries:
        return None, count
    return ExternalTensor(own, tuple(dims), data_type, tuple(entries)), count


def _with_data(data: bytes, message: _Message, start: int, end: int, folder: Path, largest: int) -> bytes | None:
    """A message whose tensors of up to ``largest`` bytes have their external data inside; None if that is as it was."""
    parts: list[bytes] = []
    kept = at = start
    for number, kind, first, last in _fields(data, start, end, ""):
        inner = None
        before, at = at, last if kind != _VARINT else _past(data, at)
        if message == "tensor":
            changed = number in (13, 14)
        else:
            changed, lead = False, _LEADS[message].get(number)
            if lead == "tensor" and kind == _BYTES:
                inner = _tensor_with_data(data, first, last, folder, largest)
            elif lead is not None and kind == _BYTES:
                inner = _with_data(data, lead, first, last, folder, largest)
        if changed or inner is not None:
            parts.append(data[kept:before])
            kept = at
        if inner is not None:
            parts += [_number_bytes(number << 3 | _BYTES), _number_bytes(len(inner)), inner]
    return b"".join([*parts, data[kept:end]]) if parts else None


def _tensor_with_data(data: bytes, start: int, end: int, folder: Path, largest: int) -> bytes | None:
    tensor, _ = _external_tensor(data, start, end, "")
    if tensor is None:
        return None
    path, offset, size = checked_place(tensor, folder, "")
    if size > largest:
        return None
    with path.open("rb") as file:
        file.seek(offset)
        raw = file.read(size)
    rest = _with_data(data, "tensor", start, end, folder, largest) or b""
    return b"".join([rest, _number_bytes(9 << 3 | _BYTES), _number_bytes(size), raw])


def _past(data: bytes, at: int) -> int:
    """Where a field ends that is a varint: behind its tag and its value."""
    for _ in range(2):
        while data[at] > 127:
            at += 1
        at += 1
    return at


def _number_bytes(number: int) -> bytes:
    """A number as a varint."""
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _fields(data: bytes, start: int, end: int, name: str) -> Iterator[tuple[int, int, int, int]]:
    """A message's fields in order: number, wire type, and where the value begins and ends (of a varint: the value)."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end, name)
        number, kind = (tag & 0xFFFFFFFF) >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at, end, name)
            yield number, kind, value, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at, end, name)
        elif kind in (_EIGHT, _FOUR):
            size = 8 if kind == _EIGHT else 4
        else:
            raise _damaged(name)
        if size > end - at or number == 0:
            raise _damaged(name)
        yield number, kind, at, at + size
        at += size


def _varint(data: bytes, at: int, end: int, name: str) -> tuple[int, int]:
    value = 0
    for place in range(10):
        if at + place >= end:
            break
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise _damaged(name)


def _damaged(name: str) -> ModelError:
    return ModelError(f"{name}: not a readable ONNX model (damaged, cut short, or another kind of file)")
