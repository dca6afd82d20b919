"""CUB-200-2011 (Wah et al., technical report CNS-TR-2011-001)."""

from __future__ import annotations

from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from camlucida.data.reading import BadRecordError, ErrorCollector, Tree, read_lines
from camlucida.data.record import Dataset, Example, Record, Truth
from camlucida.data.values import boxes_array, checked_box, number, once, quoted
from camlucida.images.picture import read

_TABLES = ("image_class_labels", "train_test_split", "bounding_boxes")


def read_cub(place: str, errors: ErrorCollector) -> Dataset:
    """CUB-200-2011 as it is distributed, with ``segmentations/`` beside ``images/`` where there.

    The place is the folder that holds ``images.txt``. Ids are the pictures' paths below ``images/``. Boxes (x, y,
    width, height) are taken as they are written.
    """
    root = Path(place)
    classes = _table(root / "classes.txt", errors)
    tables = {name: _table(root / f"{name}.txt", errors) for name in _TABLES}
    ids = {key: index for index, key in enumerate(classes)}
    tree = Tree(root)
    records, seen = [], set[str]()
    for key, (where, name) in _table(root / "images.txt", errors).items():
        with errors.at(where):
            once(seen, name, "picture")
            absent = next((table for table, rows in tables.items() if key not in rows), None)
            if absent is not None:
                raise BadRecordError(f"id {quoted(key)} is not in {absent}.txt")
            said = {table: rows[key][1] for table, rows in tables.items()}
            records.append(_record(tree, name, said, ids))
    return Dataset("CUB-200-2011", tuple(name for _, name in classes.values()), tuple(records))


def _table(file: Path, errors: ErrorCollector) -> dict[str, tuple[str, str]]:
    """A text file of lines "ID VALUE" -> ID -> its place and value."""
    rows: dict[str, tuple[str, str]] = {}
    for where, line in read_lines(file):
        key, _, value = line.partition(" ")
        if not value or key in rows:
            errors(f"{where}: {quoted(line)}, expected an id of its own, a space and more")
        else:
            rows[key] = where, value.strip()
    return rows


def _record(tree: Tree, name: str, said: dict[str, str], ids: dict[str, int]) -> Record:
    label, split, sides = said["image_class_labels"], said["train_test_split"], said["bounding_boxes"].split()
    if label not in ids:
        raise BadRecordError(f"class {quoted(label)} is not in classes.txt")
    if split not in ("0", "1"):
        raise BadRecordError(f"train_test_split.txt says {quoted(split)}, expected 0 or 1")
    if len(sides) != 4:
        raise BadRecordError(f"bounding_boxes.txt says {quoted(' '.join(sides))}, expected x y width height")
    x, y, width, height = (number(side, "bounding box") for side in sides)
    box = checked_box((x, y, x + width, y + height), None)
    path = tree.find(f"images/{name}")
    drawn = f"segmentations/{PurePosixPath(name).with_suffix('.png')}"
    mask = partial(_silhouette, tree.find(drawn, "mask")) if tree.has(drawn) else None
    truth = Truth(boxes_array([box]), np.array([ids[label]], np.int64), mask)
    return Record(Example(name, path, (ids[label],)), truth, "train" if split == "1" else "test")


def _silhouette(path: Path) -> NDArray[np.bool_]:
    """A segmentation whose grey says how many annotators called a pixel bird: set where at least half did."""
    return read(path).pixels[:, :, 0] >= 128
