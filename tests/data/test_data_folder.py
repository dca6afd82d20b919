"""Folders named after their classes."""

from __future__ import annotations

import pytest

import trees
from camlucida.data import open_dataset
from camlucida.errors import DataError

CLASSES = ["cat/a.png", "cat/deep/b.JPG", "dog/c.jpeg"]


def planted(root, names):
    for name in names:
        trees.picture(root / name.replace("JPG", "jpg"))
        (root / name.replace("JPG", "jpg")).rename(root / name)
    (root / "README.md").write_text("no class")
    return root


@pytest.mark.parametrize("source", ["folder:{}", "{}"])
@pytest.mark.parametrize("top", ["", "images/"])
def test_classes(tmp_path, source, top):
    planted(tmp_path, [top + name for name in CLASSES])
    (tmp_path / top / "cat" / "notes.txt").write_text("no picture")
    dataset = open_dataset(source.format(tmp_path))
    assert dataset.classes == ("cat", "dog")
    assert trees.rows(dataset) == [
        (f"{top}cat/a.png", (0,), "", [], []),
        (f"{top}cat/deep/b.JPG", (0,), "", [], []),
        (f"{top}dog/c.jpeg", (1,), "", [], []),
    ]
    assert dataset.examples[1].read().pixels.shape == (6, 8, 3)


@pytest.mark.parametrize("top", ["", "images/"])
def test_splits(tmp_path, top):
    planted(
        tmp_path, [top + name for name in ("test/dog/a.png", "Train/cat/a.png", "valid/cat/a.png", "valid/eel/b.png")]
    )
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("cat", "dog", "eel")
    assert sorted(trees.rows(dataset)) == [
        (f"{top}Train/cat/a.png", (0,), "train", [], []),
        (f"{top}test/dog/a.png", (1,), "test", [], []),
        (f"{top}valid/cat/a.png", (0,), "val", [], []),
        (f"{top}valid/eel/b.png", (2,), "val", [], []),
    ]


def test_a_class_may_be_called_like_a_split(tmp_path):
    planted(tmp_path, ["train/a.png", "bus/b.png"])
    assert open_dataset(tmp_path).classes == ("bus", "train")


def test_links_that_lead_out_are_broken_records(tmp_path):
    root, elsewhere = tmp_path / "set", tmp_path / "elsewhere"
    planted(root, ["cat/a.png", "dog/b.png"])
    trees.picture(elsewhere / "c.png")
    (root / "cat" / "inside.png").symlink_to(root / "dog" / "b.png")
    (root / "cat" / "outside.png").symlink_to(elsewhere / "c.png")
    (root / "cat" / "nothing.png").symlink_to(root / "nothing.png")
    (root / "cat" / "folder").symlink_to(elsewhere)
    (root / "eel").symlink_to(elsewhere)
    dataset, heard = trees.skipping(root)
    assert [example.id for example in dataset.examples] == ["cat/a.png", "cat/inside.png", "dog/b.png"]
    assert heard == [
        f"{root}/cat/folder: a link to no picture, not followed; copy what it names",
        f"{root}/cat/nothing.png: no picture cat/nothing.png in {root}",
        f"{root}/cat/outside.png: picture cat/outside.png is a link that leads out of {root}",
        f"{root}/eel: eel/ leads out of {root}",
    ]
    with pytest.raises(DataError, match=r"cat/folder: a link .* \(the first of 4 broken records\); mend it, or skip"):
        open_dataset(root)


def test_the_folder_itself_may_be_a_link(tmp_path):
    planted(tmp_path / "set", CLASSES)
    (tmp_path / "link").symlink_to(tmp_path / "set")
    assert len(open_dataset(tmp_path / "link").records) == 3


def test_folders_without_pictures_are_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        open_dataset(f"folder:{tmp_path}/nowhere")
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="no picture in it"):
        open_dataset(tmp_path)
