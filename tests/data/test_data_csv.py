"""annotations.csv: a row a box, masks beside the pictures."""

from __future__ import annotations

import numpy as np
import pytest

import trees
from camlucida.data import open_dataset
from camlucida.errors import DataError

GOOD = """
    path,split,label,kind,width,height,x0,y0,x1,y1,group
    images/a.png,train,cat,animal,8,6,0,1,4,5,g1
    images/a.png,train,dog,animal,8,6,4.5,0,8,6,g1
    images/sub/b.jpg,test,cat,animal,8,6,1,1,2,2,
    images/c.png,test,none,thing,8,6,,,,,g2
"""


@pytest.fixture
def tree(tmp_path):
    for name in ("a.png", "sub/b.jpg", "c.png"):
        trees.picture(tmp_path / "images" / name)
    trees.mask(tmp_path / "masks" / "sub" / "b.png", ["........", ".#......", *["........"] * 4])
    trees.write(tmp_path / "annotations.csv", GOOD)
    return tmp_path


@pytest.mark.parametrize("source", ["csv:{}", "csv:{}/annotations.csv", "{}", "{}/annotations.csv"])
def test_records(tree, source):
    dataset = open_dataset(source.format(tree))
    assert dataset.classes == ("cat", "dog", "none")
    assert trees.rows(dataset) == [
        ("images/a.png", (0, 1), "train", [[0, 1, 4, 5], [4.5, 0, 8, 6]], [0, 1]),
        ("images/sub/b.jpg", (0,), "test", [[1, 1, 2, 2]], [0]),
        ("images/c.png", (2,), "test", [], []),
    ]
    assert [record.group for record in dataset.records] == ["g1", "", "g2"]
    assert [record.truth.size_hw for record in dataset.records] == [(6, 8)] * 3
    assert [record.truth.mask for record in dataset.records] == [None, tree / "masks" / "sub" / "b.png", None]
    mask, _ = dataset.records[1].truth.masks_at((6, 8))
    assert np.argwhere(mask).tolist() == [[1, 1]]
    assert dataset.examples[0].read().pixels.shape == (6, 8, 3)


def test_another_column_names_the_class(tree):
    dataset = open_dataset(tree, label="kind")
    assert dataset.classes == ("animal", "thing")
    assert [example.labels for example in dataset.examples] == [(0,), (0,), (1,)]
    assert dataset.records[0].truth.box_labels.tolist() == [0, 0]
    with pytest.raises(DataError, match=r"annotations\.csv:1: has no column 'species', only 'path, split, label, kind"):
        open_dataset(tree, label="species")


def test_only_path_and_label_are_needed(tmp_path):
    trees.picture(tmp_path / "a.png")
    trees.write(tmp_path / "list.csv", "\ufefflabel,path\ncat,./a.png")
    dataset = open_dataset(tmp_path / "list.csv")
    assert trees.rows(dataset) == [("a.png", (0,), "", [], [])]
    assert dataset.records[0].truth.size_hw is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("images/no.png,train,cat,,8,6,,,,,", "no picture images/no.png in"),
        ("../c.png,train,cat,,8,6,,,,,", r"\.\./ leads out of"),
        ("images/../../c.png,train,cat,,8,6,,,,,", r"\.\./ leads out of"),
        ("/etc/passwd,train,cat,,8,6,,,,,", "/etc/ leads out of"),
        ("images/out.png,train,cat,,8,6,,,,,", "picture images/out.png is a link that leads out of"),
        ("outside/d.png,train,cat,,8,6,,,,,", "outside/ leads out of"),
        ("images/d.png,train,cat,,8,6,4,1,4,5,", "box 4 1 4 5 is inverted or empty"),
        ("images/d.png,train,cat,,8,6,4,5,6,1,", "box 4 5 6 1 is inverted or empty"),
        ("images/d.png,train,cat,,8,6,0,0,8,6.5,", "box 0 0 8 6.5 reaches out of the picture of 8×6 pixels"),
        ("images/d.png,train,cat,,,,-1,0,8,6,", "box -1 0 8 6 reaches out of the picture"),
        ("images/d.png,train,cat,,8,6,nan,0,8,6,", "x0 is 'nan', expected a finite number"),
        ("images/d.png,train,cat,,8,6,0,inf,8,6,", "y0 is 'inf', expected a finite number"),
        ("images/d.png,train,cat,,8,6,0,0,8,,", "y1 is '', expected a finite number"),
        ("images/d.png,train,cat,,8.5,6,,,,,", r"width is '8\.5', expected a whole number of at least 1"),
        ("images/d.png,train,cat,,8,0,,,,,", "height is '0', expected a whole number of at least 1"),
        ("images/d.png,train,cat,,100000,100000,,,,,", "100000×100000 pixels, more than the limit"),
        ("images/d.png,train,,,8,6,,,,,", "column 'label' is empty"),
        (",train,cat,,8,6,,,,,", "column 'path' is empty"),
        ("images/d.png,train", "too few or too many columns"),
        ("images/d.png,train,cat,,8,6,,,,,,more", "too few or too many columns"),
        ("images/c.png,test,cat,thing,8,6,,,,,g2", "'images/c.png' is there twice, first in line 5"),
        ("./images/c.png,test,cat,thing,8,6,1,1,2,2,g2", "'./images/c.png' is there twice, first in line 5"),
        ("images/a.png,train,cat,animal,8,6,0,1,4,5,g1", "'images/a.png' is there twice, first in line 2"),
        ("images/a.png,test,cat,animal,8,6,0,1,4,4,g1", "has another split, group or size than in line 2"),
        ("images/a.png,train,cat,animal,8,6,0,1,4,9,g1", "box 0 1 4 9 reaches out"),
        ("images/d\0.png,train,cat,,8,6,,,,,", r"no picture images/d\\x00\.png in"),
        ("d\0/d.png,train,cat,,8,6,,,,,", r"d\\x00/ leads out of"),
    ],
)
def test_broken_rows_are_named_and_skipped_or_refused(tree, tmp_path_factory, row, message):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for place in (tree / "images" / "d.png", elsewhere / "d.png"):
        trees.picture(place)
    (tree / "images" / "out.png").symlink_to(elsewhere / "d.png")
    (tree / "outside").symlink_to(elsewhere)
    trees.write(tree / "annotations.csv", GOOD + row)
    dataset, heard = trees.skipping(tree)
    assert len(heard) == 1
    assert heard[0].startswith(f"{tree}/annotations.csv:6: ") or "is a link" in heard[0]
    broken = row.split(",")[0].removeprefix("./")
    left = [name for name in ("images/a.png", "images/sub/b.jpg", "images/c.png") if name != broken]
    assert [example.id for example in dataset.examples] == left
    with pytest.raises(DataError, match=message):
        open_dataset(tree)


def test_files_that_are_no_csv_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"annotations\.csv: no such file"):
        open_dataset(f"csv:{tmp_path}")
    (tmp_path / "annotations.csv").write_bytes(b"path,label\n\xff\xfe,b\n")
    with pytest.raises(DataError, match=r"annotations\.csv: not UTF-8 at byte 11"):
        open_dataset(tmp_path)
    (tmp_path / "annotations.csv").write_text("path,label\n" + "a" * 200_000 + ",b\n")
    with pytest.raises(DataError, match=r"annotations\.csv:\d: not readable as CSV \(field larger than field limit"):
        open_dataset(tmp_path)
    (tmp_path / "annotations.csv").write_text("")
    with pytest.raises(DataError, match="has no column 'path', only ''"):
        open_dataset(tmp_path)


def test_annotation_files_are_bounded(tree, monkeypatch):
    monkeypatch.setattr("camlucida.data.reading.read_text.__defaults__", (100,))
    with pytest.raises(DataError, match="more than the limit of 100 bytes"):
        open_dataset(tree)
