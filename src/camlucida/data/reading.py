"""What all readers share: files of one tree, bounded texts, and broken records that are named."""

from __future__ import annotations

import os
import posixpath
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from camlucida.errors import DataError
from camlucida.images.picture import reason_of, shown

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
