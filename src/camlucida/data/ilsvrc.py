"""ILSVRC's classification and localization set (Russakovsky et al., IJCV 2015), as it is distributed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from camlucida.data.class_folders import class_pictures
from camlucida.data.reading import BadRecordError, ErrorCollector, Tree
from camlucida.data.record import Dataset, Example, Record, Truth
from camlucida.data.values import boxes_array, quoted
from camlucida.data.voc import read_xml
from camlucida.errors import DataError
from camlucida.images.picture import shown

_DATA, _NOTES = "Data/CLS-LOC", "Annotations/CLS-LOC"


def read_ilsvrc(place: str, errors: ErrorCollector) -> Dataset:
    """ILSVRC: ``Data/CLS-LOC/train/WNID/*.JPEG``, ``Data/CLS-LOC/val/*.JPEG`` and ``Annotations/CLS-LOC/val/*.xml``.

    Classes are the WordNet ids, sorted: the usual numbers 0 to 999. Training pictures have no boxes here. The XML files
    count pixels from 0 and include the last; boxes are half-open here, one pixel larger than the public WSOL
    benchmark takes them (``wsol:``).
    """
    root = Path(place)
    tree = Tree(root)
    found = class_pictures(tree, f"{_DATA}/train", errors)
    notes = tree.listing(f"{_NOTES}/val")
    if not found and not notes:
        raise DataError(f"{shown(root)}: has no {_DATA}/train/ or {_NOTES}/val/; name the folder that holds Data/")
    classes = tuple(sorted(found))
    ids = {name: index for index, name in enumerate(classes)}
    records = [Record(Example(name, root / name, (ids[one],)), split="train") for one in classes for name in found[one]]
    for file in sorted(notes):
        with errors.at(shown(root / _NOTES / "val" / file)):
            records.append(_record(tree, file, ids))
    return Dataset(shown(root.resolve().name), classes, tuple(records))


def _record(tree: Tree, file: str, ids: dict[str, int]) -> Record:
    size_hw, objects = read_xml(tree.find(f"{_NOTES}/val/{file}", "annotation"), first=0)
    names = {one.name for one in objects}
    if len(names) != 1 or not names <= ids.keys():
        raise BadRecordError(f"objects of {quoted(', '.join(sorted(names)))}, expected one class, of those in train/")
    label = ids[objects[0].name]
    name = f"{_DATA}/val/{Path(file).stem}.JPEG"
    boxes = boxes_array(one.box for one in objects)
    truth = Truth(boxes, np.full(len(boxes), label, np.int64), size_hw=size_hw)
    return Record(Example(name, tree.find(name), (label,)), truth, "val")
