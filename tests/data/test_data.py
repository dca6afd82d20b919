"""Opening labelled pictures: the registry, what is said of broken records, the check of all, and real sets."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

import camlucida.data
import trees
from camlucida.data import DATA_SOURCES, known_sources, open_dataset, verified
from camlucida.errors import DataError


@pytest.mark.parametrize("source", DATA_SOURCES, ids=lambda source: source.kind)
def test_every_source_has_a_reader(source):
    module, _, function = source.reader.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert source.pattern.startswith(f"{source.kind}:")
    assert source.summary
    assert [other.kind for other in DATA_SOURCES].count(source.kind) == 1
    assert source.pattern in known_sources()


@pytest.fixture
def tree(tmp_path):
    """Six records, four of them broken in ways that are seen without decoding: lines 3, 4, 5 and 7."""
    for name in ("a", "b"):
        trees.picture(tmp_path / f"{name}.png")
    rows = ["a.png,x,0,0,8,6", "c.png,x,,,,", "d.png,x,,,,", "a.png,y,,,,", "b.png,y,,,,", "e.png,x,nan,0,1,1"]
    trees.write(tmp_path / "annotations.csv", "\n".join(["path,label,x0,y0,x1,y1", *rows]))
    return tmp_path


def test_broken_records_are_refused_after_all_were_named(tree):
    heard = []
    with pytest.raises(DataError, match=r"annotations\.csv:5: .*twice.* \(the first of 4 broken records\); mend"):
        open_dataset(tree, on_broken=heard.append)
    assert sorted(message.split(":")[1] for message in heard) == ["3", "4", "5", "7"]


def test_broken_records_are_never_skipped_silently(tree):
    with pytest.warns(UserWarning, match=r"skipped: .*csv:5: .* \(the first of 4 broken records\)") as warned:
        dataset = open_dataset(tree, broken="skip")
    assert [example.id for example in dataset.examples] == ["b.png"]
    assert dataset.classes == ("x", "y")
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "nowhere",
            {},
            "nowhere: no such folder or file, and no such kind of data; expected a path or one of synthetic:",
        ),
        ("csv:", {}, "csv:: no such folder or file"),
        ("tfds:mnist", {}, "tfds:mnist: no such folder or file"),
        ("{}", {}, "layout not recognized; name it, as one of synthetic:"),
        ("{}/photo.jpg", {}, r"photo\.jpg: layout not recognized"),
        ("{}", {"broken": "ignore"}, "broken: expected 'refuse' or 'skip', got 'ignore'"),
        ("synthetic:shapes", {"label": "colour"}, "synthetic has no columns to choose a label from"),
    ],
)
def test_places_that_cannot_be_opened_are_named(tmp_path, source, options, message):
    trees.picture(tmp_path / "photo.jpg")
    with pytest.raises(DataError, match=message):
        open_dataset(source.format(tmp_path), **options)


def test_importing_is_light():
    code = (
        "import sys, camlucida.data as data; data.known_sources(); print({'torch', 'cv2', 'numpy'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        camlucida.data.nothing  # noqa: B018


def test_examples_hold_no_truth(tmp_path):
    """Other boxes and masks leave every byte of what training is given as it was."""
    given = []
    for corner in ("0", "3"):
        trees.picture(tmp_path / "images" / "a.png")
        trees.mask(tmp_path / "masks" / "a.png", ["#......."] * int(corner) + ["........"] * (6 - int(corner)))
        trees.write(tmp_path / "annotations.csv", f"path,label,x0,y0,x1,y1\nimages/a.png,x,{corner},0,8,6")
        dataset = open_dataset(tmp_path)
        assert dataset.records[0].truth.boxes[0, 0] == int(corner)
        given.append(pickle.dumps(dataset.examples))
    assert given[0] == given[1]
    drawn = open_dataset("synthetic:shapes?count=10").examples[0].made
    assert vars(drawn).keys() == {"options", "split", "index"}


# --- decoding everything ----------------------------------------------------------------------------------------------


def test_verified_finds_what_only_decoding_shows(tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    for name in ("good", "cut", "mask", "turned"):
        trees.picture(images / f"{name}.png")
    (images / "cut.png").write_bytes((images / "good.png").read_bytes()[:50])
    trees.mask(masks / "good.png", ["........"] * 6)
    trees.mask(masks / "mask.png", [".#"])
    sizes = {"good": "8,6", "cut": "8,6", "mask": "8,6", "turned": "6,8"}
    lines = [f"images/{name}.png,x,{size}" for name, size in sizes.items()]
    trees.write(tmp_path / "annotations.csv", "\n".join(["path,label,width,height", *lines]))
    dataset = open_dataset(tmp_path)
    assert len(dataset.records) == 4
    heard = []
    kept = verified(dataset, broken="skip", on_broken=heard.append)
    assert [example.id for example in kept.examples] == ["images/good.png"]
    assert [message.partition(": ")[2] for message in heard[1:]] == [
        f"mask {masks}/mask.png has 2×1 pixels, its picture 8×6; make it again, or leave the record out",
        "images/turned.png: has 8×6 pixels, its annotations are for 6×8; annotate it anew, or leave it out",
    ]
    assert f"{images}/cut.png: damaged" in heard[0]
    with pytest.raises(DataError, match=r"cut\.png: damaged .* \(the first of 3 broken records\)"):
        verified(dataset)
    assert verified(kept).records == kept.records


# --- the sets of shared/data, by the numbers of their READMEs ---

REAL = {
    "deeppcb_windows": ("csv", 7, {"train": 5536, "val": 630, "test": 1750}, 6776 + 30),
    "brain_tumor_windows": ("csv", 2, {"train": 3816, "val": 526, "test": 1126}, 3042),
    "brain_tumor_mri": ("csv", 3, {"train": 2171, "val": 285, "test": 608}, 3064),
    "pets_mini": ("csv", 32, {"train": 255, "val": 46, "test": 298, "extra": 93}, 692),
    "imagenette128": ("folder", 10, {}, 0),
    "caltech128": ("folder", 101, {"": 8677}, 0),
}


@pytest.mark.parametrize("name", REAL)
def test_real_sets(shared_data, name, monkeypatch):
    kind, classes, splits, boxes = REAL[name]
    if not (shared_data / name).is_dir():
        pytest.skip(f"no {name} in {shared_data}")
    with monkeypatch.context() as patched:
        patched.setattr("camlucida.images.picture._decode", lambda *_: pytest.fail("a picture was decoded"))
        dataset = open_dataset(shared_data / name)
    assert dataset.name == name
    assert len(dataset.classes) == classes
    counts = {split: len(dataset.split(split).records) for split in dataset.splits}
    if name == "imagenette128":  # its README has the sum alone
        assert counts.keys() == {"train", "val"}
        assert sum(counts.values()) == 12_894
    else:
        assert counts == splits
    assert sum(len(record.truth.boxes) for record in dataset.records) == boxes
    assert all(len(example.labels) == 1 for example in dataset.examples)
    record = next((record for record in dataset.records if record.truth.mask is not None), dataset.records[0])
    height, width = record.example.read().pixels.shape[:2]
    mask, _ = record.truth.masks_at((height, width))
    if kind == "csv":
        assert record.truth.size_hw == (height, width)
        x0, y0, x1, y1 = record.truth.boxes[0].astype(int)
        assert mask[y0:y1, x0:x1].sum() == mask.sum() > 0


def test_real_species(shared_data):
    dataset = open_dataset(shared_data / "pets_mini", label="species")
    assert dataset.classes == ("cat", "dog")
    assert np.bincount([example.labels[0] for example in dataset.examples]).sum() == 692
    assert len(pickle.dumps(dataset.examples)) < 200_000
