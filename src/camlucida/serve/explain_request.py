"""What a request asks for: its body, multipart or JSON, as an `ExplainRequest`.

Kept by hand, for a body is parsed in a thread and whole: Starlette's ``form()`` would parse it in the event loop and
write it to the disk first, and a model of the fields could not say "did you mean 'cat'".
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from typing import Any, Literal, cast, get_args

from PIL import Image
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState

from camlucida.errors import TargetError
from camlucida.serve.problems import ProblemError
from camlucida.targets import class_name, find_class

Encoding = Literal["float16", "png", "none"]
RequestedClasses = int | Literal["all"] | tuple[int, ...]
"""The likeliest so many classes, all, or those of these ids."""

FIELDS = ("image", "classes", "maps", "threshold")
_MAX_PARTS = 1100
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


@dataclass(frozen=True, eq=False)
class ExplainRequest:
    """One request, checked.

    Attributes:
        image: the picture's file.
        classes: which are explained.
        maps: how the maps are written.
        threshold: of the boxes, in [0, 1].
    """

    image: bytes
    classes: RequestedClasses
    maps: Encoding = "float16"
    threshold: float = 0.2


@dataclass(frozen=True)
class KnownClasses:
    """The model's classes.

    Attributes:
        width: how many logits there are.
        names: of the classes, if known.
    """

    width: int
    names: tuple[str, ...] | None

    @property
    def count(self) -> int:
        """How many classes there are; a single logit is two."""
        return max(self.width, 2)

    @property
    def default_count(self) -> int:
        """How many are explained where a request does not say."""
        return min(5, self.count)

    def all_names(self) -> list[str]:
        """Every class's name, in the order of their ids."""
        return [class_name(i, self.names, self.width) for i in range(self.count)]

    def check_count(self, count: int) -> int:
        """A count of the likeliest classes.

        Raises:
            ProblemError: 422, there are not so many.
        """
        if not 1 <= count <= self.count:
            raise ProblemError(422, f"classes: expected a count from 1 to {self.count}, got {count}")
        return count

    def ids(self, names_or_ids: Sequence[Any]) -> tuple[int, ...]:
        """The ids of classes given by name or id.

        Raises:
            ProblemError: 422, there are none, too many, or one that the model does not know.
        """
        if not 1 <= len(names_or_ids) <= self.count:
            raise ProblemError(422, f"classes: expected 1 to {self.count} of them, got {len(names_or_ids)}")
        exact = {name: i for i, name in enumerate(self.names or ())} if self.width > 1 else {}
        return tuple(self._id(item, exact) for item in names_or_ids)

    def _id(self, item: Any, exact: Mapping[str, int]) -> int:
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise ProblemError(422, "classes: expected names or ids (whole numbers)")
        if isinstance(item, str):
            try:
                return exact[item] if item in exact else find_class(item[:200], self.width, self.names)
            except TargetError as error:
                raise ProblemError(422, f"classes: {error}") from None
        if not 0 <= item < self.count:
            raise ProblemError(422, f"classes: there is no class {item}; they are 0 to {self.count - 1}")
        return item


def multipart_boundary(headers: Mapping[str, str]) -> str:
    """The boundary of a multipart body; empty for JSON.

    Raises:
        ProblemError: 415, the body is neither, or compressed; 400, the boundary is missing.

    Example:
        >>> multipart_boundary({"content-type": 'multipart/form-data; boundary="a b"'})
        'a b'
    """
    coding = headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise ProblemError(415, f"Content-Encoding {coding[:40]!r} is not taken; send the body as it is")
    message = Message()
    message["content-type"] = header = headers.get("content-type", "")
    kind = message.get_content_type() if header else ""
    if kind == "application/json":
        return ""
    if kind != "multipart/form-data":
        got = f"got {header[:80]!r}" if header else "no Content-Type was given"
        raise ProblemError(415, f"expected multipart/form-data or application/json; {got}")
    boundary = message.get_boundary()
    if not boundary or not boundary.isascii() or len(boundary) > 200:
        raise ProblemError(400, "the multipart boundary is missing from Content-Type, or is not one")
    return boundary


def parse_request(body: bytes, boundary: str, known: KnownClasses) -> ExplainRequest:
    """A whole body, JSON where the boundary is empty, as an `ExplainRequest`.

    Raises:
        ProblemError: 400, it cannot be read; 422, a field is missing, unknown or out of range.

    Example:
        >>> parse_request(b'{"image": "AAAA", "classes": ["dog", 0]}', "", KnownClasses(2, ("cat", "dog"))).classes
        (1, 0)
    """
    image, classes, maps, threshold = _from_form(_parts(body, boundary), known) if boundary else _from_json(body, known)
    if maps not in get_args(Encoding):
        raise ProblemError(422, f"maps: expected one of {', '.join(get_args(Encoding))}, got {str(maps)[:40]!r}")
    if not 0 <= threshold <= 1:
        raise ProblemError(422, f"threshold: expected a share of the maximum in [0, 1], got {str(threshold)[:40]}")
    if not image:
        raise ProblemError(422, "image: it is empty")
    return ExplainRequest(image, classes, cast("Encoding", maps), float(threshold))


def check_pixels(image: bytes, limit: int) -> None:
    """Refuse a picture by the size that its header tells, before it is decoded.

    Raises:
        ProblemError: 413, it has more pixels than the limit.
    """
    try:
        with Image.open(io.BytesIO(image), formats=[name for name in _FORMATS if name in Image.OPEN]) as opened:
            width, height = opened.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ProblemError(413, f"image: more pixels than the limit of {limit}; scale it down first") from None
    except Exception:  # decoding it will say what is wrong with it
        return
    if width * height > limit:
        raise ProblemError(413, f"image: {width}×{height} pixels, more than the limit of {limit}; scale it down first")


_Fields = tuple[bytes, RequestedClasses, Any, float]
"""Image, classes, the encoding of maps and the threshold; the last two not yet checked."""


def _parts(body: bytes, boundary: str) -> list[tuple[str, bytes]]:
    """Names and contents of a multipart body's parts."""
    parts: list[tuple[str, bytearray]] = []
    headers: dict[bytes, bytes] = {}
    fields: list[bytes] = []  # names of the part's headers; each comes whole, for the body does

    def headers_finished() -> None:
        if len(parts) >= _MAX_PARTS:
            raise ProblemError(400, f"the form has more than {_MAX_PARTS} parts")
        message = Message()
        message["content-disposition"] = headers.get(b"content-disposition", b"").decode("utf-8", "replace")
        name = message.get_param("name", None, "content-disposition")
        if not isinstance(name, str):
            raise ProblemError(400, "a part of the form has no name")
        parts.append((name, bytearray()))
        headers.clear()

    parser = MultipartParser(
        boundary.encode(),
        {
            "on_header_field": lambda data, start, stop: fields.append(data[start:stop].lower()),
            "on_header_value": lambda data, start, stop: headers.update({fields[-1]: data[start:stop]}),
            "on_headers_finished": headers_finished,
            "on_part_data": lambda data, start, stop: parts[-1][1].extend(memoryview(data)[start:stop]),
        },
    )
    try:
        parser.write(body)
    except (FormParserError, ValueError) as error:
        raise ProblemError(400, f"the multipart body cannot be read ({str(error)[:120]})") from error
    if parser.state != MultipartState.END:
        raise ProblemError(400, "the multipart body ends before its closing boundary")
    return [(name, bytes(content)) for name, content in parts]


def _from_form(parts: Sequence[tuple[str, bytes]], known: KnownClasses) -> _Fields:
    contents: dict[str, list[bytes]] = {}
    for name, content in parts:
        _check_field(name)
        contents.setdefault(name, []).append(content)
    for name, values in contents.items():
        if len(values) > 1 and name != "classes":
            raise ProblemError(422, f"{name}: given {len(values)} times; give it once")
    if "image" not in contents:
        raise ProblemError(422, "image: it is missing; send a picture's file under this name")
    (image,) = contents.pop("image")
    try:
        texts = {name: [value.decode() for value in values] for name, values in contents.items()}
    except UnicodeDecodeError:
        raise ProblemError(422, "a field of the form is not UTF-8 text") from None
    classes = _classes_in_words(texts["classes"], known) if "classes" in texts else known.default_count
    threshold = texts.get("threshold", ["0.2"])[0]
    try:
        return image, classes, texts.get("maps", ["float16"])[0], float(threshold)
    except ValueError:
        raise ProblemError(422, f"threshold: expected a number, got {threshold[:40]!r}") from None


def _classes_in_words(words: Sequence[str], known: KnownClasses) -> RequestedClasses:
    """``5``, ``all``, or names: in a field each, or with commas between (where the whole is not itself a name)."""
    if len(words) > 1:
        return known.ids(words)
    (text,) = words
    if text == "all":
        return "all"
    if re.fullmatch(r"[0-9]{1,9}", text):
        return known.check_count(int(text))
    return known.ids([text] if text in (known.names or ()) else [name.strip() for name in text.split(",")])


def _from_json(body: bytes, known: KnownClasses) -> _Fields:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, f"the body is not JSON ({str(error)[:120]})") from error
    if not isinstance(fields, dict):
        raise ProblemError(422, "expected a JSON object with the picture under 'image'")
    for name in fields:
        _check_field(name)
    if not isinstance(fields.get("image"), str):
        raise ProblemError(422, "image: expected a picture's file in base64")
    try:
        image = base64.b64decode(fields["image"], validate=True)
    except (binascii.Error, ValueError):
        raise ProblemError(422, "image: not base64; encode the picture's file") from None
    threshold = fields.get("threshold", 0.2)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise ProblemError(422, "threshold: expected a number")
    classes = _classes_in_json(fields.get("classes", known.default_count), known)
    return image, classes, fields.get("maps", "float16"), threshold


def _classes_in_json(value: Any, known: KnownClasses) -> RequestedClasses:
    if value == "all":
        return "all"
    if isinstance(value, list):
        return known.ids([_whole(item) for item in value])
    count = _whole(value)
    if isinstance(count, int) and not isinstance(count, bool):
        return known.check_count(count)
    raise ProblemError(422, "classes: expected a count, 'all', or a list of names or ids")


def _whole(value: Any) -> Any:
    """JSON's 5.0 is the whole number 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_field(name: str) -> None:
    if name not in FIELDS:
        raise ProblemError(422, f"{name[:40]}: there is no such field; there are {', '.join(FIELDS)}")


Image.init()  # registers Pillow's plugins now, not in the first request
