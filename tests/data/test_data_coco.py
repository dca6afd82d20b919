"""COCO's instances: boxes, polygons, run lengths, crowds."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest

import trees
from camlucida.data import open_dataset
from camlucida.data.reading import BadRecordError
from camlucida.data.segments import polygon_mask, run_lengths, run_mask
from camlucida.errors import DataError

GOOD = {
    "images": [
        {"id": 7, "file_name": "b.png", "height": 6, "width": 8},
        {"id": 3, "file_name": "a.png", "height": 6, "width": 8},
        {"id": 4, "file_name": "c.png", "height": 6, "width": 8},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "iscrowd": 0, "bbox": [1, 1, 2.5, 3],
         "segmentation": [[1, 1, 3.5, 1, 3.5, 4, 1, 4]]},
        {"id": 2, "image_id": 7, "category_id": 2, "iscrowd": 0, "bbox": [6, 4, 2.3, 2],
         "segmentation": {"size": [6, 8], "counts": [40, 2, 6]}},
        {"id": 3, "image_id": 7, "category_id": 5, "iscrowd": 1, "bbox": [0, 0, 2, 6],
         "segmentation": {"size": [6, 8], "counts": [0, 12, 36]}},
        {"id": 4, "image_id": 3, "category_id": 2, "iscrowd": 0, "bbox": [0, 0, 8, 6]},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "bicycle"}, {"id": 5, "name": "crowd"}],
}  # fmt: skip


@pytest.fixture
def tree(tmp_path):
    for name in ("a", "b", "c"):
        trees.picture(tmp_path / "images" / "val" / f"{name}.png")
    put(tmp_path, GOOD)
    return tmp_path


def put(tree, data):
    (tree / "annotations").mkdir(exist_ok=True)
    (tree / "annotations" / "instances_val.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("source", "before"),
    [
        ("coco:{}/annotations/instances_val.json", ""),
        ("coco:{0}/annotations/instances_val.json@{0}/images/val", ""),
        ("{}/annotations/instances_val.json", ""),
        ("coco:{}", "images/val/"),
        ("{}", "images/val/"),
    ],
)
def test_records(tree, source, before):
    dataset = open_dataset(source.format(tree))
    assert dataset.classes == ("bicycle", "crowd", "dog")
    assert trees.rows(dataset) == [
        (f"{before}b.png", (0, 1, 2), "val", [[1, 1, 3.5, 4], [6, 4, 8, 6]], [2, 0]),
        (f"{before}a.png", (0,), "val", [[0, 0, 8, 6]], [0]),
        (f"{before}c.png", (), "val", [], []),
    ]
    assert [example.path for example in dataset.examples] == [tree / "images" / "val" / f"{name}.png" for name in "bac"]
    mask, ignore = dataset.records[0].truth.masks_at((6, 8))
    expected = ["........", ".##.....", ".##.....", ".##.....", "......#.", "......#."]
    np.testing.assert_array_equal(mask, trees.drawn(expected))
    np.testing.assert_array_equal(
        ignore, trees.drawn(["##......", "#.......", "#.......", "#.......", *["##......"] * 2])
    )
    assert dataset.records[1].truth.mask is None  # a box without an outline: the pixels are not known
    mask, ignore = dataset.records[2].truth.masks_at((6, 8))
    assert not mask.any()
    assert ignore is None


def test_several_files_are_splits(tree):
    trees.picture(tree / "train" / "a.png")
    data = {**GOOD, "images": [{"id": 1, "file_name": "a.png", "height": 6, "width": 8}], "annotations": []}
    (tree / "annotations" / "instances_train.json").write_text(json.dumps(data))
    dataset = open_dataset(tree)
    assert dataset.splits == ("train", "val")
    assert [one.id for one in dataset.examples] == ["train/a.png", *(f"images/val/{name}.png" for name in "bac")]
    data["categories"] = GOOD["categories"][:1]
    (tree / "annotations" / "instances_train.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"instances_val\.json: other categories than .*instances_train\.json"):
        open_dataset(tree)


@pytest.mark.parametrize(
    ("part", "place", "change", "message"),
    [
        ("images", 1, {"file_name": "d.png"}, r"image 3: no picture d\.png in .*images/val"),
        ("images", 1, {"file_name": "../../secret.png"}, r"image 3: \.\./\.\./ leads out of"),
        ("images", 1, {"file_name": "/etc/passwd"}, "image 3: /etc/ leads out of"),
        ("images", 1, {"file_name": None}, "image 3: expected an object with id, file_name, height and width"),
        ("images", 1, {"file_name": "b.png"}, r"image 3: an image of file 'b\.png' is there twice"),
        ("images", 1, {"id": 7}, "image 7: 2 images have this id; give each its own"),
        ("images", 1, {"id": "three"}, "image number 1: expected an object with id"),
        ("images", 1, {"height": 0}, "image 3: height is 0, expected a whole number of at least 1"),
        ("images", 1, {"width": float("nan")}, "image 3: width is nan, expected a finite number"),
        ("annotations", 3, {"image_id": 99}, "annotation number 3: image_id is 99, which is no image's id"),
        ("annotations", 3, {"image_id": [7]}, r"annotation number 3: image_id is \[7\]"),
        ("annotations", 3, {"category_id": 1}, "image 3: annotation 4: category_id is 1, which is no category's id"),
        ("annotations", 3, {"bbox": [0, 0, 8]}, r"annotation 4: bbox is \[0, 0, 8\], expected x, y, width, height"),
        ("annotations", 3, {"bbox": [0, 0, -1, 6]}, "annotation 4: box 0 0 -1 6 is inverted or empty"),
        ("annotations", 3, {"bbox": [0, 0, 9.5, 6]}, "annotation 4: box 0 0 9.5 6 reaches out of the picture of 8×6"),
        ("annotations", 3, {"bbox": [8, 0, 0.5, 6]}, "annotation 4: box 8 0 8.5 6 has nothing in the picture"),
        ("annotations", 3, {"bbox": [0, float("inf"), 1, 1]}, "annotation 4: bbox is inf, expected a finite number"),
        ("annotations", 3, {"bbox": [0, True, 1, 1]}, "annotation 4: bbox is True, expected a finite number"),
        ("annotations", 3, {"segmentation": [[0, 0, 1, 1]]}, "annotation 4: polygon .* at least three points"),
        ("annotations", 3, {"segmentation": [[0, 0, 1, 1, 2]]}, "annotation 4: polygon"),
        ("annotations", 3, {"segmentation": [[0, 0, 1, 1, 2, float("nan")]]}, "annotation 4: polygon"),
        ("annotations", 3, {"segmentation": ["abcdef"]}, "annotation 4: polygon 'abcdef'"),
        ("annotations", 3, {"segmentation": "0 0"}, "annotation 4: segmentation is '0 0', expected polygons"),
        (
            "annotations",
            3,
            {"segmentation": {"size": [8, 6], "counts": [48]}},
            r"run lengths for size \[8, 6\], its pic",
        ),
        ("annotations", 3, {"segmentation": {"size": [6, 8], "counts": [47]}}, "add up to 47, expected 6 × 8"),
        ("annotations", 3, {"segmentation": {"size": [6, 8], "counts": [-1, 49]}}, "add up to 48, expected 6 × 8"),
        ("annotations", 3, {"segmentation": {"size": [6, 8], "counts": "é"}}, "not COCO's compressed"),
        ("annotations", 3, {"segmentation": {"size": [6, 8], "counts": 3}}, "counts are 3, expected whole numbers"),
    ],
)
def test_broken_records_are_named(tree, part, place, change, message):
    data = copy.deepcopy(GOOD)
    data[part][place].update(change)
    put(tree, data)
    dataset, heard = trees.skipping(tree)
    assert heard[0].startswith(f"{tree}/annotations/instances_val.json: ")
    assert any(re.search(message, one) for one in heard)
    assert len(dataset.records) == (1 if change == {"id": 7} else 3 if "image_id" in change else 2)
    with pytest.raises(DataError, match="mend it, or skip broken records"):
        open_dataset(tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"instances_val\.json: no JSON \(Expecting"),
        ("[" * 100_000, r"instances_val\.json: no JSON"),
        ("[]", "expected an object with lists images, annotations, categories"),
        ('{"images": [], "annotations": {}, "categories": []}', "expected an object with lists"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "category .* needs a whole id and a name"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}',
            "share an",
        ),
        (json.dumps({**GOOD, "images": [{"id": 1, "file_name": "none.png"}]}), "its pictures are in none of"),
    ],
)
def test_files_that_are_no_instances_are_refused(tree, text, message):
    (tree / "annotations" / "instances_val.json").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset(tree)
    with pytest.raises(DataError, match=r"has no annotations/instances_\*\.json"):
        open_dataset(f"coco:{tree}/images")


def compressed(runs):
    """COCO's text, from its definition: written independently of the reader."""
    text = ""
    for place, run in enumerate(runs):
        rest = run - runs[place - 2] if place > 2 else run
        while True:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text


def test_compressed_run_lengths(rng):
    for _ in range(50):
        height, width = rng.integers(1, 60, 2)
        mask = rng.random((height, width)) < rng.random()
        flat = mask.T.reshape(-1)
        turns = np.flatnonzero(np.diff(flat, prepend=False))
        runs = np.diff([0, *turns, flat.size]).tolist()
        for counts in (runs, compressed(runs)):
            np.testing.assert_array_equal(run_mask(run_lengths(counts, (height, width)), (height, width)), mask)
    with pytest.raises(BadRecordError, match="cut short"):
        run_lengths(compressed([1000, 24])[:2], (32, 32))
    with pytest.raises(BadRecordError, match="not COCO's compressed run lengths"):
        run_lengths("o" * 100, (32, 32))


def test_a_text_known_from_coco_itself():
    # 6 × 8, from the tool's own documentation of its coding: 6, 1, 40, 4, 5, 4, 5, 4, 21 in 9 × 10 pixels.
    assert run_lengths("61X13mN000`0", (9, 10)).tolist() == [6, 1, 40, 4, 5, 4, 5, 4, 21]


def inside(polygon, x, y):
    """Even-odd rule for one point: the number of edges that a ray to the left crosses."""
    crossed = False
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) < x:
            crossed = not crossed
    return crossed


def test_polygons_are_filled_at_the_centres_of_pixels(rng):
    for corners in (3, 4, 7, 12):
        polygon = rng.uniform(-5, 25, (corners, 2))
        other = rng.uniform(0, 12, (3, 2))
        expected = [
            [inside(polygon, x + 0.5, y + 0.5) or inside(other, x + 0.5, y + 0.5) for x in range(20)] for y in range(15)
        ]
        np.testing.assert_array_equal(polygon_mask([polygon, other], (15, 20)), expected)
    box = np.array([[2.0, 1], [5, 1], [5, 3], [2, 3]])
    assert np.argwhere(polygon_mask([box], (4, 6))).tolist() == [[1, 2], [1, 3], [1, 4], [2, 2], [2, 3], [2, 4]]
    assert not polygon_mask([box + 100], (4, 6)).any()
