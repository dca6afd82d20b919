"""Records: boxes and masks at another size, splits, and what can be sent to other processes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import trees
from camlucida.data import Dataset, Example, Record, Truth
from camlucida.errors import DataError, ImageError


def nearest(mask: np.ndarray, size_hw: tuple[int, int], offset: float) -> np.ndarray:
    """The pixel of the mask under each new pixel's centre (offset 0.5) or corner (0)."""
    rows = [int((y + offset) * mask.shape[0] / size_hw[0]) for y in range(size_hw[0])]
    columns = [int((x + offset) * mask.shape[1] / size_hw[1]) for x in range(size_hw[1])]
    return np.array([[mask[y, x] for x in columns] for y in rows])


@pytest.mark.parametrize(("mode", "offset"), [("exact", 0.5), ("protocol", 0.0)])
@pytest.mark.parametrize("size_hw", [(7, 9), (4, 6), (14, 18), (21, 27)])
def test_masks_are_resized_to_the_nearest_pixel(rng, mode, offset, size_hw):
    mask = rng.random((7, 9)) > 0.5
    shown, ignored = Truth(mask=mask).masks_at(size_hw, mode)
    assert ignored is None
    np.testing.assert_array_equal(shown, nearest(mask, size_hw, offset))


def test_protocol_masks_are_those_of_the_benchmark(rng):
    mask = rng.random((37, 53)) > 0.5
    theirs = cv2.resize(np.float32(mask) * 255, (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5
    np.testing.assert_array_equal(Truth(mask=mask).masks_at((224, 224), "protocol")[0], theirs)


def test_several_mask_files_are_united_and_ignored_pixels_are_no_object(tmp_path):
    trees.mask(tmp_path / "a.png", ["##..", "...."])
    trees.mask(tmp_path / "b.png", ["....", "...#"])
    trees.mask(tmp_path / "ignore.png", [".##.", ".##."])
    truth = Truth(mask=(tmp_path / "a.png", tmp_path / "b.png"), ignore=tmp_path / "ignore.png")
    shown, ignored = truth.masks_at((2, 4))
    np.testing.assert_array_equal(shown, trees.drawn(["##..", "...#"]))
    np.testing.assert_array_equal(ignored, trees.drawn(["..#.", ".##."]))


def test_boxes_are_scaled_from_the_stated_size_else_the_pictures():
    boxes = np.array([[1.0, 2, 3, 4]])
    assert Truth(boxes).boxes_at((10, 20), (20, 20)).tolist() == [[1, 4, 3, 8]]
    assert Truth(boxes, size_hw=(5, 5)).boxes_at((10, 20), (10, 20)).tolist() == [[4, 4, 12, 8]]
    assert Truth().boxes_at((10, 20), (20, 20)).shape == (0, 4)
    assert boxes.tolist() == [[1, 2, 3, 4]]


def test_masks_that_cannot_be_used_are_named(tmp_path):
    trees.mask(tmp_path / "small.png", ["#."])
    with pytest.raises(DataError, match=r"small\.png has 2×1 pixels, its picture 8×6"):
        Truth(mask=tmp_path / "small.png", size_hw=(6, 8)).masks_at((6, 8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "small.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"mask .*cut\.png: damaged"):
        Truth(mask=tmp_path / "cut.png").masks_at((6, 8))


def test_an_example_reads_its_file_or_makes_its_picture(tmp_path):
    trees.picture(tmp_path / "a.png")
    assert Example("a.png", tmp_path / "a.png", (0,)).read().pixels.shape == (6, 8, 3)
    made = Example("made", Path(), (0,), lambda: np.full((2, 3, 3), 7, np.uint8))
    assert made.read().pixels.tolist() == np.full((2, 3, 3), 7).tolist()
    with pytest.raises(ImageError, match="no such file"):
        Example("b", tmp_path / "b.png", (0,)).read()


def test_splits_are_chosen_by_name():
    records = [Record(Example(str(place), Path(), ()), split=split) for place, split in enumerate(["b", "a", "", "b"])]
    dataset = Dataset("letters", ("x",), tuple(records))
    assert dataset.splits == ("b", "a", "")
    assert [example.id for example in dataset.split("b", "").examples] == ["0", "2", "3"]
    with pytest.raises(DataError, match=r"letters: has no split 'val'; its splits are b, a, \(none\)"):
        dataset.split("val")
