"""What a request asks for: the body, multipart or JSON, as an `Ask`."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any, Literal, cast, get_args

from PIL import Image

from camlucida.errors import TargetError
from camlucida.serve.problems import ProblemError
from camlucida.targets import class_name, find_class

Encoding = Literal["float16", "png", "none"]
Asked = int | Literal["all"] | tuple[int, ...]
"""The likeliest so many classes, all, or those of these ids."""

FIELDS = ("image", "classes", "maps", "threshold")
_MOST_PARTS = 1100
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


@dataclass(frozen=True, eq=False)
class Ask:
    """One request, checked.

    Attributes:
        image: the picture's file.
        classes: which are explained.
        maps: how the maps are written.
        threshold: of the boxes, in [0, 1].
    """

    image: bytes
    classes: Asked
    maps: Encoding = "float16"
    threshold: float = 0.2


@dataclass(frozen=True)
class Names:
    """The model's classes, for finding them by name.

    Attributes:
        width: how many logits there are.
        labels: their names, if known.
    """

    width: int
    labels: tuple[str, ...] | None

    @property
    def count(self) -> int:
        """How many classes there are; a single logit is two."""
        return max(self.width, 2)

    @property
    def usual(self) -> int:
        """How many are explained where a request does not say."""
        return min(5, self.count)

    def all(self) -> list[str]:
        """Every class's name, in the order of their ids."""
        return [class_name(i, self.labels, self.width) for i in range(self.count)]


def media_type(header: str | None) -> tuple[str, str]:
    """A Content-Type header's type, and its boundary if it has one.

    Raises:
        ProblemError: 415, it is neither multipart/form-data nor JSON; 400, the boundary is missing.

    Example:
        >>> media_type('multipart/form-data; boundary="a b"')
        ('multipart/form-data', 'a b')
    """
    message = Message()
    message["content-type"] = header or ""
    kind = message.get_content_type() if header else ""
    if kind == "application/json":
        return kind, ""
    if kind != "multipart/form-data":
        got = f"got {header[:80]!r}" if header else "no Content-Type was given"
        raise ProblemError(415, f"expected multipart/form-data or application/json; {got}")
    boundary = message.get_boundary()
    if not boundary or not boundary.isascii() or len(boundary) > 200:
        raise ProblemError(400, "the multipart boundary is missing from Content-Type, or is not one")
    return kind, boundary


def parse(body: bytes, boundary: str, names: Names) -> Ask:
    """A body as an `Ask`.

    Args:
        body: all of it.
        boundary: of a multipart body; empty for JSON.
        names: the model's classes.

    Raises:
        ProblemError: 400, it cannot be read; 422, a field is missing, unknown or out of range.

    Example:
        >>> parse(b'{"image": "AAAA", "classes": ["dog", 0]}', "", Names(2, ("cat", "dog"))).classes
        (1, 0)
    """
    return _from_form(_parts(body, boundary), names) if boundary else _from_json(body, names)


def check_pixels(data: bytes, most: int) -> None:
    """Refuse a picture by the size that its header tells, before it is decoded.

    Raises:
        ProblemError: 413, it has more pixels than ``most``.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ProblemError(413, f"image: more pixels than the limit of {most}; scale it down first") from None
    except Exception:  # decoding it will say what is wrong with it
        return
    if width * height > most:
        raise ProblemError(413, f"image: {width}×{height} pixels, more than the limit of {most}; scale it down first")


# --- multipart --------------------------------------------------------------------------------------------------------


def _parts(body: bytes, boundary: str) -> list[tuple[str, bytes]]:
    """Names and contents of a multipart body's parts."""
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser

    parts: list[tuple[str, bytearray]] = []
    field, value, headers, ended = bytearray(), bytearray(), dict[bytes, bytes](), False

    def header_end() -> None:
        headers[bytes(field).lower()] = bytes(value)
        field.clear()
        value.clear()

    def headers_finished() -> None:
        if len(parts) >= _MOST_PARTS:
            raise ProblemError(400, f"the form has more than {_MOST_PARTS} parts")
        message = Message()
        message["content-disposition"] = headers.get(b"content-disposition", b"").decode("utf-8", "replace")
        name = message.get_param("name", None, "content-disposition")
        if not isinstance(name, str):
            raise ProblemError(400, "a part of the form has no name")
        parts.append((name, bytearray()))
        headers.clear()

    def end() -> None:
        nonlocal ended
        ended = True

    parser = MultipartParser(
        boundary.encode(),
        {
            "on_part_data": lambda data, start, stop: parts[-1][1].extend(memoryview(data)[start:stop]),
            "on_header_field": lambda data, start, stop: field.extend(data[start:stop]),
            "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
            "on_header_end": header_end,
            "on_headers_finished": headers_finished,
            "on_end": end,
        },
    )
    try:
        parser.write(body)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise ProblemError(400, f"the multipart body cannot be read ({str(error)[:120]})") from error
    if not ended:
        raise ProblemError(400, "the multipart body ends before its closing boundary")
    return [(name, bytes(content)) for name, content in parts]


def _from_form(parts: Sequence[tuple[str, bytes]], names: Names) -> Ask:
    given: dict[str, list[bytes]] = {}
    for name, content in parts:
        _known(name)
        given.setdefault(name, []).append(content)
    for name, contents in given.items():
        if len(contents) > 1 and name != "classes":
            raise ProblemError(422, f"{name}: given {len(contents)} times; give it once")
    if "image" not in given:
        raise ProblemError(422, "image: it is missing; send a picture's file under this name")
    try:
        texts = {name: [one.decode() for one in contents] for name, contents in given.items() if name != "image"}
    except UnicodeDecodeError:
        raise ProblemError(422, "a field of the form is not UTF-8 text") from None
    asked: Asked = names.usual
    if "classes" in texts:
        words = texts["classes"]
        asked = _classes_in_words(words[0], names) if len(words) == 1 else _ids(words, names)
    threshold = 0.2
    if "threshold" in texts:
        try:
            threshold = float(texts["threshold"][0])
        except ValueError:
            raise ProblemError(422, f"threshold: expected a number, got {texts['threshold'][0][:40]!r}") from None
    return _checked(given["image"][0], asked, texts.get("maps", ["float16"])[0], threshold)


def _classes_in_words(text: str, names: Names) -> Asked:
    """``5``, ``all``, or names with commas between them (where the whole is not itself a name)."""
    if text == "all":
        return "all"
    if re.fullmatch(r"[0-9]{1,9}", text):
        return _count(int(text), names)
    if names.labels is not None and text in names.labels:
        return _ids([text], names)
    return _ids([part.strip() for part in text.split(",")], names)


# --- JSON -------------------------------------------------------------------------------------------------------------


def _from_json(body: bytes, names: Names) -> Ask:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, f"the body is not JSON ({str(error)[:120]})") from error
    if not isinstance(given, dict):
        raise ProblemError(422, "expected a JSON object with the picture under 'image'")
    for name in given:
        _known(name)
    if not isinstance(given.get("image"), str):
        raise ProblemError(422, "image: expected a picture's file in base64")
    try:
        image = base64.b64decode(given["image"], validate=True)
    except (binascii.Error, ValueError):
        raise ProblemError(422, "image: not base64; encode the picture's file") from None
    threshold = given.get("threshold", 0.2)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise ProblemError(422, "threshold: expected a number")
    asked = _classes_in_json(given.get("classes", names.usual), names)
    return _checked(image, asked, given.get("maps", "float16"), threshold)


def _classes_in_json(given: Any, names: Names) -> Asked:
    if given == "all":
        return "all"
    if isinstance(given, list):
        return _ids(list(map(_whole, given)), names)
    count = _whole(given)
    if isinstance(count, int) and not isinstance(count, bool):
        return _count(count, names)
    raise ProblemError(422, "classes: expected a count, 'all', or a list of names or ids")


def _whole(given: Any) -> Any:
    """JSON's 5.0 is the whole number 5."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


# --- both -------------------------------------------------------------------------------------------------------------


def _known(name: str) -> None:
    if name not in FIELDS:
        raise ProblemError(422, f"{name[:40]}: there is no such field; there are {', '.join(FIELDS)}")


def _count(count: int, names: Names) -> int:
    if not 1 <= count <= names.count:
        raise ProblemError(422, f"classes: expected a count from 1 to {names.count}, got {count}")
    return count


def _ids(asked: Sequence[Any], names: Names) -> tuple[int, ...]:
    if not 1 <= len(asked) <= names.count:
        raise ProblemError(422, f"classes: expected 1 to {names.count} of them, got {len(asked)}")
    exact = {name: i for i, name in enumerate(names.labels or ())} if names.width > 1 else {}
    found = []
    for one in asked:
        if isinstance(one, bool) or not isinstance(one, int | str):
            raise ProblemError(422, "classes: expected names or ids (whole numbers)")
        if isinstance(one, int):
            if not 0 <= one < names.count:
                raise ProblemError(422, f"classes: there is no class {one}; they are 0 to {names.count - 1}")
            found.append(one)
            continue
        try:
            found.append(exact[one] if one in exact else find_class(one[:200], names.width, names.labels))
        except TargetError as error:
            raise ProblemError(422, f"classes: {error}") from None
    return tuple(found)


def _checked(image: bytes, asked: Asked, maps: Any, threshold: float) -> Ask:
    if maps not in get_args(Encoding):
        raise ProblemError(422, f"maps: expected one of {', '.join(get_args(Encoding))}, got {str(maps)[:40]!r}")
    if not 0 <= threshold <= 1:
        raise ProblemError(422, f"threshold: expected a share of the maximum in [0, 1], got {str(threshold)[:40]}")
    if not image:
        raise ProblemError(422, "image: it is empty")
    return Ask(image, asked, cast("Encoding", maps), float(threshold))


Image.init()  # registers Pillow's plugins now, not in the first request
