"""What all readers share: files of one tree, bounded texts, checked numbers, and broken records that are named."""

from __future__ import annotations

import math
import os
import posixpath
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import DataError
from camlucida.images.picture import MAX_PIXELS, reason_of, shown

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels; half-open."""

MAX_ANNOTATION_BYTES = 512 * 2**20
"""Largest annotation file read, in bytes (COCO's own largest has 448 MiB)."""

PICTURE_SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
"""Endings, in lower case, of the files that a folder of pictures is asked for."""


class BadRecordError(DataError):
    """One record is broken; the message says how, without its place."""


@dataclass(eq=False)
class ErrorCollector:
    """Collects broken records, and refuses the whole set in the end if asked to.

    Attributes:
        action: "refuse" the set that has one, after all have been named; or "skip" the record.
        on_broken: called with each message, "FILE:LINE: what is wrong"; if None, skipped ones give one warning in the
            end.
    """

    action: Literal["refuse", "skip"] = "refuse"
    on_broken: Callable[[str], None] | None = None
    _first: str = field(default="", init=False)
    _count: int = field(default=0, init=False)

    def __call__(self, message: str) -> None:
        """Add one broken record."""
        self._first = self._first or message
        self._count += 1
        if self.on_broken is not None:
            self.on_broken(message)

    @contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Add the record that the block reads if it is broken; ``where`` it stands begins the message."""
        try:
            yield
        except BadRecordError as error:
            self(f"{where}: {error}")

    def close(self) -> None:
        """Refuse, or warn, once all records were read.

        Raises:
            DataError: there was a broken record, and they are to be refused.
        """
        if not self._count:
            return
        more = f" (the first of {self._count} broken records)" if self._count > 1 else ""
        if self.action == "refuse":
            raise DataError(f"{self._first}{more}; mend it, or skip broken records")
        if self.on_broken is None:
            warnings.warn(f"skipped: {self._first}{more}", stacklevel=3)


class Tree:
    """The files under a folder, by relative name with "/". A name or link that leads out of it is a broken record.

    Every folder is listed once, so that a file's existence costs no question to the file system of its own.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = os.path.realpath(root)
        self._listings: dict[str, dict[str, str]] = {}

    def find(self, name: str, what: str = "picture") -> Path:
        """The path of a file.

        Raises:
            BadRecordError: there is no such file, or its name leads out of the folder.
        """
        folder, file = posixpath.split(name)
        kind = self.listing(folder).get(file) if file else None
        if kind == "link":
            target = os.path.realpath(self.root / name)
            if not self._within(target):
                raise BadRecordError(f"{what} {shown(name)} is a link that leads out of {shown(self.root)}")
            kind = "file" if Path(target).is_file() else None
        if kind != "file":
            raise BadRecordError(f"no {what} {shown(name) or '(empty name)'} in {shown(self.root)}")
        return self.root / name

    def has(self, name: str) -> bool:
        """Whether there is a file or folder of this name (a link counts)."""
        folder, file = posixpath.split(name)
        return file in self.listing(folder)

    def listing(self, folder: str) -> dict[str, str]:
        """What lies in a folder: name -> "file", "folder" or "link"; nothing where there is no such folder.

        Raises:
            BadRecordError: the folder lies outside of the tree, or cannot be listed.
        """
        if folder not in self._listings:
            inside = not folder.startswith("/") and ".." not in folder.split("/") and "\0" not in folder
            if not inside or not self._within(os.path.realpath(self.root / folder)):
                raise BadRecordError(f"{shown(folder)}/ leads out of {shown(self.root)}")
            self._listings[folder] = _listed(self.root / folder)
        return self._listings[folder]

    def _within(self, real: str) -> bool:
        return real == self._real or real.startswith(self._real.rstrip(os.sep) + os.sep)


def _listed(folder: Path) -> dict[str, str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: _kind(entry) for entry in entries}
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    except OSError as error:
        raise BadRecordError(f"{shown(folder)} cannot be listed ({reason_of(error)})") from error


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"


def read_text(path: Path, limit: int = MAX_ANNOTATION_BYTES) -> str:
    """An annotation file in UTF-8, without its byte order mark.

    Args:
        path: the file.
        limit: the most bytes that it may have.

    Raises:
        DataError: it is missing, no regular file, larger than the limit, or not UTF-8.
    """
    name = shown(path)
    try:
        if not path.is_file():
            raise DataError(f"{name}: no such file; check the path")
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise DataError(f"{name}: more than the limit of {limit} bytes; split it")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except (OSError, ValueError, MemoryError) as error:
        raise DataError(f"{name}: cannot be read ({reason_of(error)}); check the path and its permissions") from error


def read_lines(path: Path) -> list[tuple[str, str]]:
    """The lines of a text file that are not blank, each with its place, "FILE:LINE".

    Raises:
        DataError: see ``read_text``.
    """
    lines = read_text(path).split("\n")
    name = shown(path)
    return [(f"{name}:{place}", line.rstrip("\r")) for place, line in enumerate(lines, 1) if line.strip()]


def number(text: object, what: str) -> float:
    """A finite number.

    Raises:
        BadRecordError: it is none.

    >>> number(" 2.5", "x0")
    2.5
    """
    try:
        value = math.nan if isinstance(text, bool) else float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise BadRecordError(f"{what} is {quoted(text)}, expected a finite number")
    return value


def whole(text: object, what: str, least: int = 0) -> int:
    """A whole number of at least ``least``.

    Raises:
        BadRecordError: it is none.

    >>> whole("12", "width")
    12
    """
    value = number(text, what)
    if not value.is_integer() or value < least:
        raise BadRecordError(f"{what} is {quoted(text)}, expected a whole number of at least {least}")
    return int(value)


def checked_box(box: Iterable[float], size_hw: tuple[int, int] | None, overhang: float = 0.0) -> Box:
    """A half-open xyxy box that has an area and lies in a picture of ``size_hw`` (None: not known).

    Args:
        box: four finite numbers.
        size_hw: the picture's size.
        overhang: what it may reach out by, in pixels; it is cut off. Some sets round their boxes outwards.

    Raises:
        BadRecordError: it is inverted or empty, or reaches out of the picture.

    >>> checked_box([-0.5, 1, 8, 9], (9, 8), overhang=1)
    (0.0, 1, 8, 9)
    """
    x0, y0, x1, y1 = box
    said = f"box {x0:g} {y0:g} {x1:g} {y1:g}"
    if not (x0 < x1 and y0 < y1):
        raise BadRecordError(f"{said} is inverted or empty; expected x0 < x1 and y0 < y1")
    height, width = size_hw or (math.inf, math.inf)
    if x0 < -overhang or y0 < -overhang or x1 > width + overhang or y1 > height + overhang:
        size = f" of {width}×{height} pixels" if size_hw else ""
        raise BadRecordError(f"{said} reaches out of the picture{size}")
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
    if not (x0 < x1 and y0 < y1):
        raise BadRecordError(f"{said} has nothing in the picture of {width}×{height} pixels")
    return x0, y0, x1, y1


def boxes_array(boxes: Iterable[Box]) -> NDArray[np.float64]:
    """Boxes as float64 (M, 4), M may be 0."""
    return np.array(tuple(boxes), np.float64).reshape(-1, 4)


def checked_size(height: object, width: object) -> tuple[int, int]:
    """A picture's size in pixels, height first, as stated in a file.

    Raises:
        BadRecordError: it is none, or larger than any picture that is read.
    """
    size_hw = whole(height, "height", 1), whole(width, "width", 1)
    if size_hw[0] * size_hw[1] > MAX_PIXELS:
        raise BadRecordError(f"{size_hw[1]}×{size_hw[0]} pixels, more than the limit of {MAX_PIXELS // 10**6} million")
    return size_hw


def once(seen: set[str], name: str, what: str) -> None:
    """Take note of a name that must be there only once.

    Raises:
        BadRecordError: it was there before.
    """
    if name in seen:
        raise BadRecordError(f"{what} {quoted(name)} is there twice")
    seen.add(name)


def quoted(value: object) -> str:
    """A value from a file, cut to a length fit for a message."""
    said = shown(repr(value) if not isinstance(value, str) else f"'{value}'")
    return said if len(said) <= 60 else said[:57] + "…'"
