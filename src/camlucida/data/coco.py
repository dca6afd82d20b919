"""COCO's instances files."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.data.reading import BadRecordError, ErrorCollector, Tree, read_text
from camlucida.data.record import Dataset, Example, Record, Truth
from camlucida.data.segments import segments_mask, segments_of
from camlucida.data.values import Box, boxes_array, checked_box, checked_size, number, once, quoted
from camlucida.errors import DataError
from camlucida.images.picture import shown

Note = dict[str, Any]


def read_coco(place: str, errors: ErrorCollector) -> Dataset:
    """Instances in COCO's JSON: one file, or a folder with ``annotations/instances_SPLIT.json``.

    A picture has the labels of all its annotations; ``iscrowd`` ones have no box, and their pixels are ignored. Boxes
    may reach out of the picture by one pixel (COCO rounds) and are cut. Masks are filled at the pixels' centres, which
    differs from COCO's own drawing along the outlines. Classes are in the order of their ids. A broken annotation
    breaks its picture; files that differ in their classes are refused.

    The place is ``FILE.json``, ``FILE.json@PICTURES`` or a folder. Without ``@`` the pictures are looked for in
    ``SPLIT/``, ``images/SPLIT/`` and ``images/`` beside the file's folder, in ``images/`` beside the file, and beside
    the file.
    """
    named, at, pictures = place.rpartition("@") if ".json@" in place else (place, "", "")
    root = Path(named)
    files = sorted(root.glob("annotations/instances_*.json")) if root.is_dir() else [root]
    if not files:
        raise DataError(f"{shown(root)}: has no annotations/instances_*.json; name the file")
    datasets = [_read_file(file, Path(pictures) if at else None, root, errors) for file in files]
    for file, dataset in zip(files, datasets, strict=True):
        if dataset.classes != datasets[0].classes:
            raise DataError(f"{shown(file)}: other categories than {shown(files[0])}; open one of them alone")
    records = (record for dataset in datasets for record in dataset.records)
    return Dataset(shown(root.stem), datasets[0].classes, tuple(records))


def _read_file(file: Path, pictures: Path | None, root: Path, errors: ErrorCollector) -> Dataset:
    name = shown(file)
    data = _parsed(file)
    names: dict[int, str] = {}
    for category in data["categories"]:
        key = _key(category)
        if key is None or not isinstance(category.get("name"), str):
            raise DataError(f"{name}: category {quoted(category)} needs a whole id and a name; mend it")
        names[key] = category["name"]
    if len(set(names.values())) < len(data["categories"]):
        raise DataError(f"{name}: categories share an id or a name; give each its own")
    classes = {key: index for index, key in enumerate(sorted(names))}
    split = file.stem.removeprefix("instances_")
    folder = pictures or _folder(file, split, data["images"])
    tree = Tree(folder)
    before = f"{folder.relative_to(root).as_posix()}/" if root.is_dir() and folder.is_relative_to(root) else ""
    ids = Counter(_key(image) for image in data["images"])
    notes = _by_picture(data["annotations"], ids, errors, name)
    records, files = [], set[str]()
    for place, image in enumerate(data["images"]):
        key = _key(image)
        with errors.at(f"{name}: image {f'number {place}' if key is None else key}"):
            _check_alone(image, ids, files)
            example, truth = _record(tree, image, notes[key], classes)
            records.append(Record(replace(example, id=before + example.id), truth, split))
    return Dataset(name, tuple(names[key] for key in sorted(names)), tuple(records))


def _parsed(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shown(file)}: no JSON ({shown(str(error))}); fetch it again") from error
    parts = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(isinstance(data.get(part), list) for part in parts):
        raise DataError(f"{shown(file)}: expected an object with lists {', '.join(parts)}; name an instances file")
    return data


def _folder(file: Path, split: str, images: list[Any]) -> Path:
    """The folder that holds the first picture that is there at all."""
    above = file.parent.parent
    folders = [above / split, above / "images" / split, above / "images", file.parent / "images", file.parent]
    names = [image["file_name"] for image in images[:20] if isinstance(image, dict) and image.get("file_name")]
    for folder in folders:
        tree = Tree(folder)
        for name in names:
            with suppress(BadRecordError):
                tree.find(str(name))
                return folder
    tried = ", ".join(shown(folder) for folder in folders)
    raise DataError(f"{shown(file)}: its pictures are in none of {tried}; name their folder, FILE.json@PICTURES")


def _key(image: object) -> int | None:
    """The id of an image or category, if it has a proper one."""
    key = image.get("id") if isinstance(image, dict) else None
    return key if type(key) is int else None


def _by_picture(
    notes: list[Any], ids: Counter[int | None], errors: ErrorCollector, name: str
) -> defaultdict[int | None, list[Note]]:
    by_picture: defaultdict[int | None, list[Note]] = defaultdict(list)
    for place, note in enumerate(notes):
        image = note.get("image_id") if isinstance(note, dict) else None
        if type(image) is int and image in ids:
            by_picture[image].append(note)
        else:
            errors(f"{name}: annotation number {place}: image_id is {quoted(image)}, which is no image's id")
    return by_picture


def _check_alone(image: object, ids: Counter[int | None], files: set[str]) -> None:
    """Check that an image has an id and a file, and shares neither with another."""
    if not isinstance(image, dict) or _key(image) is None or not isinstance(image.get("file_name"), str):
        raise BadRecordError("expected an object with id, file_name, height and width")
    if ids[_key(image)] > 1:
        raise BadRecordError(f"{ids[_key(image)]} images have this id; give each its own")
    once(files, image["file_name"], "an image of file")


def _record(tree: Tree, image: dict[str, Any], notes: Iterable[Note], classes: dict[int, int]) -> tuple[Example, Truth]:
    size_hw = checked_size(image.get("height"), image.get("width"))
    boxes, box_labels, labels = [], [], set()
    objects: list[NDArray[Any]] = []
    crowds: list[NDArray[Any]] = []
    unknown = False
    for note in notes:
        try:
            label = _label(note.get("category_id"), classes)
            labels.add(label)
            segments = segments_of(note.get("segmentation"), size_hw)
            if note.get("iscrowd") == 1:
                crowds += segments
            else:
                objects += segments
                unknown |= not segments
                boxes.append(_box(note.get("bbox"), size_hw))
                box_labels.append(label)
        except BadRecordError as error:
            raise BadRecordError(f"annotation {quoted(note.get('id'))}: {error}") from error
    example = Example(image["file_name"], tree.find(image["file_name"]), tuple(sorted(labels)))
    truth = Truth(
        boxes_array(boxes),
        np.array(box_labels, np.int64),
        None if unknown else partial(segments_mask, objects, size_hw),
        partial(segments_mask, crowds, size_hw) if crowds else None,
        size_hw,
    )
    return example, truth


def _label(category: object, classes: dict[int, int]) -> int:
    if type(category) is not int or category not in classes:
        raise BadRecordError(f"category_id is {quoted(category)}, which is no category's id")
    return classes[category]


def _box(bbox: object, size_hw: tuple[int, int]) -> Box:
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise BadRecordError(f"bbox is {quoted(bbox)}, expected x, y, width, height")
    x, y, width, height = (number(value, "bbox") for value in bbox)
    return checked_box((x, y, x + width, y + height), size_hw, overhang=1)
