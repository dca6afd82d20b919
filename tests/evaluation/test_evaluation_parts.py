"""Bootstrap, baselines, mosaics, verdict and cases, each against a case that is worked out."""

from __future__ import annotations

import numpy as np
import pytest

from camlucida.boxes.calibration import Calibration
from camlucida.boxes.localize import iou
from camlucida.evaluation.bootstrap import Bootstrap, interval
from camlucida.evaluation.cases import chosen
from camlucida.evaluation.centre_baselines import centre_map, centre_overlaps, counted
from camlucida.evaluation.findings import Baseline, Figure, Value
from camlucida.evaluation.grid_pointing import Known, asked, layouts
from camlucida.evaluation.labelled_map import CountingSettings
from camlucida.evaluation.measures import ACCURACY, CLASSES, FIGURES, GRID, MEASURES, Accuracy
from camlucida.evaluation.verdict import CLAIMS, warnings
from camlucida.metrics import MaxBoxAcc, PointingGame, PxAP, box_overlaps


def counters(metric_class, *calls, **settings):
    """One picture's counters for each call."""
    made = []
    for arguments in calls:
        metric = metric_class(**settings)
        metric.update(*arguments)
        made.append(metric.counters)
    return made


def test_the_interval_of_a_share_is_the_binomial_one():
    for count, share in ((400, 0.3), (1000, 0.8)):
        right = np.arange(count) < share * count
        sums = Bootstrap(2000, seed=3)
        sums.add(range(count), [{"a": one} for one in counters(Accuracy, *(([0 if hit else 9],) for hit in right))])
        values = sums.values("a", Accuracy(), [lambda top: top[0]])[0]
        low, high = interval(values)
        spread = np.sqrt(share * (1 - share) / count)
        assert values[0] == pytest.approx(share)
        assert values[1:].std() == pytest.approx(spread, rel=0.06)
        assert (low, high) == pytest.approx((share - 1.96 * spread, share + 1.96 * spread), abs=0.25 * spread)


def test_a_paired_difference_knows_that_both_saw_the_same_pictures():
    """Two metrics that differ on 5 of 200 pictures: the difference is far surer than either."""
    ranks = [0 if i % 2 else 9 for i in range(200)]
    better = [0 if i in (0, 2, 4, 6, 8) else rank for i, rank in enumerate(ranks)]
    rows = [counters(Accuracy, *(([one],) for one in some)) for some in (ranks, better)]
    sums = Bootstrap(1000, seed=0)
    sums.add(range(200), [{"a": a, "b": b} for a, b in zip(*rows, strict=True)])
    a, b = (sums.values(name, Accuracy(), [lambda top: top[0]])[0] for name in "ab")
    low, high = interval(b - a)
    assert 0 < low < 0.025 < high < 0.06
    assert interval(a)[1] - interval(a)[0] > 0.12


def test_resamples_are_weighted_sums_and_thresholds_are_chosen_anew(rng):
    """Every resample of MaxBoxAcc and PxAP equals the metric over the pictures taken that often."""
    maps = rng.random((8, 20, 20))
    boxes = [np.sort(rng.uniform(0, 20, (1, 2, 2)), axis=1).reshape(-1, 4) for _ in maps]
    masks = rng.random((8, 20, 20)) < 0.3
    v2 = counters(MaxBoxAcc, *(([one], [box]) for one, box in zip(maps, boxes, strict=True)))
    pxap = counters(PxAP, *(([one], [mask]) for one, mask in zip(maps, masks, strict=True)))
    sums = Bootstrap(5, seed=1)
    sums.add([10, 11, 12], [{"v2": a, "pxap": b} for a, b in zip(v2[:3], pxap[:3], strict=True)])
    sums.add(range(13, 18), [{"v2": a, "pxap": b} for a, b in zip(v2[3:], pxap[3:], strict=True)])
    weights = np.stack([np.random.default_rng([1, 10 + i]).poisson(1.0, 5) for i in range(8)], axis=1)
    means = sums.values("v2", MaxBoxAcc(), [lambda found: found.mean])[0]
    areas = sums.values("pxap", PxAP(), [float])[0]
    for i, taken in enumerate([np.ones(8, int), *weights]):
        again = [place for place, times in enumerate(taken) for _ in range(times)]
        box_metric, pixel_metric = MaxBoxAcc(), PxAP()
        box_metric.update([maps[place] for place in again], [boxes[place] for place in again])
        pixel_metric.update([maps[place] for place in again], [masks[place] for place in again])
        assert means[i] == pytest.approx(box_metric.compute().mean, abs=1e-6)
        assert areas[i] == pytest.approx(pixel_metric.compute(), abs=1e-6)


def test_classes_that_appear_late_find_their_place():
    calls = [([np.eye(30)], [[[0, 0, 2, 2]]], [label]) for label in (0, 4, 2)]
    sums = Bootstrap(20, seed=0)
    for place, one in enumerate(counters(PointingGame, *calls)):
        sums.add([place], [{"p": one}])
        assert sums.values("p", PointingGame(), [float])[0, 0] == 1.0
    assert np.nanmin(sums.values("p", PointingGame(), [float])) == 1.0


@pytest.mark.parametrize("mode", ["exact", "protocol"])
@pytest.mark.parametrize("size_hw", [(224, 224), (60, 91)])
def test_the_centre_is_a_map_like_any_other(size_hw, mode, rng):
    truth = np.sort(rng.uniform(0, min(size_hw), (3, 2, 2)), axis=1).reshape(-1, 4)
    expected = box_overlaps(centre_map(size_hw), truth, mode=mode)
    np.testing.assert_allclose(centre_overlaps(size_hw, truth, mode), expected, rtol=0, atol=1e-12)
    largest = box_overlaps(centre_map(size_hw), truth, mode=mode, parts="largest")
    np.testing.assert_allclose(largest, expected, rtol=0, atol=1e-12)


def test_boxes_are_counted_as_the_mode_counts_maps():
    """A box given as a box, and as a map that is 1 on it, overlap the truth alike."""
    for box, truth in (([10, 20, 40, 60], [[12.7, 18.2, 45.9, 60.0]]), ([50, 0, 100, 80], [[40.0, 0, 100, 80]])):
        heatmap = np.zeros((80, 100))
        heatmap[box[1] : box[3], box[0] : box[2]] = 1.0
        for mode in ("exact", "protocol"):
            pair = counted(np.array([box]), np.array(truth), (80, 100), mode)
            assert iou(*pair)[0, 0] == pytest.approx(box_overlaps(heatmap, truth, mode=mode)[500], abs=1e-12)


def known(counts):
    return [Known(100 * label + i, label, i / 10) for label, count in enumerate(counts) for i in range(count)]


def test_mosaics_have_tiles_of_different_classes_and_the_most_confident_ones():
    mosaics = layouts(known([4, 4, 4, 4, 4]), 50, seed=0)
    assert len(mosaics) == 50
    for mosaic in mosaics:
        assert len({one.label for one in mosaic}) == 4
        assert asked(mosaic) == [0, 1, 2, 3]
        assert all(one.index % 100 >= 2 for one in mosaic)  # the surer half
    assert len({one.label for mosaic in mosaics for one in mosaic}) == 5
    assert layouts(known([4, 4, 4, 4, 4]), 50, seed=0) == mosaics
    assert layouts(known([4, 4, 4, 4, 4]), 50, seed=1) != mosaics


def test_with_few_classes_one_tile_is_alone_of_its_class():
    for mosaic in layouts(known([3, 3]), 20, seed=0):
        labels = [one.label for one in mosaic]
        (place,) = asked(mosaic)
        assert labels.count(labels[place]) == 1
    assert all(asked(mosaic) for mosaic in layouts(known([3, 3, 3]), 20, seed=0))
    background = [Known(300 + i, 3, 0.9, thing=False) for i in range(4)]
    for mosaic in layouts([*known([3]), *background], 20, seed=0):
        assert [mosaic[place].label for place in asked(mosaic)] == [0]  # "none" is beside it, but never asked for
    for mosaic in layouts([*known([3, 3, 3]), *background], 20, seed=0):
        assert sorted(mosaic[place].label for place in asked(mosaic)) == [0, 1, 2]
    assert layouts(background, 20, seed=0) == layouts(known([5]), 20, seed=0) == []
    assert layouts([], 20, seed=0) == []


def figure(key, own, *others):
    beside = tuple(Baseline(name, Value(value), Value(own - value, *limits)) for name, value, limits in others)
    return Figure(key, key, "group", Value(own), 100, None, beside)


READS = "the network probably reads something other than the object."


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (figure("pointing_strict", 0.10, ("centre point", 0.15, (-0.08, -0.02))),
         f"The maps point WORSE than the picture's centre (0.10 < 0.15): {READS}"),
        (figure("pointing_strict", 0.14, ("centre point", 0.15, (-0.04, 0.02))),
         "The maps point no better than the picture's centre (0.14 against 0.15); chance alone may explain the "
         "difference."),
        (figure("pointing_strict", 0.16, ("centre point", 0.15, (-0.02, 0.04))),
         "The maps point not clearly better than the picture's centre (0.16 against 0.15); chance alone may explain "
         "the difference."),
        (figure("pointing_strict", 0.25, ("centre point", 0.15, (0.06, 0.14))), None),
        (figure("pointing_strict", 1.0, ("centre point", 1.0, (0.0, 0.0))), None),
        (figure("pointing_strict", 0.10, ("centre point", 0.15, ())),
         f"The maps point WORSE than the picture's centre (0.10 < 0.15): {READS}"),
        (figure("max_box_acc", 0.5, ("whole image", 0.7, (-0.3, -0.1)), ("centre box", 0.4, (0.05, 0.2))),
         f"At their best threshold the boxes are WORSE than a box around the whole picture (0.50 < 0.70): {READS}"),
        (figure("gt_known", 0.5, ("whole image", 0.3, (0.1, 0.3)), ("centre box", 0.6, (-0.2, -0.01))),
         "At the operating point the boxes are WORSE than a box of one size around its centre (0.50 < 0.60): the "
         "threshold may not suit: calibrate it."),
        (figure("gt_known", 0.61, ("centre box", 0.6, (-0.2, 0.3))), None),
        (figure("pxap", 0.3, ("whole image", 0.4, (-0.2, -0.05))),
         f"Pixel by pixel the maps find the object WORSE than marking the whole picture (0.30 < 0.40): {READS}"),
        (figure("energy", 0.2, ("whole image", 0.2001, (-0.02, 0.02))),
         "The maps put no more of their positive evidence on the object than an even map would (0.200 against 0.200); "
         "chance alone may explain the difference."),
        (figure("grid_pointing", 0.1, ("chance", 0.25, (-0.2, -0.1))),
         "In mosaics the maps point at their class WORSE than chance (0.10 < 0.25): evidence of one class lies on the "
         "others."),
        (figure("top1", 0.1, ("commonest class", 0.25, (-0.2, -0.1))), None),
    ],
)  # fmt: skip
def test_the_verdict_in_words(case, expected):
    assert warnings([case]) == (() if expected is None else (expected,))


def test_what_is_sure_comes_first():
    doubtful = figure("pointing_strict", 0.14, ("centre point", 0.15, (-0.04, 0.02)))
    sure = figure("pxap", 0.3, ("whole image", 0.4, (-0.2, -0.05)))
    assert [("WORSE" in one) for one in warnings([doubtful, sure])] == [True, False]


def test_cases_are_the_best_the_middle_and_the_worst_and_none_twice():
    overlaps = np.array([0.1, np.nan, 0.9, 0.5, 0.3, 0.7, 0.2, 0.8])
    assert chosen(overlaps, 2) == [
        ("best", 2), ("best", 7), ("median", 5), ("median", 3), ("worst", 0), ("worst", 6),
    ]  # fmt: skip
    assert chosen(np.full(3, np.nan)) == []
    for count in range(1, 30):
        indices = [index for _, index in chosen(np.linspace(0, 1, count))]
        assert len(set(indices)) == len(indices)


def test_the_tables_name_everything_once_and_lack_nothing():
    """Counters and figures have names of their own; figures and baselines read counters that are counted."""
    every = (*MEASURES, ACCURACY, CLASSES, GRID)
    assert len({measure.name for measure in every}) == len(every)
    assert len({spec.key for spec in FIGURES}) == len(FIGURES)
    for spec in FIGURES:
        for measure in (spec.measure, *(one.measure for one in spec.baselines)):
            assert measure in every or isinstance(measure, float), spec.key
    assert set(CLAIMS) <= {spec.key for spec in FIGURES}
    settings = CountingSettings("exact", Calibration(), 3)
    for measure in every:
        metric = measure.make(settings)
        assert (metric + measure.make(settings)).settings == metric.settings
