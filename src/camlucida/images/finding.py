"""Files, folders and patterns -> the picture files that they mean, one after the other."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from camlucida.errors import ImageError
from camlucida.images.picture import reason_of, shown

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".pfm"}
)
"""What the name of a picture in a folder ends in (lower case). The content decides the format, never the suffix."""


def find(
    paths: str | Path | Iterable[str | Path], on_skip: Callable[[Path, str], None] | None = None
) -> Iterator[Path]:
    """Find the picture files that these paths mean, one after the other.

    A file given by name is taken as it is. A folder is walked in sorted order for names with a suffix in `SUFFIXES`;
    hidden names are left out. A path that does not exist is tried as a glob pattern (with `**`); what it matches is
    treated as if it lay in a folder. Inside a folder no link is followed that leads out of it or to another folder.

    Args:
        paths: files, folders and patterns.
        on_skip: called with path and reason for each thing passed over that was perhaps meant as a picture.

    Returns:
        An iterator; memory holds the names of one folder (and its parents) at a time.

    Raises:
        ImageError: at once, before the first path is given out, if any of `paths` is missing or holds no picture.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png"):
    ...         Path(folder, name).touch()
    ...     [path.name for path in find(folder)]
    ['a.JPG', 'b.png']
    """
    names = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if not names:
        raise ImageError("no pictures given; name files, folders or patterns")
    for path in names:
        if next(_expand(path, _ignore), None) is None:
            raise ImageError(f"{shown(path)}: no picture in it; looked for names in {' '.join(sorted(SUFFIXES))}")
    return itertools.chain.from_iterable(_expand(path, on_skip or _ignore) for path in names)


def _ignore(_path: Path, _reason: str) -> None:
    pass


def _expand(path: Path, on_skip: Callable[[Path, str], None]) -> Iterator[Path]:
    if _is_folder(path):
        yield from _walk(path, on_skip)
    elif os.path.lexists(path):
        yield path
    elif any(c in str(path) for c in "*?["):
        yield from _match(path, on_skip)
    else:
        raise ImageError(f"{shown(path)}: no such file or folder; check the path")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # its parent may not be looked into, or its name is too long
        return False


def _match(pattern: Path, on_skip: Callable[[Path, str], None]) -> Iterator[Path]:
    first = next(i for i, part in enumerate(pattern.parts) if any(c in part for c in "*?["))
    folder, rest = Path(*pattern.parts[:first]), Path(*pattern.parts[first:])
    try:
        matches = sorted(folder.glob(str(rest)))
    except (ValueError, OSError) as error:
        raise ImageError(f"{shown(pattern)}: not a usable pattern ({reason_of(error)}); see `**`, `*`, `?`") from error
    yielded = set()
    for match in matches:
        if any(part.startswith(".") for part in match.relative_to(folder).parts):
            continue
        if _is_folder(match):
            files: Iterable[Path] = _walk(match, on_skip)
        else:
            files = [match] if match.suffix.lower() in SUFFIXES else []
        for path in files:
            if path not in yielded:
                yielded.add(path)
                yield path


def _walk(folder: Path, on_skip: Callable[[Path, str], None]) -> Iterator[Path]:
    root = folder.resolve()
    levels = [_listing(folder, root, on_skip)]  # a stack, for folders may be nested deeper than Python recurses
    while levels:
        path, is_folder = next(levels[-1], (None, False))
        if path is None:
            levels.pop()
        elif is_folder:
            levels.append(_listing(path, root, on_skip))
        else:
            yield path


def _listing(folder: Path, root: Path, on_skip: Callable[[Path, str], None]) -> Iterator[tuple[Path, bool]]:
    """The pictures (False) and folders (True) in one folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                (entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink())
                for entry in entries
                if not entry.name.startswith(".")
            )
    except OSError as error:
        on_skip(folder, f"cannot be listed ({reason_of(error)})")
        return
    if not names and folder.suffix.lower() in SUFFIXES:
        on_skip(folder, "an empty folder, not a picture")
    for name, is_folder, is_link in names:
        path = folder / name
        is_picture = path.suffix.lower() in SUFFIXES
        if is_link:
            reason = _why_not_follow(path, root)
            if reason and (is_picture or _is_folder(path)):
                on_skip(path, reason)
            if reason:
                continue
        if is_folder or is_picture:
            yield path, is_folder


def _why_not_follow(link: Path, root: Path) -> str:
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # leads nowhere, or round and round: `read` will say so
        return ""
    if not target.is_relative_to(root):
        return "a link that leads out of the folder"
    return "a link to a folder" if _is_folder(target) else ""
