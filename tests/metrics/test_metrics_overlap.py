"""Mask IoU, box extents, localization at the best threshold and the grid pointing game: slow references, examples."""

from __future__ import annotations

import numpy as np
import pytest

from camlucida import metrics
from camlucida.errors import CamlucidaError


def test_mask_iou_is_the_mean_over_pictures_without_ignored_pixels(rng):
    predicted, masks, ignore = rng.random((3, 6, 12, 9)) < np.array([0.4, 0.3, 0.2])[:, None, None, None]
    expected = []
    for p, m, i in zip(predicted, masks, ignore, strict=True):
        both = either = 0
        for place in np.ndindex(p.shape):
            if i[place] and not m[place]:
                continue
            both += bool(p[place] and m[place])
            either += bool(p[place] or m[place])
        expected.append(both / either)
    metric = metrics.MaskIoU()
    metric.update(predicted, masks, ignore)
    assert metric.compute() == pytest.approx(np.mean(expected), abs=1e-12)


def test_best_mask_iou_tries_every_threshold(rng):
    maps, masks = rng.standard_normal((5, 11, 13)), rng.random((5, 11, 13)) < 0.3
    ignore = rng.random((5, 11, 13)) < 0.2
    curve = []
    for tau in np.arange(0, 1, 0.001):
        scores = []
        for heatmap, mask, out in zip(maps, masks, ignore, strict=True):
            image = ((heatmap - heatmap.min()) / np.ptp(heatmap) * 255).astype(np.uint8)
            marked, kept = image > int(tau * 255), ~out | mask
            scores.append((marked & mask & kept).sum() / ((marked | mask) & kept).sum())
        curve.append(np.mean(scores))
    metric = metrics.MaxMaskIoU()
    metric.update(maps, masks, ignore)
    best, threshold = metric.compute()
    assert best == pytest.approx(max(curve), abs=1e-12)
    assert threshold == pytest.approx(np.arange(0, 1, 0.001)[int(np.argmax(curve))])


def test_extents_tell_points_from_extents():
    metric = metrics.BoxExtents()
    truth = [[0, 0, 10, 10]]
    metric.update([[[4, 4, 6, 6]], [[0, 0, 20, 10]], [], [[50, 50, 60, 60]]], [truth] * 4)
    found = metric.compute()
    assert found.iou == pytest.approx((0.04 + 0.5) / 4)
    assert found.recall == pytest.approx((0.04 + 1.0) / 4)
    assert found.precision == pytest.approx((1.0 + 0.5) / 4)


def test_best_localization_takes_one_threshold_for_class_and_box(rng):
    overlaps = rng.random((40, 1000))
    ranks = rng.integers(0, 8, 40)
    top = np.array([[0 if place == rank else 1 for place in range(8)] for rank in ranks])
    metric = metrics.MaxLocalization(0.5)
    metric.update(overlaps[:15], np.zeros(15, int), top=top[:15])
    other = metrics.MaxLocalization(0.5)
    other.update(overlaps[15:], np.zeros(25, int), top=top[15:])
    found = (metric + other).compute()
    best = max(range(1000), key=lambda t: (sum(overlaps[:, t] >= 0.5), -t))
    assert found.threshold == pytest.approx(best / 1000)
    right = overlaps[:, best] >= 0.5
    assert found.gt_known == right.mean()
    assert found.top1 == (right & (ranks == 0)).mean()
    assert found.top5 == (right & (ranks < 5)).mean()


@pytest.mark.parametrize("mode", ["exact", "protocol"])
def test_both_parts_at_once_equal_one_after_the_other(mode, rng):
    for shape in ((9, 9), (40, 31)):
        heatmap = rng.integers(0, 9, shape).astype(float)
        boxes = np.sort(rng.uniform(0, 30, (3, 2, 2)), axis=1).reshape(-1, 4)
        both = metrics.part_overlaps(heatmap, boxes, ("largest", "all"), mode=mode)
        for one, parts in zip(both, ("largest", "all"), strict=True):
            np.testing.assert_array_equal(one, metrics.box_overlaps(heatmap, boxes, mode=mode, parts=parts))


def slow_share(heatmap, tile, tiles, fine=60):
    """Each cell cut into small squares; those in the tile counted."""
    height, width = heatmap.shape
    inside = total = 0.0
    for y in range(fine):
        for x in range(fine):
            value = max(0.0, heatmap[y * height // fine, x * width // fine])
            total += value
            if (y * tiles // fine, x * tiles // fine) == divmod(tile, tiles):
                inside += value
    return inside / total


@pytest.mark.parametrize(("shape", "tiles"), [((4, 4), 2), ((5, 3), 2), ((1, 2), 2), ((3, 3), 3), ((5, 4), 3)])
def test_grid_pointing_counts_cells_on_the_border_by_area(shape, tiles, rng):
    heatmap = rng.standard_normal(shape)
    heatmap[0, 0] = 1.0
    shares = []
    for tile in range(tiles**2):
        metric = metrics.GridPointing(tiles)
        metric.update(heatmap[None], [tile])
        shares.append(metric.compute())
        assert shares[-1] == pytest.approx(slow_share(heatmap, tile, tiles), abs=1e-9)
    assert sum(shares) == pytest.approx(1.0)


def test_an_even_map_points_by_chance_and_a_negative_one_nowhere():
    metric = metrics.GridPointing()
    metric.update([np.ones((7, 7))], [3])
    assert metric.compute() == pytest.approx(0.25)
    metric.update([-np.ones((7, 7))], [3])
    assert metric.compute() == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.GridPointing(1), "tiles: expected at least 2 in a row, got 1"),
        (lambda: metrics.GridPointing().update(np.ones((1, 2, 2)), [4]), "tiles: image 0: expected 0 to 3, got 4"),
        (lambda: metrics.MaskIoU().update([np.ones((2, 2), bool)], [np.zeros((2, 2), bool)]), "no pixel of the object"),
        (lambda: metrics.MaskIoU().update([np.ones((2, 2), bool)], []), "masks: expected one entry an image, 1, got 0"),
        (lambda: metrics.MaxMaskIoU().update(np.ones((1, 2, 2)), [np.ones((3, 3), bool)]), "masks: image 0: expected"),
        (lambda: metrics.BoxExtents().update([[]], [[]]), "boxes: image 0 has no true box"),
        (lambda: metrics.MaxLocalization().update(np.ones((1, 5)), [0], top=[[0]]), r"overlaps: expected \(1, 1000\)"),
        (lambda: metrics.MaskIoU().compute(), "no image was counted"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(CamlucidaError, match=message):
        call()
