"""Folders named after their classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from camlucida.data.reading import PICTURE_SUFFIXES, ErrorCollector, Tree
from camlucida.data.record import Dataset, Example, Record
from camlucida.errors import DataError
from camlucida.images.picture import shown

SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
}  # fmt: skip
"""Names of folders that are splits, and what the splits are called."""


def read_folder(place: str, errors: ErrorCollector) -> Dataset:
    """Pictures in folders named after their classes: ``CLASS/…``, ``SPLIT/CLASS/…``, each also below ``images/``.

    The folders are splits where every one of them is called like one (``SPLIT_FOLDERS``). Pictures may lie deeper in a
    class; files without a picture's ending are no records, links that lead out or to a folder are broken ones. Classes
    are sorted by name.
    """
    root = Path(place)
    if not root.is_dir():
        raise DataError(f"{shown(root)}: no such folder; check the path")
    tree = Tree(root)
    top, names = "", _folders(tree, "")
    if names == ["images"]:
        top, names = "images", _folders(tree, "images")
    if names and all(name.lower() in SPLIT_FOLDERS for name in names):
        tops = [(f"{top}/{name}".lstrip("/"), SPLIT_FOLDERS[name.lower()]) for name in names]
    else:
        tops = [(top, "")]
    found = [(split, class_pictures(tree, folder, errors)) for folder, split in tops]
    classes = tuple(sorted({name for _, pictures in found for name in pictures}))
    ids = {name: index for index, name in enumerate(classes)}
    records = [
        Record(Example(path, root / path, (ids[name],)), split=split)
        for split, pictures in found
        for name, paths in pictures.items()
        for path in paths
    ]
    return Dataset(shown(root.resolve().name), classes, tuple(records))


def class_pictures(tree: Tree, folder: str, errors: ErrorCollector) -> dict[str, list[str]]:
    """The classes that have a folder in ``folder``, sorted, and the names of the pictures in each."""
    return {name: list(_pictures(tree, f"{folder}/{name}".lstrip("/"), errors)) for name in _folders(tree, folder)}


def _folders(tree: Tree, folder: str) -> list[str]:
    listing = tree.listing(folder)
    return sorted(
        name
        for name, kind in listing.items()
        if not name.startswith(".") and (kind == "folder" or (kind == "link" and (tree.root / folder / name).is_dir()))
    )


def _pictures(tree: Tree, folder: str, errors: ErrorCollector) -> Iterator[str]:
    """The names of the pictures under a folder, sorted, its own before those of its folders."""
    listing: dict[str, str] = {}
    with errors.at(shown(tree.root / folder)):
        listing = tree.listing(folder)
    for name, kind in sorted(listing.items()):
        path = f"{folder}/{name}"
        if kind in ("file", "link") and PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES:
            with errors.at(shown(tree.root / path)):
                tree.find(path)
                yield path
        elif kind == "link":
            errors(f"{shown(tree.root / path)}: a link to no picture, not followed; copy what it names")
    for name, kind in sorted(listing.items()):
        if kind == "folder" and not name.startswith("."):
            yield from _pictures(tree, f"{folder}/{name}", errors)
