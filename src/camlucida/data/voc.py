"""PASCAL VOC, and its XML files of one picture each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from camlucida.data.reading import BadRecordError, ErrorCollector, Tree, read_lines, read_text
from camlucida.data.record import Dataset, Example, Record, Truth
from camlucida.data.values import Box, boxes_array, checked_box, checked_size, number, once
from camlucida.errors import DataError
from camlucida.images.picture import read, shown

MAX_XML_BYTES = 4 * 2**20
"""Largest XML file of one picture read, in bytes."""

_VOID = (224, 224, 192)
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Object:
    """One object of an XML file: its class, its half-open xyxy box in pixels, and whether it is called difficult."""

    name: str
    box: Box
    difficult: bool


def read_voc(place: str, errors: ErrorCollector) -> Dataset:
    """PASCAL VOC: ``JPEGImages/``, ``Annotations/``, and where there ``ImageSets/Main/``, ``SegmentationClass/``.

    Boxes are 1-based and inclusive in the files, half-open here. Objects called difficult give no box and no label;
    their boxes are ignored pixels. The lists train, val and test are the splits; where there is none of them, trainval
    is; where there is no list, every annotated picture is taken, without a split. Classes are sorted by name.
    """
    root = Path(place)
    tree = Tree(root)
    found = []
    for where, name, split in _listed(root, tree):
        with errors.at(where):
            path = tree.find(f"Annotations/{name}.xml", "annotation")
            found.append((path, name, split, *read_xml(path, first=1)))
    classes = tuple(sorted({one.name for *_, objects in found for one in objects}))
    ids = {name: index for index, name in enumerate(classes)}
    records, seen = [], set[str]()
    for path, name, split, size_hw, objects in found:
        with errors.at(shown(path)):
            once(seen, name, "picture")
            records.append(_record(tree, name, split, size_hw, objects, ids))
    return Dataset(shown(root.resolve().name), classes, tuple(records))


def read_xml(path: Path, first: int) -> tuple[tuple[int, int], tuple[Object, ...]]:
    """One picture's size (height first) and objects. Document types are refused, so that no entity is ever expanded.

    Args:
        path: the file.
        first: the number of the first pixel: 1 in PASCAL VOC, 0 in ILSVRC. The boxes include their last pixel; they may
            reach out of the picture by one pixel and are cut.

    Raises:
        BadRecordError: it is no such XML, or its numbers are not right.
    """
    name = shown(path.name)
    top = _parsed(path, name)
    size_hw = checked_size(top.findtext("size/height"), top.findtext("size/width"))
    objects = []
    for one in top.findall("object"):
        kind, corners = one.findtext("name"), one.find("bndbox")
        if not kind or corners is None:
            raise BadRecordError(f"{name} has an object without a name or bndbox")
        x0, y0, x1, y1 = (number(corners.findtext(side), side) for side in ("xmin", "ymin", "xmax", "ymax"))
        box = checked_box((x0 - first, y0 - first, x1 - first + 1, y1 - first + 1), size_hw, overhang=1)
        objects.append(Object(kind, box, one.findtext("difficult") == "1"))
    return size_hw, tuple(objects)


def _parsed(path: Path, name: str) -> ET.Element:
    try:
        text = read_text(path, MAX_XML_BYTES)
        top = None if "<!DOCTYPE" in text else ET.fromstring(text)
    except (ET.ParseError, ValueError, DataError) as error:
        raise BadRecordError(f"{name} is no XML ({shown(str(error))})") from error
    if top is None:
        raise BadRecordError(f"{name} has a document type; take it out")
    return top


def _listed(root: Path, tree: Tree) -> list[tuple[str, str, str]]:
    """Where a picture is listed, its name, and its split."""
    lists = tree.listing("ImageSets/Main")
    splits = [name for name in _SPLITS if f"{name}.txt" in lists] or ["trainval"] * ("trainval.txt" in lists)
    if splits:
        return [
            (where, line.split()[0], split)
            for split in splits
            for where, line in read_lines(root / "ImageSets" / "Main" / f"{split}.txt")
        ]
    names = sorted(name for name in tree.listing("Annotations") if name.endswith(".xml"))
    if not names:
        raise DataError(f"{shown(root)}: has no Annotations/*.xml; name the folder that holds Annotations/")
    return [(shown(root / "Annotations" / name), name.removesuffix(".xml"), "") for name in names]


def _record(
    tree: Tree, name: str, split: str, size_hw: tuple[int, int], objects: tuple[Object, ...], ids: dict[str, int]
) -> Record:
    picture = f"JPEGImages/{name}.jpg"
    clear = [one for one in objects if not one.difficult]
    labels = [ids[one.name] for one in clear]
    difficult = tuple(one.box for one in objects if one.difficult)
    segmentation = f"SegmentationClass/{name}.png"
    path = tree.find(segmentation, "mask") if tree.has(segmentation) else None
    truth = Truth(
        boxes_array(one.box for one in clear),
        np.array(labels, np.int64),
        partial(_objects, path) if path else None,
        partial(_ignored, difficult, size_hw, path) if difficult or path else None,
        size_hw,
    )
    return Record(Example(picture, tree.find(picture), tuple(sorted(set(labels)))), truth, split)


def _void(path: Path) -> NDArray[np.bool_]:
    """The void pixels of a coloured segmentation."""
    void: NDArray[np.bool_] = (read(path).pixels == _VOID).all(2)
    return void


def _objects(path: Path) -> NDArray[np.bool_]:
    """The objects of a coloured segmentation (palette colours, black is background)."""
    pixels = read(path).pixels
    objects: NDArray[np.bool_] = (pixels > 0).any(2) & (pixels != _VOID).any(2)
    return objects


def _ignored(boxes: tuple[Box, ...], size_hw: tuple[int, int], segmentation: Path | None) -> NDArray[np.bool_]:
    """The pixels in boxes (where their centres are), and the void ones of a segmentation."""
    mask = np.zeros(size_hw, np.bool_) if segmentation is None else _void(segmentation)
    for box in boxes:
        x0, y0, x1, y1 = (round(side) for side in box)
        mask[y0:y1, x0:x1] = True
    return mask
