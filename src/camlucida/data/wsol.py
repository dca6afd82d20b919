"""The metadata of the public WSOL benchmark (Choe et al., CVPR 2020): CUB, ILSVRC and OpenImages-30k."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from camlucida.data.reading import BadRecordError, ErrorCollector, Tree, read_lines
from camlucida.data.record import Dataset, Example, Record, Truth
from camlucida.data.values import Box, boxes_array, checked_box, checked_size, number, once, quoted, whole
from camlucida.errors import DataError
from camlucida.images.picture import shown

_SPLITS = ("train", "val", "test")


@dataclass
class MetadataRows:
    """What the files of a split say of one picture: its label, its size, and the fields of each localization row."""

    label: list[str] = field(default_factory=list)
    size: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def read_wsol(place: str, errors: ErrorCollector) -> Dataset:
    """The benchmark's metadata of one dataset: ``train/``, ``val/`` and ``test/``, each of these text files.

    ``image_ids.txt`` (ID), ``class_labels.txt`` (ID,NUMBER), and where there is truth ``localization.txt`` with
    ID,X0,Y0,X1,Y1 (a row a box) or ID,MASK,IGNORE (a row a mask; IGNORE in the first alone), and with boxes
    ``image_sizes.txt`` (ID,WIDTH,HEIGHT). train is the benchmark's train-weaksup, val its train-fullsup. Ids are the
    pictures' paths and the masks' too. Boxes are taken as written, x1 and y1 exclusive, as the benchmark takes them.
    Classes are called like the folders of the training pictures where each has its own, else by their numbers.

    The place is ``METADATA`` or ``METADATA@PICTURES``; without ``@``, METADATA being ``…/metadata/NAME``, the pictures
    and masks are in ``…/dataset/NAME``.
    """
    named, at, pictures = place.partition("@")
    root = Path(named)
    folder = Path(pictures) if at else root.resolve().parent.parent / "dataset" / root.resolve().name
    if not folder.is_dir():
        raise DataError(f"{shown(folder)}: no such folder; name that of the pictures, wsol:METADATA@PICTURES")
    splits = [split for split in _SPLITS if (root / split / "image_ids.txt").is_file()]
    if not splits:
        raise DataError(f"{shown(root)}: has no train/, val/ or test/ with image_ids.txt; name metadata/CUB")
    said = {split: _rows(root / split, errors) for split in splits}
    classes = _classes(said)
    tree = Tree(folder)
    records, seen = [], set[str]()
    for split in splits:
        for where, name in read_lines(root / split / "image_ids.txt"):
            with errors.at(where):
                once(seen, name, "id")
                records.append(_record(tree, name, said[split][name], len(classes), split))
    return Dataset(shown(root.resolve().name), classes, tuple(records))


def _rows(folder: Path, errors: ErrorCollector) -> defaultdict[str, MetadataRows]:
    said: defaultdict[str, MetadataRows] = defaultdict(MetadataRows)
    for where, line in read_lines(folder / "class_labels.txt"):
        name, *fields = line.split(",")
        if len(fields) != 1 or said[name].label:
            errors(f"{where}: {quoted(line)}, expected ID,NUMBER, once for an id")
        said[name].label += fields
    for where, line in _lines_if_there(folder / "image_sizes.txt"):
        name, *fields = line.split(",")
        if len(fields) != 2 or said[name].size:
            errors(f"{where}: {quoted(line)}, expected ID,WIDTH,HEIGHT, once for an id")
        said[name].size += fields
    for _, line in _lines_if_there(folder / "localization.txt"):
        name, *fields = line.split(",")
        said[name].rows.append(fields)
    return said


def _lines_if_there(file: Path) -> list[tuple[str, str]]:
    return read_lines(file) if file.is_file() else []


def _classes(said: dict[str, defaultdict[str, MetadataRows]]) -> tuple[str, ...]:
    """Names of the classes 0, 1, …: of the folders of the first split where each has its own."""
    labels = {rows.label[0] for split in said.values() for rows in split.values() if len(rows.label) == 1}
    numbers = [int(label) for label in labels if label.isascii() and label.isdecimal() and len(label) < 7]
    count = max(numbers, default=-1) + 1
    names: dict[str, set[str]] = defaultdict(set)
    for name, rows in next(iter(said.values())).items():
        if len(rows.label) == 1:
            names[rows.label[0]].add(PurePosixPath(name).parent.name)
    known = [next(iter(names[str(place)])) if len(names[str(place)]) == 1 else "" for place in range(count)]
    return tuple(known) if len(set(known) - {""}) == count else tuple(str(place) for place in range(count))


def _record(tree: Tree, name: str, said: MetadataRows, classes: int, split: str) -> Record:
    if len(said.label) != 1:
        raise BadRecordError(f"{quoted(name)} has {len(said.label)} labels in class_labels.txt, expected one")
    label = whole(said.label[0], "class label")
    if label >= classes:
        raise BadRecordError(f"class label {label} is none of the {classes} classes")
    size_hw = None
    if said.size:
        if len(said.size) != 2:
            raise BadRecordError(f"{quoted(name)} has no proper row in image_sizes.txt")
        size_hw = checked_size(said.size[1], said.size[0])
    truth = Truth(size_hw=size_hw)
    if said.rows and len(said.rows[0]) == 4:
        boxes = boxes_array(_box(row, size_hw) for row in said.rows)
        truth = Truth(boxes, np.full(len(boxes), label, np.int64), size_hw=size_hw)
    elif said.rows:
        truth = _masks(tree, name, said.rows)
    return Record(Example(name, tree.find(name), (label,)), truth, split)


def _box(row: list[str], size_hw: tuple[int, int] | None) -> Box:
    if len(row) != 4:
        raise BadRecordError(f"localization row {quoted(','.join(row))}, expected X0,Y0,X1,Y1")
    x0, y0, x1, y1 = (number(side, "box") for side in row)
    checked_box((x0, y0, x1, y1), size_hw, overhang=1)
    return x0, y0, x1, y1


def _masks(tree: Tree, name: str, rows: list[list[str]]) -> Truth:
    if any(len(row) != 2 or not row[0] or (row[1] and place) for place, row in enumerate(rows)):
        said = "; ".join(",".join(row) for row in rows)
        raise BadRecordError(f"localization rows {quoted(said)}, expected MASK,IGNORE, with IGNORE in the first alone")
    ignore = tree.find(rows[0][1], "ignore mask") if rows[0][1] else None
    return Truth(mask=tuple(tree.find(row[0], "mask") for row in rows), ignore=ignore)
