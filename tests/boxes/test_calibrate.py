"""Normalizations and calibration against slow references: every map cut again at every threshold."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from camlucida.boxes.calibration import CANDIDATES, Calibration, calibrate, candidate_overlaps, filled, normalized
from camlucida.boxes.pseudo_boxes import pseudo_box
from camlucida.errors import CamlucidaError


def slow_normalized(heatmap, how, percentile):
    """Pixel by pixel, from the values' order."""
    values = sorted(float(value) for row in heatmap for value in row)
    low, high = values[0], values[-1]
    if how == "max":
        low, high = 0.0, max(high, 0.0)
    if how == "pas":
        value = values[int(len(values) * percentile / 100)]
        high = value if value > low else high
    if how == "ivr":
        low = values[int(len(values) * percentile / 100)]
    if high <= low:
        return np.zeros(np.shape(heatmap))
    return np.array([[min(1.0, max(0.0, (float(v) - low) / (high - low))) for v in row] for row in heatmap])


@pytest.mark.parametrize(("how", "percentile"), CANDIDATES)
def test_normalizations_are_those_of_the_papers(how, percentile, rng):
    maps = [
        rng.standard_normal((7, 9)),
        np.maximum(rng.standard_normal((7, 9)), 0),
        -rng.random((7, 9)),
        np.ones((7, 9)),
    ]
    maps.append(np.eye(9)[:7])  # nearly all at the minimum: the percentile is the minimum
    expected = [slow_normalized(one, how, percentile) for one in maps]
    np.testing.assert_allclose(normalized(np.stack(maps), how, percentile), expected, rtol=0, atol=1e-15)
    for one, alone in zip(maps, expected, strict=True):
        np.testing.assert_allclose(normalized(one.astype(np.float32), how, percentile), alone, rtol=0, atol=1e-6)


def test_one_hot_spot_moves_the_maximum_but_not_the_percentile():
    heatmap = np.zeros((20, 20))
    heatmap[5:15, 5:15] = 1.0
    heatmap[9, 9] = 10.0
    assert Calibration("max", threshold=0.5).boxes(heatmap).tolist() == [[9, 9, 10, 10]]
    assert Calibration("pas", 80, 0.5).boxes(heatmap).tolist() == [[5, 5, 15, 15]]
    tilted = heatmap + 3.0  # an offset that the maximum alone does not undo
    assert Calibration("max", threshold=0.2).boxes(tilted).tolist() == [[0, 0, 20, 20]]
    assert Calibration("ivr", 50, 0.05).boxes(tilted).tolist() == [[5, 5, 15, 15]]


def test_parts_and_empty_maps():
    heatmap = np.zeros((10, 10))
    heatmap[1:3, 1:3] = heatmap[5:9, 5:9] = 1.0
    assert Calibration(parts="all").boxes(heatmap).tolist() == [[5, 5, 9, 9], [1, 1, 3, 3]]
    assert Calibration().boxes(heatmap).tolist() == [[5, 5, 9, 9]]
    for nothing in (np.zeros((4, 4)), -np.ones((4, 4))):
        assert Calibration().boxes(nothing).shape == (0, 4)
        assert not Calibration("minmax").mask(nothing).any()


def best_iou(boxes, truth):
    best = 0.0
    for a in boxes:
        for b in truth:
            across = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
            best = max(best, across / (sum(areas) - across))
    return best


def whole_level_map(rng, offset):
    """A map of whole numbers that spans 255: its 8-bit levels are its values."""
    values = cv2.resize(rng.random((4, 4)), (16, 16), interpolation=cv2.INTER_CUBIC)
    return np.round((values - values.min()) / np.ptp(values) * 255) + offset


@pytest.mark.parametrize("parts", ["largest", "all"])
def test_calibration_is_the_best_of_all_thresholds_tried_one_by_one(parts, rng):
    maps = [whole_level_map(rng, offset) for offset in (0, -100, 40)]
    truth = [np.sort(rng.uniform(0, 16, (2, 2, 2)), axis=1).reshape(-1, 4) for _ in maps]
    candidates = [("max", None), ("minmax", None), ("pas", 90.0), ("ivr", 40.0)]
    curves = np.zeros((len(maps), len(candidates), 1000))
    for i, (heatmap, boxes) in enumerate(zip(maps, truth, strict=True)):
        for c, (how, percentile) in enumerate(candidates):
            for t, threshold in enumerate(np.arange(0, 1, 0.001)):
                # Off the whole numbers: there the two ways may round differently.
                tried = Calibration(how, percentile, float(threshold + 1e-7), parts)
                curves[i, c, t] = best_iou(tried.boxes(heatmap).tolist(), boxes)
        np.testing.assert_allclose(
            candidate_overlaps(heatmap, truth[i], candidates, "exact", parts), curves[i], rtol=0, atol=1e-12
        )
    right = (curves >= 0.5).mean(axis=0)
    found = calibrate(zip(maps, truth, strict=True), parts=parts, candidates=candidates)
    assert found.score == pytest.approx(right.max())
    first = int(right.max(axis=1).argmax())
    assert (found.normalization, found.percentile) == candidates[first]
    assert right[first, round(found.threshold * 1000)] == right.max()
    assert (found.how, found.pictures, found.parts) == ("boxes", 3, parts)


def test_one_threshold_serves_all_pictures():
    """Each map is right at some threshold, but at none both are."""
    low, high = np.zeros((2, 50, 50))
    for heatmap, outer in ((low, 0.4), (high, 0.8)):
        heatmap[5:45, 5:45] = outer
        heatmap[20:30, 20:30] = 1.0
    wide, narrow = [[5, 5, 45, 45]], [[20, 20, 30, 30]]
    crossed = calibrate([(low, wide), (high, narrow)], candidates=[("max", None)])
    assert crossed.score == 0.5
    apart = calibrate([(low, narrow), (high, wide)], candidates=[("max", None)])
    assert apart.score == 1.0
    assert apart.threshold == pytest.approx(0.6, abs=0.005)  # the middle of 0.4 … 0.8


def test_pictures_without_boxes_do_not_count():
    heatmap = np.zeros((20, 20))
    heatmap[5:15, 5:15] = 1.0
    found = calibrate([(heatmap, [[5, 5, 15, 15]]), (heatmap, []), (heatmap, None)])
    assert (found.score, found.pictures) == (1.0, 1)


def scene(rng, box, size=96):
    """A red thing on grey noise, and a map that is high near its middle only."""
    pixels = rng.integers(90, 130, (size, size, 3)).astype(np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = [200, 30, 30]
    y, x = np.mgrid[:size, :size]
    spread = 0.3 * np.array([x2 - x1, y2 - y1])
    heatmap = np.exp(-(((x - (x1 + x2) / 2) / spread[0]) ** 2 + ((y - (y1 + y2) / 2) / spread[1]) ** 2))
    return pixels, heatmap.astype(np.float32)


def test_without_boxes_the_picture_itself_says_how_far_the_thing_goes(rng):
    boxes = [(20, 30, 60, 70), (40, 10, 80, 50), (15, 20, 70, 60)]
    scenes = [scene(rng, box) for box in boxes]
    for (pixels, heatmap), box in zip(scenes, boxes, strict=True):
        assert best_iou(pseudo_box(pixels, heatmap).tolist(), [box]) > 0.9
    found = calibrate([(heatmap, pseudo_box(pixels, heatmap)) for pixels, heatmap in scenes], how="pseudo")
    assert (found.how, found.pictures) == ("pseudo", 3)
    for (_, heatmap), box in zip(scenes, boxes, strict=True):
        assert best_iou(found.boxes(heatmap).tolist(), [box]) > 0.5
    tight = Calibration(threshold=0.8)
    assert best_iou(tight.boxes(scenes[0][1]).tolist(), [boxes[0]]) < 0.5  # it was not right everywhere


def test_a_pseudo_box_needs_a_map_that_says_something():
    pixels = np.zeros((32, 32, 3), np.uint8)
    assert pseudo_box(pixels, np.ones((32, 32))) is None
    with pytest.raises(CamlucidaError, match=r"picture of the map's size \(8, 8\), got uint8 \(32, 32, 3\)"):
        pseudo_box(pixels, np.ones((8, 8)))


def test_unseen_pixels_carry_the_lowest_value():
    heatmap = np.array([[0.0, -2.0, 3.0]])
    seen = np.array([[False, True, True]])
    assert filled(heatmap, seen).tolist() == [[-2.0, -2.0, 3.0]]
    assert heatmap[0, 0] == 0.0
    assert filled(heatmap, np.ones((1, 3), bool)) is heatmap


def test_a_calibration_survives_json():
    for one in (Calibration(), Calibration("ivr", 40, 0.25, "all", "pseudo", 0.7, 0.5, 12)):
        assert Calibration.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    assert str(Calibration("pas", 90, 0.5, how="boxes")) == (
        "above 50 % of the 90th percentile, largest part, chosen with true boxes"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"normalization": "softmax"}, r"normalization: expected minmax, max, pas, ivr, got 'softmax'"),
        ({"percentile": 5}, r"percentile: max has none, got 5"),
        ({"normalization": "ivr", "percentile": 100}, r"percentile: expected a number in \[0, 100\), got 100"),
        ({"threshold": 1.0}, r"threshold: expected a number in \[0, 1\), got 1.0"),
        ({"threshold": float("nan")}, r"threshold: expected a number in \[0, 1\), got nan"),
        ({"threshold": "0.2"}, r"threshold: expected a number in \[0, 1\), got '0.2'"),
        ({"parts": "some"}, r"parts: expected all or largest, got 'some'"),
        ({"how": "guess"}, r"how: expected given or boxes or pseudo, got 'guess'"),
        ({"iou": 0}, r"iou: expected a number in \(0, 1\], got 0"),
        ({"score": 2.0}, r"score: expected a share in \[0, 1\] or nothing, got 2.0"),
        ({"pictures": -1}, r"pictures: expected a count, got -1"),
        ({"colour": "red"}, r"unknown field 'colour'; expected how, iou, "),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(CamlucidaError, match=message):
        Calibration.from_dict(fields)


def test_bad_calls_are_named():
    heatmap = np.eye(8)
    with pytest.raises(CamlucidaError, match="expected an object of its fields, got list"):
        Calibration.from_dict([])
    with pytest.raises(CamlucidaError, match=r"heatmap: expected H×W with H, W >= 1, got shape \(8,\)"):
        calibrate([(heatmap[0], [[0, 0, 4, 4]])])
    with pytest.raises(CamlucidaError, match=r"boxes: expected numbers of shape \(M, 4\)"):
        calibrate([(heatmap, [[0, 0, 4]])])
    with pytest.raises(CamlucidaError, match="no picture with a box"):
        calibrate([(heatmap, []), (heatmap, None)])
    with pytest.raises(CamlucidaError, match=r"expected finite real numbers \(..., H, W\)"):
        normalized([1.0, 2.0])
