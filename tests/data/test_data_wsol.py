"""CUB-200-2011 as distributed, and the public WSOL benchmark's metadata."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

import trees
from camlucida.data import open_dataset
from camlucida.errors import DataError

# --- CUB-200-2011 -----------------------------------------------------------------------------------------------------

TABLES = {
    "classes": "1 001.Albatross\n2 002.Auklet",
    "images": "1 002.Auklet/a.jpg\n2 001.Albatross/b.jpg\n10 001.Albatross/c.jpg",
    "image_class_labels": "1 2\n2 1\n10 1",
    "train_test_split": "1 0\n2 1\n10 1",
    "bounding_boxes": "1 1.0 2.0 3.0 4.0\n2 0.0 0.0 8.0 6.0\n10 2.5 2.5 1.0 1.0",
}


@pytest.fixture
def cub(tmp_path):
    for name, text in TABLES.items():
        trees.write(tmp_path / f"{name}.txt", text)
    for name in ("002.Auklet/a", "001.Albatross/b", "001.Albatross/c"):
        trees.picture(tmp_path / "images" / f"{name}.jpg")
    return tmp_path


@pytest.mark.parametrize("source", ["cub:{}", "{}"])
def test_cub(cub, source):
    folder = cub / "segmentations" / "001.Albatross"
    folder.mkdir(parents=True)
    Image.fromarray(np.repeat(np.array([[0, 51, 102, 127, 128, 153, 204, 255]], np.uint8), 6, 0)).save(folder / "b.png")
    dataset = open_dataset(source.format(cub))
    assert dataset.classes == ("001.Albatross", "002.Auklet")
    assert trees.rows(dataset) == [
        ("002.Auklet/a.jpg", (1,), "test", [[1, 2, 4, 6]], [1]),
        ("001.Albatross/b.jpg", (0,), "train", [[0, 0, 8, 6]], [0]),
        ("001.Albatross/c.jpg", (0,), "train", [[2.5, 2.5, 3.5, 3.5]], [0]),
    ]
    assert dataset.examples[0].path == cub / "images" / "002.Auklet" / "a.jpg"
    assert [record.truth.mask is None for record in dataset.records] == [True, False, True]
    np.testing.assert_array_equal(dataset.records[1].truth.masks_at((6, 8))[0], trees.drawn(["....####"] * 6))


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ("images", "11 001.Albatross/d.jpg", r"images\.txt:4: no picture images/001\.Albatross/d\.jpg in"),
        ("images", "11 ../../d.jpg", r"images\.txt:4: images/\.\./\.\./ leads out of"),
        ("images", "11", r"images\.txt:4: '11', expected an id of its own, a space and more"),
        ("images", "10 001.Albatross/b.jpg", r"images\.txt:4: '10 001\.Albatross/b\.jpg', expected an id of its own"),
        ("images", "11 001.Albatross/b.jpg", r"images\.txt:4: picture '001\.Albatross/b\.jpg' is there twice"),
        ("images", "12 001.Albatross/e.jpg", r"images\.txt:4: id '12' is not in image_class_labels\.txt"),
        ("image_class_labels", "13 1", r"images\.txt:4: id '13' is not in train_test_split\.txt"),
        ("image_class_labels", "11 3", r"images\.txt:4: class '3' is not in classes\.txt"),
        ("train_test_split", "11 2", r"images\.txt:4: train_test_split\.txt says '2', expected 0 or 1"),
        ("bounding_boxes", "11 1 2 3", r"images\.txt:4: bounding_boxes\.txt says '1 2 3', expected x y width height"),
        ("bounding_boxes", "11 1 2 3 nan", r"images\.txt:4: bounding box is 'nan', expected a finite number"),
        ("bounding_boxes", "11 1 2 0 4", r"images\.txt:4: box 1 2 1 6 is inverted or empty"),
        ("bounding_boxes", "11 -1 2 3 4", r"images\.txt:4: box -1 2 2 6 reaches out of the picture"),
    ],
)
def test_broken_cub_records_are_named(cub, table, line, message):
    trees.picture(cub / "images" / "001.Albatross" / "e.jpg")
    more = {"image_class_labels": "11 1", "train_test_split": "11 1", "bounding_boxes": "11 0 0 8 6"}
    more |= {"images": "13 001.Albatross/e.jpg" if line.startswith("13") else "11 001.Albatross/e.jpg", table: line}
    for name, extra in more.items():
        trees.write(cub / f"{name}.txt", f"{TABLES[name]}\n{extra}")
    dataset, heard = trees.skipping(cub)
    assert (len(dataset.records), len(heard)) == (3, 1)
    with pytest.raises(DataError, match=message):
        open_dataset(cub)


def test_cub_needs_its_tables(cub):
    (cub / "train_test_split.txt").unlink()
    with pytest.raises(DataError, match=r"train_test_split\.txt: no such file"):
        open_dataset(cub)


# --- the benchmark's metadata -----------------------------------------------------------------------------------------


@pytest.fixture
def boxed(tmp_path):
    """The layout of CUB: boxes and sizes in all splits."""
    for name in ("001.A/a", "001.A/b", "002.B/c", "002.B/d"):
        trees.picture(tmp_path / "dataset" / "CUB" / f"{name}.jpg")
    metadata = tmp_path / "metadata" / "CUB"
    for split, said in {
        "train": [("001.A/a.jpg", 0, "8,6", ["0,0,8,6"]), ("002.B/c.jpg", 1, "8,6", ["1,2,3,4"])],
        "val": [("002.B/d.jpg", 1, "16,12", ["4,4,9,9", "0,0,17,12"])],
        "test": [("001.A/b.jpg", 0, "8,6", ["7,5,8,6"])],
    }.items():
        trees.write(metadata / split / "image_ids.txt", "\n".join(name for name, *_ in said))
        trees.write(metadata / split / "class_labels.txt", "\n".join(f"{name},{label}" for name, label, *_ in said))
        trees.write(metadata / split / "image_sizes.txt", "\n".join(f"{name},{size}" for name, _, size, _ in said))
        boxes = [f"{name},{box}" for name, *_, found in said for box in found]
        trees.write(metadata / split / "localization.txt", "\n".join(boxes))
    return tmp_path


@pytest.mark.parametrize(
    "source", ["wsol:{0}/metadata/CUB", "{0}/metadata/CUB", "wsol:{0}/metadata/CUB@{0}/dataset/CUB"]
)
def test_boxes_are_taken_as_they_are_written(boxed, source):
    dataset = open_dataset(source.format(boxed))
    assert dataset.classes == ("001.A", "002.B")
    assert trees.rows(dataset) == [
        ("001.A/a.jpg", (0,), "train", [[0, 0, 8, 6]], [0]),
        ("002.B/c.jpg", (1,), "train", [[1, 2, 3, 4]], [1]),
        ("002.B/d.jpg", (1,), "val", [[4, 4, 9, 9], [0, 0, 17, 12]], [1, 1]),
        ("001.A/b.jpg", (0,), "test", [[7, 5, 8, 6]], [0]),
    ]
    truth = dataset.records[2].truth
    assert truth.size_hw == (12, 16)
    # As the benchmark resizes them: coordinate * 224 / size, before it cuts the fraction.
    np.testing.assert_allclose(truth.boxes_at((6, 8), (224, 224))[0], [56, 4 * 224 / 12, 126, 168], rtol=1e-15)


def test_masks(tmp_path):
    """The layout of OpenImages: no sizes, masks and one ignored area a picture, none in train."""
    images, metadata = tmp_path / "pictures", tmp_path / "OpenImages"
    for name in ("train/0a/1.jpg", "train/0b/2.jpg", "val/0b/3.jpg"):
        trees.picture(images / name)
    trees.mask(images / "val/0b/3_m0.png", ["##..", "...."])
    trees.mask(images / "val/0b/3_m1.png", ["....", "...#"])
    trees.mask(images / "val/0b/3_ignore.png", [".###", "...."])
    trees.write(metadata / "train" / "image_ids.txt", "train/0b/2.jpg\ntrain/0a/1.jpg")
    trees.write(metadata / "train" / "class_labels.txt", "train/0b/2.jpg,1\ntrain/0a/1.jpg,0")
    trees.write(metadata / "val" / "image_ids.txt", "val/0b/3.jpg")
    trees.write(metadata / "val" / "class_labels.txt", "val/0b/3.jpg,1")
    rows = "val/0b/3.jpg,val/0b/3_m0.png,val/0b/3_ignore.png\nval/0b/3.jpg,val/0b/3_m1.png,"
    trees.write(metadata / "val" / "localization.txt", rows)
    dataset = open_dataset(f"wsol:{metadata}@{images}")
    assert dataset.classes == ("0a", "0b")
    assert trees.rows(dataset) == [
        ("train/0b/2.jpg", (1,), "train", [], []),
        ("train/0a/1.jpg", (0,), "train", [], []),
        ("val/0b/3.jpg", (1,), "val", [], []),
    ]
    mask, ignore = dataset.records[2].truth.masks_at((2, 4))
    np.testing.assert_array_equal(mask, trees.drawn(["##..", "...#"]))
    np.testing.assert_array_equal(ignore, trees.drawn(["..##", "...."]))
    assert dataset.records[0].truth.masks_at((2, 4)) == (None, None)

    for rows, message in {
        "val/0b/3.jpg,val/0b/3_m0.png,\nval/0b/3.jpg,val/0b/3_m1.png,val/0b/3_ignore.png": "IGNORE in the first alone",
        "val/0b/3.jpg,,val/0b/3_ignore.png": "expected MASK,IGNORE",
        "val/0b/3.jpg,val/0b/3_m9.png,": r"image_ids\.txt:1: no mask val/0b/3_m9\.png in",
        "val/0b/3.jpg,../m.png,": r"image_ids\.txt:1: \.\./ leads out of",
        "val/0b/3.jpg,val/0b/3_m0.png,val/0b/9.png": r"no ignore mask val/0b/9\.png in",
    }.items():
        trees.write(metadata / "val" / "localization.txt", rows)
        assert len(trees.skipping(f"wsol:{metadata}@{images}")[0].records) == 2
        with pytest.raises(DataError, match=message):
            open_dataset(f"wsol:{metadata}@{images}")


def test_classes_whose_folders_are_not_their_own_are_called_by_their_numbers(boxed):
    trees.write(boxed / "metadata" / "CUB" / "train" / "class_labels.txt", "001.A/a.jpg,0\n002.B/c.jpg,0")
    assert open_dataset(boxed / "metadata" / "CUB").classes == ("0", "1")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("image_ids", "001.A/b.jpg\n001.A/b.jpg", r"image_ids\.txt:2: id '001\.A/b\.jpg' is there twice"),
        ("image_ids", "001.A/b.jpg\n001.A/a.jpg", r"image_ids\.txt:2: id '001\.A/a\.jpg' is there twice"),
        ("image_ids", "001.A/b.jpg\n001.A/z.jpg", r"image_ids\.txt:2: '001\.A/z\.jpg' has 0 labels"),
        ("image_ids", "001.A/b.jpg\n../z.jpg", r"image_ids\.txt:2: '\.\./z\.jpg' has 0 labels"),
        ("class_labels", "001.A/b.jpg,0\n001.A/b.jpg,1", r"class_labels\.txt:2: .* expected ID,NUMBER, once for an id"),
        ("class_labels", "001.A/b.jpg,x", r"class label is 'x', expected a finite number"),
        ("class_labels", "001.A/b.jpg,-1", r"class label is '-1', expected a whole number of at least 0"),
        ("class_labels", "001.A/b.jpg", r"class_labels\.txt:1: '001\.A/b\.jpg', expected ID,NUMBER"),
        ("class_labels", "001.A/b.jpg,99999999", r"class label 99999999 is none of the 2 classes"),
        ("image_sizes", "001.A/b.jpg,8", r"image_sizes\.txt:1: .* expected ID,WIDTH,HEIGHT"),
        ("image_sizes", "001.A/b.jpg,8,0", r"image_ids\.txt:1: height is '0', expected a whole number of at least 1"),
        ("localization", "001.A/b.jpg,1,1,1,2", r"image_ids\.txt:1: box 1 1 1 2 is inverted or empty"),
        ("localization", "001.A/b.jpg,0,0,9.5,6", r"image_ids\.txt:1: box 0 0 9.5 6 reaches out of the picture of 8×6"),
        ("localization", "001.A/b.jpg,0,0,8,x", r"image_ids\.txt:1: box is 'x', expected a finite number"),
        ("localization", "001.A/b.jpg,0,0,8,6\n001.A/b.jpg,0", r"localization row '0', expected X0,Y0,X1,Y1"),
    ],
)
def test_broken_records_are_named(boxed, file, text, message):
    metadata = boxed / "metadata" / "CUB"
    trees.write(metadata / "test" / f"{file}.txt", text)
    dataset, heard = trees.skipping(metadata)
    assert [example.id for example in dataset.examples][:3] == ["001.A/a.jpg", "002.B/c.jpg", "002.B/d.jpg"]
    assert any(re.search(message, one) for one in heard)
    with pytest.raises(DataError, match="mend it, or skip broken records"):
        open_dataset(metadata)


def test_missing_places_are_refused(boxed, tmp_path_factory):
    with pytest.raises(DataError, match=r"dataset/x: no such folder; name that of the pictures, wsol:META"):
        open_dataset(f"wsol:{boxed}/metadata/x")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match=r"has no train/, val/ or test/ with image_ids\.txt"):
        open_dataset(f"wsol:{empty}@{empty}")
