"""``annotations.csv``: one row a box, masks beside the pictures."""

from __future__ import annotations

import csv
import io
import posixpath
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from camlucida.data.reading import BadRecordError, ErrorCollector, Tree, read_text
from camlucida.data.record import Dataset, Example, Record, Truth
from camlucida.data.values import Box, boxes_array, checked_box, checked_size, number, quoted
from camlucida.errors import DataError
from camlucida.images.picture import shown

_CORNERS = ("x0", "y0", "x1", "y1")


@dataclass
class PictureRows:
    """What the rows of one picture said."""

    line: int
    split: str
    group: str
    size_hw: tuple[int, int] | None = None
    labels: list[str] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    broken: bool = False


def read_csv(place: str, errors: ErrorCollector, *, label: str = "label") -> Dataset:
    """A CSV of one row a box, with its pictures beside it.

    Columns: ``path`` (relative to the file's folder, "/" between parts), ``label`` (or the one asked for); optional
    ``split``, ``group``, ``width`` and ``height``, and ``x0, y0, x1, y1``, a half-open box in pixels, empty where there
    is none; others are passed over. Rows of one path are one picture with several boxes. Where the path begins with
    ``images/``, a PNG of the same name under ``masks/`` is the mask of its objects. A broken row breaks its picture.

    The place is the file, or the folder that holds ``annotations.csv``; ``label`` is the column that names the class.
    """
    path = Path(place)
    file = path / "annotations.csv" if path.is_dir() else path
    rows = csv.DictReader(io.StringIO(read_text(file), newline=""))
    try:
        columns = rows.fieldnames or ()
        for name in ("path", label):
            if name not in columns:
                has = quoted(", ".join(columns))
                raise DataError(f"{shown(file)}:1: has no column {name!r}, only {has}; add it or name another")
        pictures = _gathered(rows, label, set(_CORNERS) <= set(columns), errors, shown(file))
    except csv.Error as error:
        raise DataError(f"{shown(file)}:{rows.line_num}: not readable as CSV ({shown(str(error))}); mend it") from error
    classes = tuple(sorted({name for said in pictures.values() for name in said.labels}))
    ids = {name: index for index, name in enumerate(classes)}
    tree = Tree(file.parent)
    records = []
    for name, said in pictures.items():
        if said.broken:
            continue
        with errors.at(f"{shown(file)}:{said.line}"):
            records.append(_record(tree, name, said, ids))
    return Dataset(shown(file.parent.resolve().name), classes, tuple(records))


def _gathered(
    rows: csv.DictReader[str], label: str, with_boxes: bool, errors: ErrorCollector, file: str
) -> dict[str, PictureRows]:
    """Path -> what its rows say, in the order of the first rows."""
    pictures: dict[str, PictureRows] = {}
    for row in rows:
        name = posixpath.normpath(row["path"] or ".")
        new = PictureRows(rows.line_num, row.get("split") or "", row.get("group") or "")
        said = pictures.setdefault(name, new)
        try:
            _add(said, new, row, label, with_boxes)
        except BadRecordError as error:
            said.broken = True
            errors(f"{file}:{rows.line_num}: {error}")
    return pictures


def _box(row: dict[str, str], size_hw: tuple[int, int] | None) -> Box | None:
    if not any(row[corner] for corner in _CORNERS):
        return None
    return checked_box([number(row[corner], corner) for corner in _CORNERS], size_hw)


def _add(said: PictureRows, new: PictureRows, row: dict[str, str], label: str, with_boxes: bool) -> None:
    """Take in one more row of a picture: the only one, or one with a box of its own."""
    if None in row or None in row.values():
        raise BadRecordError("too few or too many columns; expected as many as in the first line")
    if not row["path"] or not row[label]:
        raise BadRecordError(f"column {'path' if not row['path'] else label!r} is empty")
    if row.get("width") or row.get("height"):
        new.size_hw = checked_size(row.get("height"), row.get("width"))
    box = _box(row, new.size_hw) if with_boxes else None
    if (new.split, new.group, new.size_hw) != (said.split, said.group, said.size_hw):
        raise BadRecordError(f"{quoted(row['path'])} has another split, group or size than in line {said.line}")
    repeated = any(box == one and row[label] == name for one, name in zip(said.boxes, said.labels, strict=False))
    if said.labels and (box is None or not said.boxes or repeated):
        raise BadRecordError(f"{quoted(row['path'])} is there twice, first in line {said.line}")
    said.labels.append(row[label])
    if box is not None:
        said.boxes.append(box)


def _record(tree: Tree, name: str, said: PictureRows, ids: dict[str, int]) -> Record:
    labels = [ids[one] for one in said.labels]
    example = Example(name, tree.find(name), tuple(dict.fromkeys(labels)))
    mask = None
    if name.startswith("images/"):
        beside = "masks/" + posixpath.splitext(name.removeprefix("images/"))[0] + ".png"
        if tree.has(beside):
            mask = tree.find(beside, "mask")
    box_labels = np.array(labels if said.boxes else (), np.int64)
    truth = Truth(boxes_array(said.boxes), box_labels, mask, size_hw=said.size_hw)
    return Record(example, truth, said.split, said.group)
