"""PASCAL VOC and ILSVRC: XML files of one picture each."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import trees
from camlucida.data import open_dataset
from camlucida.errors import DataError


def xml(*objects, width=8, height=6):
    body = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box, difficult in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f'<?xml version="1.0"?><annotation>{size}{body}</annotation>'


@pytest.fixture
def tree(tmp_path):
    for name in ("a", "b", "c"):
        trees.picture(tmp_path / "JPEGImages" / f"{name}.jpg")
    notes = tmp_path / "Annotations"
    trees.write(notes / "a.xml", xml(("dog", (1, 1, 8, 6), 0), ("cat", (2, 3, 4, 5), 0), ("dog", (5, 5, 6, 6), 1)))
    trees.write(notes / "b.xml", xml(("cat", (3, 3, 3, 3), 0)))
    trees.write(notes / "c.xml", xml())
    trees.write(tmp_path / "ImageSets" / "Main" / "train.txt", "b\nc")
    trees.write(tmp_path / "ImageSets" / "Main" / "val.txt", "a")
    trees.write(tmp_path / "ImageSets" / "Main" / "trainval.txt", "a\nb\nc")
    trees.write(tmp_path / "ImageSets" / "Main" / "cat_train.txt", "b  1\nc -1")
    return tmp_path


@pytest.mark.parametrize("source", ["voc:{}", "{}"])
def test_records(tree, source):
    dataset = open_dataset(source.format(tree))
    assert dataset.classes == ("cat", "dog")
    assert trees.rows(dataset) == [
        ("JPEGImages/b.jpg", (0,), "train", [[2, 2, 3, 3]], [0]),
        ("JPEGImages/c.jpg", (), "train", [], []),
        ("JPEGImages/a.jpg", (0, 1), "val", [[0, 0, 8, 6], [1, 2, 4, 5]], [1, 0]),
    ]
    truth = dataset.records[2].truth
    mask, ignore = truth.masks_at((6, 8))
    assert mask is None
    np.testing.assert_array_equal(ignore, trees.drawn([*["........"] * 4, "....##..", "....##.."]))
    assert dataset.records[0].truth.ignore is None
    assert truth.size_hw == (6, 8)


def test_segmentations(tree):
    colours = Image.new("P", (8, 6))
    colours.putpalette([0, 0, 0, 128, 0, 0, *[7] * (3 * 253), 224, 224, 192])
    pixels = np.zeros((6, 8), np.uint8)
    pixels[1:3, 1:4], pixels[0, :], pixels[4, 4] = 1, 255, 9
    colours.putdata(pixels.reshape(-1).tolist())
    (tree / "SegmentationClass").mkdir()
    colours.save(tree / "SegmentationClass" / "a.png")
    mask, ignore = open_dataset(tree).records[2].truth.masks_at((6, 8))
    np.testing.assert_array_equal(
        mask, trees.drawn(["........", ".###....", ".###....", "........", "....#...", "........"])
    )
    np.testing.assert_array_equal(ignore, trees.drawn(["########", *["........"] * 3, ".....#..", "....##.."]))


def test_lists_choose_the_pictures(tree):
    for name in ("train", "val"):
        (tree / "ImageSets" / "Main" / f"{name}.txt").unlink()
    assert [record.split for record in open_dataset(tree).records] == ["trainval"] * 3
    (tree / "ImageSets" / "Main" / "trainval.txt").unlink()
    assert [row[0] + row[2] for row in trees.rows(open_dataset(tree))] == [f"JPEGImages/{name}.jpg" for name in "abc"]


BOMB = '<!DOCTYPE b [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"val\.txt:2: no annotation Annotations/d\.xml in"),
        ("<annotation>", r"val\.txt:2: d\.xml is no XML \(no element found"),
        (BOMB, r"val\.txt:2: d\.xml has a document type; take it out"),
        (BOMB.encode("utf-16"), r"val\.txt:2: d\.xml is no XML \(.*not UTF-8"),
        (b"<annotation>" + b" " * 5_000_000, r"d\.xml is no XML \(.*more than the limit of 4194304 bytes"),
        ("<annotation/>", "height is None, expected a finite number"),
        (xml(("cat", (1, 1, 10, 6), 0)), r"box 0 0 10 6 reaches out of the picture of 8×6 pixels"),
        (xml(("cat", (5, 1, 4, 6), 0)), "box 4 0 4 6 is inverted or empty"),
        (xml(("cat", ("nan", 1, 4, 6), 0)), "xmin is 'nan', expected a finite number"),
        (xml(("", (1, 1, 4, 6), 0)), "has an object without a name or bndbox"),
        (xml(("cat", (1, 1, 4, 6), 0), width=-8), "width is '-8', expected a whole number of at least 1"),
        (xml(("cat", (1, 1, 4, 6), 0)), r"Annotations/d\.xml: no picture JPEGImages/d\.jpg in"),
    ],
)
def test_broken_records_are_named(tree, text, message):
    trees.write(tree / "ImageSets" / "Main" / "val.txt", "a\nd")
    if text is not None:
        (tree / "Annotations" / "d.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    dataset, heard = trees.skipping(tree)
    assert len(heard) == 1
    assert [example.id for example in dataset.examples] == [f"JPEGImages/{name}.jpg" for name in "bca"]
    with pytest.raises(DataError, match=message):
        open_dataset(tree)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b", r"Annotations/b\.xml: picture 'b' is there twice"),
        ("../../secret", r"val\.txt:2: Annotations/\.\./\.\./ leads out of"),
    ],
)
def test_broken_lists_are_named(tree, line, message):
    trees.write(tree / "ImageSets" / "Main" / "val.txt", f"a\n{line}")
    assert len(trees.skipping(tree)[0].records) == 3
    with pytest.raises(DataError, match=message):
        open_dataset(tree)


def test_a_folder_without_annotations_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no Annotations/\*\.xml; name the folder that holds Annotations/"):
        open_dataset(f"voc:{tmp_path}")


# --- ILSVRC -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ilsvrc(tmp_path):
    for name in ("train/n02/n02_1", "train/n01/n01_5", "val/V_1", "val/V_2"):
        trees.picture(tmp_path / "Data" / "CLS-LOC" / f"{name}.jpeg")
        (tmp_path / "Data" / "CLS-LOC" / f"{name}.jpeg").rename(tmp_path / "Data" / "CLS-LOC" / f"{name}.JPEG")
    notes = tmp_path / "Annotations" / "CLS-LOC" / "val"
    trees.write(notes / "V_1.xml", xml(("n02", (0, 1, 7, 5), 0)))
    trees.write(notes / "V_2.xml", xml(("n01", (2, 2, 3, 3), 0), ("n01", (5, 0, 8, 2), 0)))
    return tmp_path


@pytest.mark.parametrize("source", ["ilsvrc:{}", "{}"])
def test_ilsvrc(ilsvrc, source):
    dataset = open_dataset(source.format(ilsvrc))
    assert dataset.classes == ("n01", "n02")
    assert trees.rows(dataset) == [
        ("Data/CLS-LOC/train/n01/n01_5.JPEG", (0,), "train", [], []),
        ("Data/CLS-LOC/train/n02/n02_1.JPEG", (1,), "train", [], []),
        ("Data/CLS-LOC/val/V_1.JPEG", (1,), "val", [[0, 1, 8, 6]], [1]),
        ("Data/CLS-LOC/val/V_2.JPEG", (0,), "val", [[2, 2, 4, 4], [5, 0, 8, 3]], [0, 0]),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (xml(("n03", (0, 0, 1, 1), 0)), r"val/V_3\.xml: objects of 'n03', expected one class, of those in train/"),
        (xml(("n01", (0, 0, 1, 1), 0), ("n02", (0, 0, 1, 1), 0)), "objects of 'n01, n02', expected one class"),
        (xml(), "objects of '', expected one class"),
        (xml(("n01", (0, 0, 1, 1), 0)), r"V_3\.xml: no picture Data/CLS-LOC/val/V_3\.JPEG in"),
        ("", r"V_3\.xml: V_3\.xml is no XML"),
    ],
)
def test_broken_ilsvrc_records_are_named(ilsvrc, text, message):
    (ilsvrc / "Annotations" / "CLS-LOC" / "val" / "V_3.xml").write_text(text)
    dataset, heard = trees.skipping(ilsvrc)
    assert (len(dataset.records), len(heard)) == (4, 1)
    with pytest.raises(DataError, match=message):
        open_dataset(ilsvrc)


def test_a_folder_that_is_no_ilsvrc_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no Data/CLS-LOC/train/ or Annotations/CLS-LOC/val/"):
        open_dataset(f"ilsvrc:{tmp_path}")
