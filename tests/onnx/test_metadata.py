"""Metadata of ONNX files, ours, others' and anybody's: none makes a file unreadable, and what is left out is noted."""

from __future__ import annotations

import json

import numpy as np
import pytest

import camlucida as cl
from camlucida.explainer import Explainer
from camlucida.images.preprocess import Preprocess
from camlucida.onnx.foreign_metadata import PictureInput, assumed_preprocess, names_in
from camlucida.onnx.metadata import Metadata, read_metadata

onnx = pytest.importorskip("onnx")
from external_files import PLACES, WEIGHT, classifier, pictures, truth  # noqa: E402

from camlucida.export.exporting import export  # noqa: E402

DEEP = "[" * 100_000
FOREIGN = {
    "words": ("labels", "ant,bee"),
    "a word": ("labels", "imagenet"),
    "numbers": ("labels", "[1, 2, 3]"),
    "numbers beside names": ("labels", '["ant", 2, "cat"]'),
    "lists of lists": ("labels", '[["ant"], ["bee"], ["cat"]]'),
    "too few": ("labels", '["ant", "bee"]'),
    "too many": ("names", "{0: 'a', 1: 'b', 2: 'c', 3: 'd'}"),
    "numbers with gaps": ("labels", '{"0": "ant", "2": "bee", "5": "cat"}'),
    "deep": ("labels", DEEP),
    "deep objects": ("preprocess", '{"a":' * 100_000),
    "a huge number": ("preprocess", "9" * 5000),
    "a huge size": ("preprocess", '{"size_hw": [1000000000, 1000000000]}'),
    "a size of text": ("preprocess", '{"size_hw": ["a", "b"]}'),
    "infinite": ("preprocess", '{"size_hw": [8, 8], "mean": [1e999, 0, 0]}'),
    "not a number": ("preprocess", '{"size_hw": [8, 8], "mean": [NaN, 0, 0]}'),
    "a mean of 400 digits": ("preprocess", '{"size_hw": [8, 8], "mean": [%s, 0, 0]}' % ("9" * 400)),
    "no mean": ("preprocess", '{"size_hw": [8, 8], "mean": null}'),
    "other fields": ("preprocess", '{"resize": 256, "crop": 224}'),
    "one channel": ("preprocess", '{"size_hw": [8, 8], "mean": [0.5], "std": [0.5]}'),
    "a list": ("preprocess", "[224, 224]"),
    "no JSON": ("preprocess", "imagenet"),
    "cut JSON": ("preprocess", '{"size_hw": [8, 8'),
    "an activation": ("activation", "tanh"),
    "a calibration": ("calibration", '{"size": 3}'),
    "a calibration of text": ("calibration", '{"threshold": "high"}'),
    "a calibration of a list": ("calibration", "[1]"),
    "a long entry": ("labels", " " * (2**24 + 1)),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_anybodys_entries_leave_a_file_readable(tmp_path, case):
    key, text = FOREIGN[case]
    model = classifier(PLACES["initializer"])
    weight = next(one for one in model.graph.initializer if one.name == "weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(WEIGHT, "weight"))
    onnx.helper.set_model_props(model, {key: text, "author": "somebody"})
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    opened = cl.open_model(path)
    assert key in opened.note or (case == "one channel" and "1 channels" in opened.note)
    assert "\n" not in opened.note
    assert len(opened.note) < 600
    assert (opened.class_names, opened.calibration, opened.activation) == (None, None, None)
    assert opened.preprocess_source == "assumed"
    made = export(path, tmp_path / "cam.onnx")
    assert set(opened.note.split("; ")) <= set(made.notes)
    ex = Explainer(tmp_path / "cam.onnx")(pictures(), "all")
    np.testing.assert_allclose(ex.maps, truth(pictures())[1], atol=1e-5)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("labels", '["ant", "bee", "cat"]'),
        ("labels", "ant,bee,cat"),
        ("labels", "ant\nbee\ncat\n"),
        ("labels", '{"0": "ant", "1": "bee", "2": "cat"}'),
        ("names", "{0: 'ant', 1: 'bee', 2: 'cat'}"),
        ("names", '{"2": "cat", "0": "ant", "1": "bee"}'),
        ("classes", "ant, bee, cat"),
        ("character", "ant\nbee\ncat"),
        ("id2label", '{"0": "ant", "1": "bee", "2": "cat"}'),
        ("class_names", "['ant', 'bee', 'cat']"),
    ],
)
def test_names_of_classes_in_all_their_clothes(key, text):
    found = read_metadata({key: text}, 3)
    assert found == Metadata(("ant", "bee", "cat"))
    assert read_metadata({key: text}, 4).class_names is None


def test_names_are_never_run():
    assert names_in("{0: __import__('os').getpid()}") is None
    assert names_in("[open('x'), 'b']") is None
    assert names_in("[" + "-" * 50_000 + "1]") is None


def test_the_first_entry_that_fits_names_the_classes():
    entries = {"labels": '["too", "few"]', "names": "{0: 'ant', 1: 'bee', 2: 'cat'}"}
    found = read_metadata(entries, 3)
    assert found.class_names == ("ant", "bee", "cat")
    assert found.notes == ("its metadata 'labels' is no list of 3 names and was passed over",)


def test_a_single_logit_has_one_name_or_two():
    assert read_metadata({"labels": '["no", "yes"]'}, 1).class_names == ("no", "yes")
    assert read_metadata({"labels": '["yes"]'}, 1).class_names == ("yes",)
    assert read_metadata({"labels": '["a", "b", "c"]'}, 1).class_names is None


# --- How pictures are prepared ----------------------------------------------------------------------------------------

COLOUR = np.full((8, 8, 3), (200, 100, 50), np.uint8)
VISION = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}
YOLO = {"author": "Ultralytics", "task": "classify", "imgsz": "[8, 8]", "names": "{0: 'ant', 1: 'bee'}", "stride": "1"}
TAKES = PictureInput(3, 8, 8)
LIGHT = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
USUAL = ((200 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (50 / 255 - 0.406) / 0.225)


@pytest.mark.parametrize(
    ("entries", "takes", "values"),
    [
        (VISION, TAKES, (50, 100, 200)),
        ({**VISION, "Image.BitmapPixelFormat": "Rgb8"}, TAKES, (200, 100, 50)),
        ({**VISION, "Image.NominalPixelRange": "Normalized_0_1"}, TAKES, (50 / 255, 100 / 255, 200 / 255)),
        ({**VISION, "Image.NominalPixelRange": "Normalized_1_1"}, TAKES,
         (50 / 127.5 - 1, 100 / 127.5 - 1, 200 / 127.5 - 1)),
        ({**VISION, "Image.NominalPixelRange": "NominalRange_16_235"}, TAKES,
         tuple(16 + 219 * level / 255 for level in (50, 100, 200))),
        ({**VISION, "Image.BitmapPixelFormat": "Gray8"}, PictureInput(1, 8, 8), (LIGHT,)),
        ({"Image.BitmapPixelFormat": "Bgr8"}, TAKES, (50, 100, 200)),
        (YOLO, TAKES, (200 / 255, 100 / 255, 50 / 255)),
        ({**YOLO, "imgsz": "8"}, PictureInput(3), (200 / 255, 100 / 255, 50 / 255)),
        ({**YOLO, "description": YOLO["author"], "author": "me"}, TAKES, (200 / 255, 100 / 255, 50 / 255)),
    ],
)  # fmt: skip
def test_what_others_say_of_pictures(entries, takes, values):
    preprocess = read_metadata(entries, 2, takes).preprocess
    found, _ = preprocess(COLOUR)
    np.testing.assert_allclose(found[:, 0, 0], values, atol=0.5 if len(values) == 1 else 1e-4)
    assert preprocess.size_hw == (8, 8)


@pytest.mark.parametrize(
    ("entries", "note"),
    [
        ({**VISION, "Image.BitmapPixelFormat": "Nv12"}, "'Image.BitmapPixelFormat' says 'Nv12', which is not known"),
        ({**VISION, "Image.NominalPixelRange": "HDR"}, "'Image.NominalPixelRange' says 'HDR'"),
        ({"Image.BitmapPixelFormat": "Bgr8"}, "0 to 255 is assumed"),
        ({**YOLO, "imgsz": "[640, 640]"}, "'imgsz' says [640, 640], and 8×8 pixels are taken"),
        ({**YOLO, "imgsz": "many"}, "'imgsz' says many"),
        ({"preprocess": '{"size_hw": [224, 224]}'}, "'preprocess' says 224×224 pixels, and its graph takes 8×8"),
        ({**VISION, "Image.BitmapPixelFormat": "Gray8"}, "prepare pictures of 1 channels, its graph takes 3"),
    ],
)
def test_what_others_say_and_is_not_so_is_noted(entries, note):
    assert note in "; ".join(read_metadata(entries, 2, TAKES).notes)


def test_a_detectors_metadata_say_nothing_of_classifiers():
    assert read_metadata({**YOLO, "task": "detect"}, 2, TAKES).preprocess is None


def test_own_metadata_come_before_others():
    own = {"preprocess": json.dumps({"size_hw": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]})}
    assert read_metadata({**VISION, **own}, 2, TAKES).preprocess == Preprocess((8, 8), mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize(
    ("takes", "values"),
    [
        (PictureInput(3, 8, 8, whole_numbers=True), (200, 100, 50)),
        (PictureInput(1, 8, 8, whole_numbers=True), (124,)),
        (PictureInput(1, 8, 8), (124 / 255,)),
        (PictureInput(3, 8, 8), USUAL),
        (PictureInput(None, None, 8), USUAL),
    ],
)  # fmt: skip
def test_what_is_assumed_where_nobody_says(takes, values):
    preprocess = assumed_preprocess(takes)
    np.testing.assert_allclose(preprocess(COLOUR)[0][:, 0, 0], values, atol=1e-5)
    assert preprocess.size_hw == (takes.height or 224, 8)


def test_whole_numbers_are_never_normalized():
    told = {"preprocess": json.dumps({"size_hw": [8, 8], "fit": "stretch"})}
    found = read_metadata(told, 2, PictureInput(3, 8, 8, whole_numbers=True))
    assert found.preprocess == Preprocess((8, 8), "stretch", mean=(0,) * 3, std=(1,) * 3, scale=255)
    assert "takes whole numbers of 0 to 255" in found.notes[0]
