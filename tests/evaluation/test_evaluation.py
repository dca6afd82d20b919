"""The whole evaluation of networks whose maps are known, its modes, its counts and its messages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from squares import CELL, COLOURS, LABELS, PLAIN, Colours, colours, scenes

import camlucida as cl
from camlucida.boxes.calibration import Calibration
from camlucida.data.record import Example, Record, Truth
from camlucida.errors import CamlucidaError, DataError, TargetError
from camlucida.evaluation import calibrated, evaluate
from camlucida.evaluation.labelled_map import laid
from camlucida.images.preprocess import View
from camlucida.metrics import box_overlaps
from camlucida.models.torch_module import wrap


@pytest.fixture(scope="module")
def data():
    return scenes(36)


@pytest.fixture(scope="module")
def found(data):
    return evaluate(colours(), data, calibration=Calibration(threshold=0.5), bootstrap=200, mosaics=10)


def test_a_network_that_sees_the_object_scores_it(found):
    for key in ("top1", "top5", "gt_known", "top1_loc", "top5_loc", "pointing", "pointing_strict", "max_box_acc"):
        assert found[key].value.value == 1.0, key
    assert found["box_iou"].value.value > 0.9  # half of the maximum lies on the cells' borders
    assert found["box_recall"].value.value > 0.95
    assert found["mask_iou"].value.value > 0.9
    assert found["best_mask_iou"].value.value >= found["mask_iou"].value.value
    assert found["pxap"].value.value > 0.95
    assert found["grid_pointing"].value.value == pytest.approx(1.0, abs=1e-5)
    assert found.warnings == ()


def test_pictures_without_boxes_count_for_classification_alone(found):
    assert found.pictures == found["top1"].pictures == 36
    assert {found[key].pictures for key in ("gt_known", "pointing", "pxap", "max_box_acc_v2")} == {24}
    rows = {row.name: row for row in found.classes}
    assert rows["none"].top1 == 1.0
    assert rows["none"].gt_known is rows["none"].pointing is rows["none"].mask_iou is None
    assert (rows["red"].pictures, rows["red"].gt_known) == (12, 1.0)


def test_baselines_are_what_they_say(found, data):
    beside = {one.name: one.value.value for one in found["gt_known"].baselines}
    assert beside["whole image"] == 0.0  # 24² of 64²
    boxes = [record.truth.boxes[0] for record in data.records if len(record.truth.boxes)]
    best = 0.0
    for side in np.linspace(1, 64, 400):  # any centred square
        low, high = 32 - side / 2, 32 + side / 2
        right = []
        for x1, y1, x2, y2 in boxes:
            shared = max(0, min(x2, high) - max(x1, low)) * max(0, min(y2, high) - max(y1, low))
            right.append(shared / (side * side + 576 - shared) >= 0.5)
        best = max(best, float(np.mean(right)))
    assert beside["centre box"] == pytest.approx(best, abs=0.05)
    strict = {one.name: one.value.value for one in found["pointing_strict"].baselines}["centre point"]
    hits = {label: [] for label in (0, 1)}
    for record in data.records:
        for x1, y1, x2, y2 in record.truth.boxes:
            hits[record.example.labels[0]].append(x1 <= 31 < x2 and y1 <= 31 < y2)
    assert strict == pytest.approx(np.mean([np.mean(one) for one in hits.values()]))
    energy = {one.name: one.value.value for one in found["energy"].baselines}["whole image"]
    assert energy == pytest.approx(24 * 24 / 64 / 64)
    assert found["top1"].baselines[0].value.value == pytest.approx(1 / 3)


def test_a_shortcut_is_exposed_in_words():
    """The class can be read off the corner: classification is perfect, and the verdict says what the maps say."""
    found = evaluate(colours(shortcut=True), scenes(36, cue=True), bootstrap=300, mosaics=0)
    assert found["top1"].value.value == 1.0
    assert found["pointing_strict"].value.value == 0.0
    sentence = next(one for one in found.warnings if "point" in one)
    assert sentence.startswith("The maps point WORSE than the picture's centre (0.00 < ")
    assert sentence.endswith("): the network probably reads something other than the object.")
    assert found.warnings[0] == sentence
    assert any(one.startswith("At their best threshold the boxes are WORSE than a box") for one in found.warnings)
    assert json.loads(json.dumps(found.to_dict()))["warnings"] == list(found.warnings)


def test_protocol_mode_is_the_benchmark_step_by_step(data):
    """Stretched to the input, bicubic to 224, min–max, truth scaled and cut: boxes and pixels by plain loops."""
    some = replace(data, records=data.records[:9])
    found = evaluate(colours(), some, mode="protocol", bootstrap=0, mosaics=0)
    overlaps, images, masks = [], [], []
    for record in some.records:
        label = record.example.labels[0]
        if label == 2:
            continue
        values = torch.from_numpy(record.example.read().pixels.transpose(2, 0, 1) / 255.0)[None].float()
        cells = torch.nn.functional.avg_pool2d(values, CELL)[0].numpy()
        grid = (3 * cells[label] - cells.sum(axis=0)) / 64
        heatmap = cv2.resize(grid, (224, 224), interpolation=cv2.INTER_CUBIC)
        overlaps.append(box_overlaps(heatmap, record.truth.boxes * 224 / 64))
        images.append((heatmap.astype(float) - heatmap.min()) / float(np.ptp(heatmap.astype(float))))
        resized = cv2.resize(np.float32(record.truth.mask) * 255, (224, 224), interpolation=cv2.INTER_NEAREST)
        masks.append(resized > 0.5)
    overlaps = np.array(overlaps)
    expected = [(overlaps >= delta).mean(axis=0).max() for delta in (0.3, 0.5, 0.7)]
    assert found["max_box_acc_v2"].value.value == pytest.approx(np.mean(expected), abs=1e-12)
    for delta, one in zip((0.3, 0.5, 0.7), expected, strict=True):
        assert found[f"max_box_acc_v2_{delta}"].value.value == pytest.approx(one, abs=1e-12)
        np.testing.assert_allclose(found.curves[f"{delta}"], (overlaps >= delta).mean(axis=0), atol=1e-12)
    area = before = 0.0
    for tau in [1.0, *np.arange(0, 1, 0.001)[::-1]]:
        marked = np.stack(images) >= tau
        recall = (marked & masks).sum() / np.sum(masks)
        if marked.any():
            area += (marked & masks).sum() / marked.sum() * (recall - before)
        before = recall
    assert found["pxap"].value.value == pytest.approx(area, abs=1e-9)


def test_exact_mode_lays_maps_by_our_projection_with_the_unseen_lowest():
    grid = np.array([[-3.0, 1.0], [0.0, 2.0]], np.float32)
    view = View((8, 8), (2.0, 0.0, 8.0, 8.0))
    heatmap = laid(grid, view, "exact")
    assert (heatmap[:, :2] == -3.0).all()
    np.testing.assert_array_equal(heatmap[:, 2:], view.project(grid)[:, 2:])
    protocol = laid(grid, view, "protocol")
    np.testing.assert_array_equal(protocol, cv2.resize(grid, (224, 224), interpolation=cv2.INTER_CUBIC))


def test_batches_and_processes_change_nothing(data):
    some = replace(data, records=data.records[:12])
    settings = {"bootstrap": 50, "mosaics": 4, "calibration": Calibration(threshold=0.5)}
    alone = evaluate(colours(), some, batch=5, **settings)
    apart = evaluate(colours(), some, batch=2, workers=1, **settings)
    assert alone.to_dict() == apart.to_dict()


def test_a_picture_of_two_classes_is_two_tasks(data):
    pixels = np.full((64, 64, 3), 60, np.uint8)
    pixels[8:32, 8:32], pixels[32:56, 32:56] = COLOURS
    boxes = np.array([[8.0, 8, 32, 32], [32, 32, 56, 56]])
    record = Record(Example("both", Path(), (0, 1), lambda: pixels), Truth(boxes, np.array([0, 1])))
    found = evaluate(colours(), replace(data, records=(record,)), bootstrap=0, calibration=Calibration(threshold=0.5))
    assert found.pictures == 1
    assert found["gt_known"].value.value == found["pointing_strict"].value.value == 1.0
    assert [row.gt_known for row in found.classes] == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["function", "object"])
def test_a_localizer_is_judged_beside_the_maps(data, kind):
    def whereabouts(picture):
        marked = np.abs(picture.pixels.astype(int) - 60).max(axis=2) > 30
        if not marked.any():
            return np.zeros((0, 4))
        y, x = np.nonzero(marked)
        return [x.min(), y.min(), x.max() + 1, y.max() + 1]

    class Localizer:
        boxes = staticmethod(whereabouts)

    localizer = whereabouts if kind == "function" else Localizer()
    for mode in ("exact", "protocol"):
        found = evaluate(colours(), data, localizer=localizer, bootstrap=0, mosaics=0, mode=mode)
        assert found["found_gt_known"].value.value == found["found_top1_loc"].value.value == 1.0
        assert found["found_iou"].value.value == pytest.approx(1.0)


def test_calibration_comes_from_another_split_with_or_without_boxes(data):
    few = replace(data, records=data.records[:12])
    for boxes in (True, False):
        found = calibrated(colours(), few.split("val"), boxes=boxes)
        assert found.how == ("boxes" if boxes else "pseudo")
        assert evaluate(colours(), data, split="test", calibration=found, bootstrap=0)["gt_known"].value.value == 1.0
    assert evaluate(colours(), data, split="test", bootstrap=0).calibration == Calibration()


def test_masks_alone_are_enough_for_masks_and_pointing(data):
    only = [replace(one, truth=Truth(mask=one.truth.mask)) for one in data.records]
    found = evaluate(colours(), replace(data, records=tuple(only)), bootstrap=0, mosaics=0)
    keys = {figure.key for figure in found.figures}
    assert {"pxap", "mask_iou", "pointing", "energy"} <= keys
    assert not {"gt_known", "max_box_acc", "grid_pointing"} & keys
    assert found.curves == {}
    assert {case.kind for case in found.cases} == {"best", "median", "worst"}


def test_unreadable_pictures_are_named_and_left_out(data, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    records = (*data.records[:6], Record(Example("broken.png", broken, (0,))), *data.records[6:8])
    bad_mask = replace(data.records[9], truth=replace(data.records[9].truth, mask=tmp_path / "none.png"))
    some = replace(data, records=(*records, bad_mask))
    heard = []
    found = evaluate(colours(), some, bootstrap=0, mosaics=0, on_error=heard.append)
    assert found.pictures == 8
    assert list(found.skipped) == heard
    assert len(heard) == 2
    assert any(one.startswith("broken.png: ") for one in heard)
    assert any("none.png" in one for one in heard)
    with pytest.raises(DataError, match=r"broken\.png: "):
        evaluate(colours(), some, bootstrap=0)


def test_a_model_without_names_needs_as_many_classes(data):
    unnamed = wrap(Colours(), "colours", None, PLAIN)
    message = r"the model has 4 classes without names and the data has 3 \('red', 'green', 'none'\)"
    with pytest.raises(TargetError, match=message):
        evaluate(unnamed, data, bootstrap=0)
    four = replace(data, classes=("red", "green", "blue", "none"))
    records = [replace(one, example=replace(one.example, labels=tuple(3 if i == 2 else i for i in one.example.labels)))
               for one in four.records]  # fmt: skip
    assert evaluate(unnamed, replace(four, records=tuple(records)), bootstrap=0)["top1"].value.value == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ("red", "violet", "none")}, r"does not know the data's class 'violet' by one name; the data has "
         r"'red', 'violet', 'none'; the model has 'Red', 'green, lime', 'blue', 'none'"),
        ({"classes": ("red", "lime", "green")}, r"the data's classes 'lime', 'green' are one class to the model"),
    ],
)  # fmt: skip
def test_classes_that_do_not_match_are_listed_on_both_sides(data, change, message):
    with pytest.raises(TargetError, match=message):
        evaluate(colours(), replace(data, **change), bootstrap=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "exam"}, r"has no split 'exam'; its splits are val, test"),
        ({"mode": "fuzzy"}, r"mode: expected 'protocol' or 'exact', got 'fuzzy'"),
        ({"batch": 0}, r"batch: expected at least 1, got 0"),
        ({"workers": -1}, r"workers: expected at least 0, got -1"),
        ({"bootstrap": -1}, r"expected resamples and a seed of at least 0, got -1 and 0"),
        ({"method": "magic"}, r"magic"),
    ],
)
def test_bad_settings_are_named(data, settings, message):
    with pytest.raises(CamlucidaError, match=message):
        evaluate(colours(), data, **settings)


def test_nothing_to_evaluate_is_said(data):
    with pytest.raises(DataError, match="squares: no labelled record to evaluate"):
        evaluate(colours(), replace(data, records=()))
    with pytest.raises(DataError, match="squares: no record with a box to calibrate on"):
        calibrated(colours(), replace(data, records=data.records[2:3]))


class Sideways(Colours):
    """Sees everything half a cell to the right of where it is."""

    def forward(self, images):
        return super().forward(images.roll(CELL // 2, 3))


@pytest.mark.parametrize("views", ["flips", "dihedral"])
def test_views_change_the_maps_that_are_judged(data, views):
    model = wrap(Sideways(), "sideways", LABELS, PLAIN)
    one, several = (evaluate(model, data, bootstrap=0, mosaics=0, tta=each) for each in ("one", views))
    assert several.settings["views"] == views
    assert several["top1"].value == one["top1"].value
    records = [record for record in data.records if len(record.truth.boxes)]
    ex = cl.explain(
        [record.example.read() for record in records], model, tta=views,
        classes=np.array([[record.example.labels[0]] for record in records]),  # red and green have the same ids
    )  # fmt: skip
    shares = []
    for i, record in enumerate(records):
        energy = np.maximum(ex.heatmap(i), 0)
        x0, y0, x1, y1 = record.truth.boxes[0].astype(int)
        shares.append(energy[y0:y1, x0:x1].sum() / energy.sum())
    assert several["energy"].value.value == pytest.approx(np.mean(shares), abs=1e-6)
