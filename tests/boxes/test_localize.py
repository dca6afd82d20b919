"""Masks, components and boxes against a flood fill, and worked examples."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from camlucida.boxes import localize
from camlucida.errors import CamlucidaError


def flood_fill(heatmap, mask, connectivity):
    """Slow and plain: (box, area, score, first pixel) of each part, largest first."""
    height, width = mask.shape
    steps = [(dy, dx) for dy, dx in product((-1, 0, 1), repeat=2) if (dy, dx) != (0, 0)]
    if connectivity == 4:
        steps = [(dy, dx) for dy, dx in steps if dy == 0 or dx == 0]
    left = {(y, x) for y in range(height) for x in range(width) if mask[y, x]}
    parts = []
    for start in product(range(height), range(width)):
        if start not in left:
            continue
        left.remove(start)
        part, queue = [], [start]
        while queue:
            y, x = queue.pop()
            part.append((y, x))
            for dy, dx in steps:
                if (y + dy, x + dx) in left:
                    left.remove((y + dy, x + dx))
                    queue.append((y + dy, x + dx))
        ys, xs = [y for y, _ in part], [x for _, x in part]
        box = [min(xs), min(ys), max(xs) + 1, max(ys) + 1]
        parts.append((box, len(part), np.float32(max(heatmap[p] for p in part)), min(part)))
    return sorted(parts, key=lambda part: (-part[1], part[3]))


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("minimum_area", [1, 3])
@pytest.mark.parametrize("seed", range(40))
def test_components_equal_a_flood_fill(seed, connectivity, minimum_area):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 24, 2)
    heatmap = rng.normal(size=shape).astype(np.float32)
    marked = rng.random(shape) < rng.uniform(0.1, 0.8)
    found = localize.components(heatmap, marked, minimum_area=minimum_area, connectivity=connectivity)
    wanted = [part for part in flood_fill(heatmap, marked, connectivity) if part[1] >= minimum_area]
    assert found.boxes.tolist() == [part[0] for part in wanted]
    assert found.areas.tolist() == [part[1] for part in wanted]
    assert found.scores.tolist() == [part[2] for part in wanted]
    assert (found.boxes.dtype, found.areas.dtype, found.scores.dtype) == (np.int64, np.int64, np.float32)
    assert found.boxes.shape == (len(wanted), 4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_mask_is_strictly_above_a_share_of_the_maximum(seed, threshold, dtype):
    heatmap = np.random.default_rng(seed).normal(size=(9, 13)).astype(dtype)
    top = max(float(value) for value in heatmap.flat)
    wanted = [[float(value) > threshold * top for value in row] for row in heatmap]
    assert localize.mask(heatmap, threshold).tolist() == wanted


@pytest.mark.parametrize("percentile", [0, 10, 50, 90, 100])
def test_mask_at_a_percentile_keeps_that_share_and_only_positive_values(percentile):
    heatmap = np.random.default_rng(3).permutation(np.arange(-20, 81)).reshape(1, 101).astype(np.float32)
    wanted = heatmap > max(percentile - 20, 0)  # 101 evenly spaced values: percentile p is the value p - 20
    np.testing.assert_array_equal(localize.mask(heatmap, percentile=percentile), wanted)


@pytest.mark.parametrize(
    ("heatmap", "options", "wanted"),
    [
        ([[1.0, 5.0]], {}, [[1, 0, 2, 1]]),  # 1 is exactly 20 % of 5, and "above" is strict
        ([[1.0001, 5.0]], {}, [[0, 0, 2, 1]]),
        ([[3.0]], {}, [[0, 0, 1, 1]]),
        ([[0.0]], {}, []),
        ([[-1.0, -2.0]], {}, []),  # 20 % of a negative maximum lies above it: no evidence
        ([[-1.0, -2.0]], {"percentile": 10}, []),
        ([[-9.0, 1.0]], {"threshold": 0.0}, [[1, 0, 2, 1]]),
        ([[1.0, 1.0]], {"threshold": 1.0}, []),
        ([[1, 0, 1], [0, 1, 0]], {}, [[0, 0, 3, 2]]),  # corners connect
        ([[9.0, 0.0, 3.0, 3.0]], {}, [[2, 0, 4, 1]]),  # largest, not strongest
        ([[1.0, 0.0, 1.0]], {}, [[0, 0, 1, 1]]),  # a tie: reading order
        ([[1.0, 0.0, 1.0]], {"largest": False}, [[0, 0, 1, 1], [2, 0, 3, 1]]),
        ([[1.0, 0.0, 1.0, 1.0]], {"largest": False, "minimum_area": 2}, [[2, 0, 4, 1]]),
        ([[1.0, 0.0, 1.0]], {"minimum_area": 2}, []),
        ([[0.0, 1.0], [1.0, 1.0]], {"percentile": 20}, [[0, 0, 2, 2]]),
        (np.ones((4, 7), np.uint8), {}, [[0, 0, 7, 4]]),  # touches every border
    ],
)
def test_boxes_worked_examples(heatmap, options, wanted):
    found = localize.boxes(heatmap, **options)
    assert found.tolist() == wanted
    assert found.shape == (len(wanted), 4)
    assert found.dtype == np.int64


@pytest.mark.parametrize("connectivity", [4, 8])
def test_ties_follow_reading_order_of_the_first_pixel(connectivity):
    heatmap = np.array([[0, 0, 0, 2], [1, 0, 0, 2], [1, 0, 0, 0], [0, 0, 3, 3]], np.float32)
    found = localize.components(heatmap, heatmap > 0, connectivity=connectivity)
    assert found.scores.tolist() == [2, 1, 3]  # OpenCV labels 2×2 blocks and may number them otherwise
    assert found.boxes.tolist() == [[3, 0, 4, 2], [0, 1, 1, 3], [2, 3, 4, 4]]


def test_scaling_changes_neither_mask_nor_boxes_and_inputs_stay():
    heatmap = np.random.default_rng(0).normal(size=(40, 50))
    kept = heatmap.copy()
    np.testing.assert_array_equal(localize.mask(heatmap), localize.mask(heatmap * 1024))
    np.testing.assert_array_equal(localize.boxes(heatmap), localize.boxes(heatmap / 1024))
    np.testing.assert_array_equal(localize.boxes(np.asfortranarray(heatmap)), localize.boxes(heatmap))
    np.testing.assert_array_equal(localize.boxes(heatmap[::-1][::-1]), localize.boxes(heatmap))
    np.testing.assert_array_equal(heatmap, kept)


def slow_iou(a, b):
    """Count pixels of two integer boxes."""
    cells = [{(y, x) for y in range(y1, y2) for x in range(x1, x2)} for x1, y1, x2, y2 in (a, b)]
    union = len(cells[0] | cells[1])
    return len(cells[0] & cells[1]) / union if union else 0.0


@pytest.mark.parametrize("seed", range(10))
def test_iou_counts_pixels(seed):
    rng = np.random.default_rng(seed)
    a, b = (np.sort(rng.integers(-3, 9, (n, 2, 2)), axis=1).reshape(n, 4) for n in (5, 7))
    np.testing.assert_allclose(localize.iou(a, b), [[slow_iou(p, q) for q in b] for p in a], atol=1e-15)


def test_iou_worked_examples():
    square = [[0, 0, 10, 10]]
    assert localize.iou(square, square)[0, 0] == 1.0
    assert localize.iou(square, [[10, 0, 20, 10]])[0, 0] == 0.0  # half-open: neighbours do not touch
    assert localize.iou([[0, 0, 1, 1]], [[0.5, 0, 1.5, 1]])[0, 0] == pytest.approx(1 / 3)
    assert localize.iou(square, []).shape == (1, 0)
    assert localize.iou(np.zeros((0, 4)), square).shape == (0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: localize.mask(np.zeros((2, 3, 4))), r"expected H×W .* got shape \(2, 3, 4\); pass one map at a time"),
        (lambda: localize.mask(np.zeros((0, 4))), r"got shape \(0, 4\)"),
        (lambda: localize.mask([[True]]), "real numbers, got dtype bool"),
        (lambda: localize.mask([[np.nan, 1.0], [1.0, np.nan]]), "2 of 4 values are NaN or infinite"),
        (lambda: localize.mask([[np.nan]]), "1 of 1 values are NaN"),
        (lambda: localize.boxes([[np.inf]]), "1 of 1 values are NaN or infinite"),
        (lambda: localize.mask([[1.0]], 20), r"threshold: expected a share .* \[0, 1\], got 20"),
        (lambda: localize.mask([[1.0]], float("nan")), "threshold: .* got nan"),
        (lambda: localize.mask([[1.0]], percentile=101), r"percentile: .* \[0, 100\], got 101"),
        (lambda: localize.components([[1.0]], np.ones((1, 2), bool)), r"mask: .* shape \(1, 1\), got bool \(1, 2\)"),
        (lambda: localize.components([[1.0]], np.ones((1, 1))), r"got float64 \(1, 1\)"),
        (lambda: localize.components([[1.0]], [[True]]), "got list"),
        (lambda: localize.boxes([[1.0]], minimum_area=0), "minimum_area: expected at least 1 pixel, got 0"),
        (lambda: localize.components([[1.0]], np.ones((1, 1), bool), connectivity=6), "4 or 8, got 6"),
        (lambda: localize.iou([0, 0, 1, 1], [[0, 0, 1, 1]]), r"a_xyxy: expected .* \(M, 4\), got int64 \(4,\)"),
        (lambda: localize.iou([[0, 0, 1, 1]], [[0, 0, 1, 1], [9, 0, 5, 1]]), "b_xyxy: box 1 is .*x1 <= x2"),
        (lambda: localize.iou([[0, 0, 1, np.nan]], []), "a_xyxy: box 0 is .* expected finite"),
    ],
)
def test_messages(call, message):
    with pytest.raises(CamlucidaError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_large_map_of_specks_has_all_its_boxes():
    heatmap = np.zeros((1500, 2000), np.float32)
    heatmap[::5, ::5] = 1.0  # 120,000 parts
    found = localize.boxes(heatmap, largest=False)
    assert len(found) == 120_000
    assert found[:2].tolist() == [[0, 0, 1, 1], [5, 0, 6, 1]]


def test_the_largest_part_is_the_first_of_all(rng: np.random.Generator) -> None:
    for _ in range(500):
        heatmap = rng.random(rng.integers(1, 20, 2))
        marked = heatmap > rng.random()
        found = localize.components(heatmap, marked)
        box, area = localize.largest_part(marked)
        assert area == (found.areas[0] if len(found.areas) else 0)
        assert not area or list(box) == found.boxes[0].tolist()
