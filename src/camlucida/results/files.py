"""Files written whole or not at all, and names for them."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from camlucida.errors import OutputError
from camlucida.images.picture import shown


def make_folder(folder: Path) -> None:
    """Make a folder for results if it is not there.

    Raises:
        OutputError: it is a file, or cannot be made.
    """
    with output_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise OutputError(f"{shown(folder)}: a file, not a folder; choose another for the results") from None


@contextlib.contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its place only when all of it is written; else nothing of it stays.

    Raises:
        OutputError: it cannot be written.
    """
    with output_errors(path):
        scratch = scratch_file(path.parent)
        try:
            with scratch:
                yield scratch
            Path(scratch.name).replace(path)
        except BaseException:
            Path(scratch.name).unlink(missing_ok=True)
            raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place, then move it there (see ``whole``)."""
    with whole(path) as file:
        file.write(data)


def scratch_file(folder: Path) -> IO[bytes]:
    """Open a new file of a name that nobody else uses, with the permissions that the umask leaves."""
    return (folder / f".camlucida-{secrets.token_hex(8)}.part").open("x+b")


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an OutputError that names the path."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise OutputError(f"{shown(path)}: cannot be written ({why}); choose another folder") from error


def safe_name(name: str) -> str:
    r"""Turn any name into one plain, visible file name of at most 80 bytes; empty where nothing is left.

    >>> safe_name("../a b/ü:c"), safe_name("cat - dog"), safe_name("...")
    ('a_b_ü_c', 'cat_-_dog', '')
    """
    return re.sub(r"[^\w.-]+", "_", name).strip("._").encode()[:80].decode(errors="ignore")


def unused_name(name: str, used: dict[int, int]) -> str:
    """This name, or with a number behind it where it is used already (also in other letter case).

    Args:
        name: as wished.
        used: hash of each used name -> how often it was wished; extended.

    >>> used: dict[int, int] = {}
    >>> [unused_name(name, used) for name in ("a", "A", "a-2", "b", "a")]
    ['a', 'A-2', 'a-2-2', 'b', 'a-3']
    """
    free = name
    while (key := hash(free.casefold())) in used:
        base = hash(name.casefold())
        used[base] += 1
        free = f"{name}-{used[base]}"
    used[key] = 1
    return free
