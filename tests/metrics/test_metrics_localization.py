"""Localization metrics against slow, independent re-derivations of the public benchmark, and worked examples."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest

from camlucida import metrics
from camlucida.boxes.localize import boxes as paper_boxes
from camlucida.errors import CamlucidaError

SIZE = 224
TAUS = [i * 0.001 for i in range(1000)]


def slow_image(heatmap):
    """The benchmark's 8 bits of a map."""
    values = heatmap.astype(np.float64)
    values = values - values.min()
    if values.max() > 0:
        values = values / values.max()
    return (values * 255).astype(np.uint8)


def slow_contours(image, tau):
    """What is strictly above one threshold."""
    above = image > int(tau * int(image.max()))
    return cv2.findContours(above.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]


def slow_boxes(lines, image, parts):
    """The benchmark's boxes of contours: exclusive corners kept in the map."""
    if not lines:
        return [(0, 0, 0, 0)]
    if parts == "largest":
        lines = [max(lines, key=cv2.contourArea)]
    height, width = image.shape
    found = [cv2.boundingRect(line) for line in lines]
    return [(x, y, min(x + w, width - 1), min(y + h, height - 1)) for x, y, w, h in found]


def slow_iou(a, b):
    across = max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1) * max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return across / (areas[0] + areas[1] - across)


def slow_best(found, truth):
    """The best IoU of any box with any true one, cut to integers: ``slow_iou`` of all pairs."""
    a, b = np.array(found)[:, None], np.trunc(truth)[None]
    sides = np.maximum(0, np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1)
    areas = [np.prod(box[..., 2:] - box[..., :2] + 1, axis=-1) for box in (a, b)]
    across = sides.prod(axis=-1)
    return float((across / (areas[0] + areas[1] - across)).max())


def slow_overlaps(heatmap, truth):
    """The best IoU of all parts and of the largest at each of the 1000 thresholds; each 8-bit level is cut once."""
    image, best = slow_image(heatmap), {}
    for tau in TAUS:
        level = int(tau * 255)
        if level not in best:
            lines = slow_contours(image, tau)
            best[level] = [slow_best(slow_boxes(lines, image, parts), truth) for parts in ("all", "largest")]
    curves = np.array([best[int(tau * 255)] for tau in TAUS])
    return {"all": curves[:, 0], "largest": curves[:, 1]}


def grid_maps(rng, grid, count, size=SIZE):
    """Signed maps of a grid: smooth, rectified, with plateaus, or with blobs."""
    for i in range(count):
        values = rng.standard_normal((grid, grid))
        if i % 4 == 1:
            values = np.maximum(values, 0)
        if i % 4 == 2:
            values = np.round(values)
        if i % 4 == 3:
            y, x = np.mgrid[:grid, :grid] / grid - rng.uniform(0.2, 0.8, (2, 1, 1))
            values = values * 0.1 + np.exp(-8 * (x * x + y * y))
        interpolation = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)[i % 3]
        resized = cv2.resize(values, (size, size), interpolation=interpolation)
        yield resized.astype((np.float32, np.float64)[i % 2])


def some_boxes(rng, count, size=SIZE):
    corners = np.sort(rng.uniform(0, size, (count, 2, 2)), axis=1)
    return corners.reshape(count, 4)


@functools.cache
def grid_cases(grid, count):
    """Maps of a grid, true boxes, and what the slow reference says of them: made once for all tests."""
    rng = np.random.default_rng(grid)
    maps = list(grid_maps(rng, grid, count))
    if grid == 224:  # noise, smoothed a little for all but one: tens of thousands of contours
        maps = [cv2.GaussianBlur(values, (0, 0), sigma) for values, sigma in zip(maps, (0.1, 2, 4, 8), strict=True)]
    truth = [some_boxes(rng, 1 + i % 4) for i in range(count)]
    return maps, truth, [slow_overlaps(*case) for case in zip(maps, truth, strict=True)]


@pytest.mark.parametrize("parts", ["all", "largest"])
@pytest.mark.parametrize(("grid", "count"), [(7, 70), (14, 70), (28, 60), (224, 4)])
def test_protocol_is_the_benchmark_on_maps_of_every_grid(grid, count, parts):
    maps, truth, curves_of = grid_cases(grid, count)
    expected = np.array([curves[parts] for curves in curves_of])
    got = [metrics.box_overlaps(*case, parts=parts) for case in zip(maps, truth, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)

    metric = metrics.MaxBoxAcc(parts=parts)
    metric.update(maps, truth)
    result = metric.compute()
    curves = np.array([(expected >= delta).mean(axis=0) for delta in (0.3, 0.5, 0.7)])
    np.testing.assert_allclose(result.curves, curves, rtol=0, atol=1e-9)
    assert result.mean == pytest.approx(curves.max(axis=1).mean(), abs=1e-9)
    np.testing.assert_allclose(result.threshold, np.array(TAUS)[curves.argmax(axis=1)], atol=1e-12)


@pytest.mark.parametrize("parts", ["all", "largest"])
def test_the_slow_reference_without_its_memory_agrees(parts):
    """The look-up in the reference is itself checked once: every one of the 1000 thresholds by its own contours."""
    rng = np.random.default_rng(5)
    for values in grid_maps(rng, 9, 4, size=40):
        truth = some_boxes(rng, 2, 40)
        image, cut = slow_image(values), [tuple(int(value) for value in box) for box in truth]
        plain = [
            max(slow_iou(a, b) for a in slow_boxes(slow_contours(image, tau), image, parts) for b in cut)
            for tau in TAUS
        ]  # fmt: skip
        np.testing.assert_allclose(metrics.box_overlaps(values, truth, parts=parts), plain, rtol=0, atol=1e-9)
        np.testing.assert_allclose(slow_overlaps(values, truth)[parts], plain, rtol=0, atol=1e-12)


@functools.cache
def noise_cases(shape):
    """Maps of few levels, true boxes, and what the slow reference says of them."""
    rng = np.random.default_rng(shape[0] * 100 + shape[1])
    cases = []
    for levels in (2, 3, 5, 50):
        values = rng.integers(0, levels, shape).astype(np.float64)
        truth = some_boxes(rng, 3, max(shape))
        cases.append((values, truth, slow_overlaps(values, truth)))
    return cases


@pytest.mark.parametrize("parts", ["all", "largest"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (5, 7), (12, 9), (30, 31)])
def test_protocol_on_small_noise_with_many_ties(shape, parts):
    for values, truth, curves in noise_cases(shape):
        expected = curves[parts]
        if np.ptp(values) == 0:
            expected = [max(slow_iou((0, 0, 0, 0), [int(v) for v in box]) for box in truth)] * 1000
        np.testing.assert_allclose(metrics.box_overlaps(values, truth, parts=parts), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("parts", ["all", "largest"])
def test_exact_mode_is_connected_components_level_by_level(parts):
    rng = np.random.default_rng(3)
    for values in [*grid_maps(rng, 6, 6, size=48), rng.integers(0, 3, (20, 20)).astype(float)]:
        truth = some_boxes(rng, 2, values.shape[0])
        scaled = values.astype(np.float64) - values.min()
        image = (scaled / scaled.max() * 255).astype(np.uint8)
        expected = []
        for tau in TAUS:
            # paper_boxes keeps what is above a share of the maximum, which is 255: name the middle of two levels
            found = paper_boxes(image, (int(tau * 255) + 0.5) / 255, largest=parts == "largest")
            best = 0.0
            for a in found.tolist():
                for b in truth.tolist():
                    across = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
                    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
                    best = max(best, across / (sum(areas) - across))
            expected.append(best)
        got = metrics.box_overlaps(values, truth, mode="exact", parts=parts)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("side", "score"), [(10, 0.826), (20, 0.907), (50, 0.961)])
def test_a_perfect_square(side, score):
    heatmap = np.zeros((SIZE, SIZE), np.float32)
    heatmap[30 : 30 + side, 60 : 60 + side] = 7.0
    inclusive, half_open = [[60, 30, 59 + side, 29 + side]], [[60, 30, 60 + side, 30 + side]]
    assert metrics.box_overlaps(heatmap, inclusive)[500] == pytest.approx(score, abs=5e-4)
    assert metrics.box_overlaps(heatmap, half_open, mode="exact")[500] == 1.0
    assert metrics.box_overlaps(heatmap, half_open)[500] == 1.0


def test_a_ring_has_a_second_box_in_the_protocol_only():
    heatmap = np.zeros((100, 100))
    heatmap[20:80, 20:80] = 1.0
    heatmap[30:70, 30:70] = 0.0
    hole = [[29, 29, 71, 71]]  # the hole, and one pixel of the ring around it
    assert metrics.box_overlaps(heatmap, hole)[500] == 1.0
    ring = 42 * 42 / (60 * 60)
    assert metrics.box_overlaps(heatmap, hole, mode="exact")[500] == pytest.approx(ring)
    assert metrics.box_overlaps(heatmap, hole, parts="largest")[500] == pytest.approx(43 * 43 / (61 * 61))
    assert metrics.box_overlaps(heatmap, [[20, 20, 80, 80]], mode="exact")[500] == 1.0


def test_a_constant_map_predicts_one_pixel_in_the_protocol_and_nothing_in_exact_mode():
    heatmap = np.full((9, 9), 3.0)
    np.testing.assert_array_equal(metrics.box_overlaps(heatmap, [[0, 0, 1, 1]]), np.full(1000, 0.25))
    np.testing.assert_array_equal(metrics.box_overlaps(heatmap, [[0, 0, 1, 1]], mode="exact"), np.zeros(1000))


def test_one_threshold_serves_all_images():
    """Each map is right at some threshold, but at none both are: half of the images, not all."""
    low, high = np.zeros((2, 50, 50))
    for heatmap, outer in ((low, 0.4), (high, 0.8)):
        heatmap[5:45, 5:45] = outer
        heatmap[20:30, 20:30] = 1.0
    wide, narrow = [[5, 5, 45, 45]], [[20, 20, 30, 30]]
    apart = metrics.MaxBoxAcc(iou=(0.5,), mode="exact")
    apart.update(np.stack([low, high]), [narrow, wide])  # low: above 0.4; high: below 0.8
    assert apart.compute().accuracy == (1.0,)
    assert apart.compute().threshold[0] == pytest.approx(0.4, abs=0.005)
    crossed = metrics.MaxBoxAcc(iou=(0.5,), mode="exact")
    crossed.update(np.stack([low, high]), [wide, narrow])  # low: below 0.4; high: above 0.8
    assert crossed.compute().accuracy == (0.5,)
    assert crossed.compute().threshold == (0.0,)


def test_one_overlap_means_the_first_version_and_several_the_second():
    assert metrics.MaxBoxAcc(iou=(0.5,)).parts == "largest"
    assert metrics.MaxBoxAcc().parts == "all"
    assert metrics.MaxBoxAcc(iou=(0.5,), parts="all").parts == "all"


def test_inputs_are_not_changed():
    heatmap, box = np.random.default_rng(0).standard_normal((1, 20, 20)), np.array([[1.5, 2.5, 9.5, 9.5]])
    before = heatmap.copy(), box.copy()
    for mode in ("protocol", "exact"):
        metrics.MaxBoxAcc(mode=mode).update(heatmap, [box])
    metrics.PxAP().update(heatmap, heatmap > 0, heatmap > 1)
    metrics.EnergyPointing().update(heatmap, [box])
    np.testing.assert_array_equal(heatmap, before[0])
    np.testing.assert_array_equal(box, before[1])


def slow_pxap(maps, masks, ignore):
    """Precision and recall at each threshold by counting all pixels again."""
    maps = [m.astype(np.float64) for m in maps]
    scaled = [(m - m.min()) / (m - m.min()).max() for m in maps]
    kept = [~i | m for i, m in zip(ignore, masks, strict=True)]
    values = np.concatenate([s[k] for s, k in zip(scaled, kept, strict=True)])
    truth = np.concatenate([m[k] for m, k in zip(masks, kept, strict=True)])
    area, before = 0.0, 0.0
    for tau in [1.0, *np.arange(0, 1, 0.001)[::-1]]:
        predicted = values >= tau
        recall = (predicted & truth).sum() / truth.sum()
        if predicted.any():
            area += (predicted & truth).sum() / predicted.sum() * (recall - before)
        before = recall
    return area


def test_pxap_is_the_sum_over_all_thresholds():
    rng = np.random.default_rng(8)
    maps = list(grid_maps(rng, 7, 8, size=40))
    maps.append((np.arange(1600).reshape(40, 40) % 1001 / 1000).astype(np.float64))  # values on the thresholds
    masks = [rng.random((40, 40)) < 0.3 for _ in maps]
    ignore = [rng.random((40, 40)) < 0.2 for _ in maps]
    metric = metrics.PxAP()
    metric.update(maps, masks, ignore)
    assert metric.compute() == pytest.approx(slow_pxap(maps, masks, ignore), abs=1e-12)
    metric = metrics.PxAP()
    metric.update(np.stack(maps), np.stack(masks))
    assert metric.compute() == pytest.approx(slow_pxap(maps, masks, np.zeros((9, 40, 40), bool)), abs=1e-12)


def test_pxap_of_a_random_order_is_the_share_of_foreground():
    rng = np.random.default_rng(0)
    metric = metrics.PxAP()
    metric.update(rng.random((4, 100, 100)), rng.random((4, 100, 100)) < 0.25)
    assert metric.compute() == pytest.approx(0.25, abs=0.01)


def test_localization_needs_class_and_box():
    good, bad, none = [[0, 0, 10, 10]], [[50, 50, 60, 60]], []
    truth = [[[0, 0, 10, 20]]] * 6  # IoU of the good box: exactly 0.5
    logits = np.array([[9, 8, 7, 6, 5, 4, 3.0]] * 6)
    metric = metrics.Localization()
    metric.update([good, good, good, bad, none, bad + good], truth, [0, 4, 5, 0, 0, 1], logits=logits)
    expected = metrics.LocalizationScores(1 / 6, 3 / 6, 4 / 6, 3 / 6, 5 / 6)
    assert metric.compute() == expected
    by_order = metrics.Localization()
    by_order.update([good, good, good, bad, none, bad + good], truth, [0, 4, 5, 0, 0, 1], top=[[0, 1, 2, 3, 4]] * 6)
    assert by_order.compute() == expected
    ties = metrics.Localization()
    ties.update([good] * 2, truth[:2], [0, 1], logits=np.zeros((2, 7)))
    assert ties.compute().top1 == 0.5
    assert metrics.Localization(iou=0.51).settings == (0.51,)


@pytest.mark.parametrize(("column", "hit"), [(24, 1.0), (25, 0.0)])
def test_pointing_hits_less_than_15_pixels_away(column, hit):
    heatmap = np.zeros((1, 40, 40))
    heatmap[0, 5, column] = 1.0
    mask = np.zeros((40, 40), bool)
    mask[5, 10] = True
    for truth in (mask, [[10, 5, 11, 6]]):
        metric = metrics.PointingGame()
        metric.update(heatmap, [truth], [0])
        assert metric.compute() == hit


def test_pointing_is_a_mean_over_classes_seen():
    heatmap = np.zeros((1, 90, 90))
    heatmap[0, 0, 0] = 1.0
    near, far = [[0, 0, 2, 2]], [[80, 80, 85, 85]]
    metric = metrics.PointingGame()
    metric.update(np.repeat(heatmap, 4, axis=0), [near, far, far, near], [1, 1, 1, 6])
    assert metric.compute() == pytest.approx((1 / 3 + 1) / 2)


def test_energy_counts_the_positive_part():
    heatmaps = np.array([[[3.0, 1.0], [-4.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]]])
    metric = metrics.EnergyPointing()
    metric.update(heatmaps, [[[0, 0, 1, 2]], np.ones((2, 2), bool)])
    assert metric.compute() == pytest.approx(0.75 / 2)


def filled(kind, maps, truth, classes):
    metric = kind()
    if isinstance(metric, metrics.Localization):
        logits = np.stack([np.roll(np.arange(8.0), c) for c in classes]) if len(classes) else np.zeros((0, 8))
        metric.update([box[:1] + 1 for box in truth], truth, classes, logits=logits)
    elif isinstance(metric, metrics.PointingGame):
        metric.update(maps, truth, classes)
    elif isinstance(metric, metrics.PxAP):
        metric.update(maps, [m > 0.4 for m in maps])
    else:
        metric.update(maps, truth)
    return metric


@pytest.mark.parametrize(
    "kind", [metrics.MaxBoxAcc, metrics.PxAP, metrics.Localization, metrics.PointingGame, metrics.EnergyPointing]
)
def test_merging_parts_equals_one_pass(kind):
    rng = np.random.default_rng(2)
    maps, truth = list(grid_maps(rng, 7, 9, size=60)), [some_boxes(rng, 2, 60) for _ in range(9)]
    truth = [np.concatenate([box, [[5, 5, 40, 40]]]) for box in truth]
    classes = np.arange(9) % 7
    whole = filled(kind, maps, truth, classes)
    parts = [filled(kind, maps[s], truth[s], classes[s]) for s in (slice(0, 2), slice(2, 2), slice(2, 9))]
    before = {name: counter.copy() for name, counter in parts[0].counters.items()}
    merged = parts[0] + pickle.loads(pickle.dumps(parts[1])) + parts[2]
    for name, counter in whole.counters.items():
        np.testing.assert_allclose(merged.counters[name], counter, rtol=1e-15)
        np.testing.assert_array_equal(parts[0].counters[name], before[name])
    one, other = merged.compute(), whole.compute()
    if isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-14)
    else:
        assert repr(one) == repr(other)


MAP, BOX = np.eye(4)[None], [[[0, 0, 2, 2]]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.MaxBoxAcc(iou=(0.5, 1.5)), "iou: expected an overlap in .0, 1., got 1.5"),
        (lambda: metrics.MaxBoxAcc(iou=()), "at least one overlap"),
        (lambda: metrics.MaxBoxAcc(mode="v2"), "expected 'protocol' or 'exact', got 'v2'"),
        (lambda: metrics.MaxBoxAcc(parts="some"), "expected 'all' or 'largest', got 'some'"),
        (lambda: metrics.MaxBoxAcc().compute(), "no image was counted; call update first"),
        (lambda: metrics.PxAP().compute(), "no foreground pixel"),
        (lambda: metrics.PointingGame().compute(), "no image was counted"),
        (lambda: metrics.MaxBoxAcc().update(MAP[0], BOX), r"expected \(N, H, W\), got shape \(4, 4\)"),
        (lambda: metrics.MaxBoxAcc().update(3, BOX), r"an array \(N, H, W\) or a list of H×W, got int"),
        (lambda: metrics.MaxBoxAcc().update(MAP * np.nan, BOX), "image 0: heatmap: 16 of 16 values are NaN"),
        (lambda: metrics.MaxBoxAcc().update(MAP, []), "boxes: expected one entry an image, 1, got 0"),
        (lambda: metrics.MaxBoxAcc().update(MAP, [[]]), "image 0: boxes: expected at least one true box"),
        (lambda: metrics.MaxBoxAcc().update(MAP, [[[3, 3, 1, 1]]]), "image 0: boxes: box 0 is .3.0, 3.0, 1.0, 1.0."),
        (lambda: metrics.MaxBoxAcc().update(MAP, [[[-1, 0, 1, 1]]]), "protocol mode needs coordinates of at least 0"),
        (lambda: metrics.box_overlaps(np.zeros((1, 40000)), BOX[0]), "sides of at most 32767"),
        (lambda: metrics.box_overlaps([[-1e308, 1.7e308]], BOX[0]), "range is too large"),
        (lambda: metrics.PxAP().update(MAP, MAP), "masks: image 0: expected bool of the heatmap's shape"),
        (lambda: metrics.PxAP().update(MAP, MAP > 0, MAP), "ignore: image 0: expected bool"),
        (lambda: metrics.PointingGame(tolerance=0), "tolerance: expected pixels above 0"),
        (lambda: metrics.PointingGame().update(MAP, BOX, [0.5]), "classes: expected integers"),
        (lambda: metrics.PointingGame().update(MAP, [[[9, 9, 12, 12]]], [0]), "image 0 has no pixel of the object"),
        (lambda: metrics.Localization().update(BOX, BOX, [0]), "give either logits or top"),
        (lambda: metrics.Localization().update(BOX, [[]], [0], top=[[0]]), "boxes: image 0 has no true box"),
        (lambda: metrics.Localization().update(BOX, BOX, [3], logits=[[0.0, 1.0]]), "3 is not among the 2 classes"),
        (lambda: metrics.Localization().update(BOX, BOX, [0], logits=[[np.nan]]), "logits: some are NaN"),
        (lambda: metrics.Localization().update(BOX, BOX, [0], top=[[0.5]]), r"top: expected \(1, K\), got float64"),
        (lambda: metrics.PxAP() + metrics.EnergyPointing(), "cannot merge PxAP with EnergyPointing"),
        (lambda: metrics.Localization(0.5) + metrics.Localization(0.7), "different settings"),
    ],
)
def test_errors_say_what_was_wrong(call, message):
    with pytest.raises(CamlucidaError, match=message):
        call()


def test_a_refused_update_counts_nothing():
    metric = metrics.MaxBoxAcc()
    with pytest.raises(CamlucidaError, match="image 1"):
        metric.update(np.repeat(MAP, 2, axis=0), [BOX[0], []])
    assert not metric.counters["images"].any()
    assert not metric.counters["correct"].any()


def test_metrics_do_not_import_torch():
    code = "import sys, camlucida.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
