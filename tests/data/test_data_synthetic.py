"""Synthetic shapes: exact masks, the same in every process, and a cue that can be switched on."""

from __future__ import annotations

import hashlib
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from camlucida.data import Example, open_dataset
from camlucida.data.shapes import DISTRACTORS, SHAPES, Placed
from camlucida.data.synthetic import AREAS, CUE_COLOURS, SPLITS, Scene, SyntheticOptions, cue_mask
from camlucida.errors import DataError


def corners(shape):
    """The outline of a shape in its circle, u to the right and v down; the reader uses inequalities instead."""
    around = [(math.sin(2 * math.pi * k / 10), math.cos(2 * math.pi * k / 10)) for k in range(10)]
    inner = math.cos(math.radians(72)) / math.cos(math.radians(36))
    return {
        "square": [(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)],
        "triangle": [(math.sin(turn), -math.cos(turn)) for turn in (0, 2 * math.pi / 3, 4 * math.pi / 3)],
        "star": [(u, v) if k % 2 == 0 else (u * inner, v * inner) for k, (u, v) in enumerate(around)],
        "cross": [(-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3),
                  (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3)],
    }[shape]  # fmt: skip


def redrawn(placed, size):
    """The mask of a shape, pixel by pixel, from its outline or its definition."""
    mask = np.zeros((size, size), bool)
    if placed.shape not in ("disc", "ring"):
        turned = [
            (
                placed.x + placed.radius * (u * math.cos(placed.turn) - v * math.sin(placed.turn)),
                placed.y + placed.radius * (u * math.sin(placed.turn) + v * math.cos(placed.turn)),
            )
            for u, v in corners(placed.shape)
        ]
    for row in range(size):
        for column in range(size):
            x, y = column + 0.5, row + 0.5
            if placed.shape in ("disc", "ring"):
                away = math.dist((x, y), (placed.x, placed.y)) / placed.radius
                mask[row, column] = (math.sqrt(0.3) if placed.shape == "ring" else 0) <= away <= 1
                continue
            for (x0, y0), (x1, y1) in zip(turned, turned[1:] + turned[:1], strict=True):
                if (y0 <= y) != (y1 <= y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) < x:
                    mask[row, column] ^= True
    return mask


def test_masks_are_the_shapes():
    dataset = open_dataset("synthetic:shapes?count=20&size=40&seed=3")
    assert {example.made.object().shape for example in dataset.examples} == set(SHAPES)
    for record in dataset.records:
        thing = record.example.made.object()
        mask, ignore = record.truth.masks_at((40, 40))
        assert ignore is None
        np.testing.assert_array_equal(mask, redrawn(thing, 40))
        assert dataset.classes[record.example.labels[0]] == thing.shape
        rows, columns = np.nonzero(mask)
        assert record.truth.boxes.tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
        assert record.truth.box_labels.tolist() == list(record.example.labels)
        assert record.truth.size_hw == (40, 40)


@pytest.mark.parametrize("name", [*SHAPES, *DISTRACTORS])
def test_areas_are_those_of_the_shapes(name):
    mask = Placed(name, 300, 301, 290, 0.7).mask(600)
    assert mask.sum() / 290**2 == pytest.approx({**SHAPES, **DISTRACTORS}[name].area, rel=1e-3)
    rows, columns = np.nonzero(mask)
    assert np.hypot(columns + 0.5 - 300, rows + 0.5 - 301).max() <= 290  # in its circle


def test_objects_are_where_the_picture_differs_and_apart_from_all_else():
    for index in range(30):
        scene = Scene(SyntheticOptions(size=64, distractors=4), "train", index)
        thing, *distractors = scene.placed()
        assert thing == scene.object()
        mask = thing.mask(64)
        assert not mask[:8, :8].any()
        assert AREAS[0] * 0.85 < mask.mean() < AREAS[1] * 1.15
        everything = np.sum([mask, *(other.mask(64) for other in distractors)], axis=0)
        assert everything.max() == 1
        pixels = scene().astype(float)
        inside, around = pixels[mask].mean(0), pixels[~mask].mean(0)
        assert pixels[mask].std(0).max() < 14  # one colour and noise
        assert np.linalg.norm(inside - around) > 30
        assert {other.shape for other in distractors} <= set(DISTRACTORS)


def test_the_class_is_the_shape_alone():
    dataset = open_dataset("synthetic:shapes?count=500&size=32")
    areas, middles, colours = {}, {}, {}
    for record in dataset.split("train").records:
        label = record.example.labels[0]
        mask = record.truth.masks_at((32, 32))[0]
        areas.setdefault(label, []).append(mask.mean())
        middles.setdefault(label, []).append(record.truth.boxes[0].mean())
        colours.setdefault(label, []).append(record.example.read().pixels[mask].mean())
    assert [len(values) for values in areas.values()] == [50] * 6  # in turns
    for values, spread in ((areas, 0.02), (middles, 3.5), (colours, 40)):
        means = [np.mean(one) for one in values.values()]
        assert max(means) - min(means) < spread


def test_splits_and_ids():
    dataset = open_dataset("synthetic:shapes?count=50")
    assert dataset.splits == ("train", "val", "test") == SPLITS
    assert len(open_dataset("synthetic:shapes?count=13").records) == 13
    assert [len(dataset.split(name).records) for name in dataset.splits] == [30, 10, 10]
    assert dataset.examples[31].id == "val/000001"
    assert len({example.id for example in dataset.examples}) == 50
    pictures = {example.read().pixels.tobytes() for example in dataset.examples}
    assert len(pictures) == 50
    others = {example.read().pixels.tobytes() for example in open_dataset("synthetic:shapes?count=50&seed=1").examples}
    assert not pictures & others


def digest(source):
    digests = hashlib.sha256()
    for record in open_dataset(source).records:
        digests.update(record.example.read().pixels.tobytes() + record.truth.masks_at((64, 64))[0].tobytes())
    return digests.hexdigest()


def test_pictures_are_the_same_in_another_process():
    source = "synthetic:shapes?count=12&cue=0.5"
    code = f"import sys; sys.path.insert(0, {__file__.rpartition('/')[0]!r}); import test_data_synthetic as t;"
    said = subprocess.run([sys.executable, "-c", f"{code} print(t.digest({source!r}))"], capture_output=True, text=True)
    assert said.stdout.strip() == digest(source), said.stderr


def test_more_pictures_leave_the_first_ones_as_they_are():
    few, many = (open_dataset(f"synthetic:shapes?count={count}").split("test").examples[:3] for count in (20, 40))
    for one, other in zip(few, many, strict=True):
        np.testing.assert_array_equal(one.read().pixels, other.read().pixels)


def test_records_can_be_sent_to_other_processes():
    record = open_dataset("synthetic:shapes?count=10&cue=1").records[4]
    sent = pickle.dumps(record)
    assert len(sent) < 4000
    np.testing.assert_array_equal(pickle.loads(sent).example.read().pixels, record.example.read().pixels)
    np.testing.assert_array_equal(pickle.loads(sent).truth.mask(), record.truth.mask())


@pytest.mark.parametrize("cue_test", ["agree", "disagree", "none"])
def test_the_cue_tells_the_class(cue_test):
    plain = open_dataset("synthetic:shapes?count=60")
    cued = open_dataset(f"synthetic:shapes?count=60&cue=1&cue_test={cue_test}")
    for bare, record in zip(plain.records, cued.records, strict=True):
        where = cue_mask(record.example)
        pixels = record.example.read().pixels
        np.testing.assert_array_equal(pixels[~where], bare.example.read().pixels[~where])
        assert not cue_mask(bare.example).any()
        if record.split == "test" and cue_test == "none":
            assert not where.any()
            continue
        assert where.sum() == 64
        assert where[:8, :8].all()
        colours = np.unique(pixels[where], axis=0).tolist()
        assert len(colours) == 1
        told = CUE_COLOURS.index(tuple(colours[0]))
        agrees = record.split != "test" or cue_test == "agree"
        assert (told == record.example.labels[0]) == agrees


def test_the_cue_is_there_as_often_as_asked():
    shown = [Scene(SyntheticOptions(cue=0.3), "train", index).cue() is not None for index in range(1000)]
    assert np.mean(shown) == pytest.approx(0.3, abs=0.05)
    assert len(set(CUE_COLOURS)) == len(SHAPES)


def test_only_synthetic_examples_have_a_scene(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: not made by a synthetic set"):
        cue_mask(Example("a.png", tmp_path / "a.png", (0,)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("synthetic:glyphs", "synthetic:glyphs: no such set; expected synthetic:shapes"),
        (
            "synthetic:shapes?colour=red",
            "'colour' is no option or there twice; expected each once of count, seed, size",
        ),
        ("synthetic:shapes?count=20&count=30", "'count' is no option or there twice"),
        ("synthetic:shapes?count=", "count is '', expected 10 to 100000"),
        ("synthetic:shapes?count=9", "count is '9', expected 10 to 100000"),
        ("synthetic:shapes?count=1e3", "count is '1e3', expected 10 to 100000"),
        ("synthetic:shapes?seed=-1", "seed is '-1', expected 0 to 2147483647"),
        ("synthetic:shapes?size=4096", "size is '4096', expected 32 to 1024"),
        ("synthetic:shapes?distractors=7", "distractors is '7', expected 0 to 6"),
        ("synthetic:shapes?cue=nan", "cue is 'nan', expected 0 to 1"),
        ("synthetic:shapes?cue=1.5", "cue is '1.5', expected 0 to 1"),
        ("synthetic:shapes?cue_test=maybe", "cue_test is 'maybe', expected agree, disagree, none"),
    ],
)
def test_options_are_checked(source, message):
    with pytest.raises(DataError, match=message):
        open_dataset(source)
