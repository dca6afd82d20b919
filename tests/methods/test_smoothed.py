"""Smoothing by test-time augmentation against loops over the changed inputs, and its identities."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import camlucida as cl  # noqa: E402
from camlucida.errors import MethodError  # noqa: E402
from camlucida.methods.perturbation import scorecam  # noqa: E402
from camlucida.methods.registry import find_method  # noqa: E402
from nets import BY_NAME  # noqa: E402

GAINS = (0.9, 1.0, 1.1)
SIX = tuple(itertools.product(GAINS, (False, True)))


def looped(net, batch, method, classes, changes):
    """Maps, biases and scores of every changed batch explained on its own, then averaged."""
    parts = []
    for gain, flip in changes:
        seen = gain * (batch.flip(-1) if flip else batch)
        made = cl.explain(seen, net, method, classes)
        parts.append((made.maps[..., ::-1] if flip else made.maps, made.bias, made.scores))
    return [np.mean([part[i] for part in parts], 0) for i in range(3)]


@pytest.mark.parametrize(
    "method", ["cam", "gradcam", "hirescam", "layercam", "scorecam", "eigencam", "gradient-x-input"]
)
@pytest.mark.parametrize("name", ["gap_linear", "hardswish", "class_token", "signal", "volume"])
def test_the_mean_over_flips_and_gains(name, method):
    case = BY_NAME[name]
    net, batch = case.net(), case.batch(2)
    made = cl.explain(batch, net, cl.smoothed(method), [1, 3])
    maps, bias, scores = looped(net, batch, method, [1, 3], SIX)
    assert np.abs(made.maps - maps).max() <= 1e-6 * np.abs(maps).max()
    assert np.allclose(made.bias, bias, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert np.allclose(made.scores, scores, rtol=1e-5, atol=1e-6)
    assert made.origin.method == f"{method} (smoothed)"
    assert made.origin.unit == find_method(method).unit


def test_a_decomposition_still_is_one_of_the_mean_score():
    case = BY_NAME["gap_linear"]
    net, batch = case.net(), case.batch(3)
    made = cl.explain(batch, net, cl.smoothed("cam"), "all")
    mean = sum(net(gain * (batch.flip(-1) if flip else batch)) for gain, flip in SIX) / 6
    assert made.residual.max() <= 1e-5
    assert np.allclose(made.scores, mean.detach(), atol=1e-5)
    assert np.allclose(made.logits, net(batch).detach(), atol=1e-5)


def test_top_classes_are_those_of_the_picture_itself():
    case = BY_NAME["gap_linear"]
    net, batch = case.net(), case.batch(4)
    plain = cl.explain(batch, net, "gradcam", 2)
    assert np.array_equal(cl.explain(batch, net, cl.smoothed("gradcam", gains=(-3.0, 0.1)), 2).classes, plain.classes)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"flips": False}, tuple(itertools.product(GAINS, (False,)))),
        ({"gains": (1.0,)}, ((1, False), (1, True))),
        ({"gains": [0.5], "flips": False}, ((0.5, False),)),
    ],
)
def test_options(options, changes):
    case = BY_NAME["hardswish"]
    net, batch = case.net(), case.batch(2)
    made = cl.explain(batch, net, cl.smoothed("gradcam", **options), [0])
    maps, _, scores = looped(net, batch, "gradcam", [0], changes)
    assert np.abs(made.maps - maps).max() <= 1e-6 * np.abs(maps).max()
    assert np.allclose(made.scores, scores, atol=1e-6)


def test_nothing_changed_is_the_method_itself():
    case = BY_NAME["gap_linear"]
    net, batch = case.net(), case.batch(2)
    made = cl.explain(batch, net, cl.smoothed("xgradcam", flips=False, gains=(1.0,)), [2])
    assert np.array_equal(made.maps, cl.explain(batch, net, "xgradcam", [2]).maps)


def test_a_symmetric_picture_has_a_symmetric_map():
    case = BY_NAME["gap_linear"]
    half = case.batch(2)[..., :12]
    made = cl.explain(torch.cat((half, half.flip(-1)), 3), case.net(), cl.smoothed("gradcam"), [1])
    assert np.allclose(made.maps, made.maps[..., ::-1], atol=1e-9)


def test_scores_that_a_method_explains_itself_are_averaged():
    case = BY_NAME["gap_linear"]
    net, batch = case.net(), case.batch(2)
    made = cl.explain(batch, net, cl.smoothed("contrastive-cam"), [1])
    _, _, scores = looped(net, batch, "contrastive-cam", [1], SIX)
    assert np.allclose(made.scores, scores, atol=1e-6)
    assert made.residual.max() <= 1e-5


def test_around_options_a_method_of_ones_own_and_several_layers():
    case = BY_NAME["gap_linear"]
    net, batch = case.net(), case.batch(2)
    few = partial(scorecam, batch=2)
    same = cl.explain(batch, net, cl.smoothed(few), [1]).maps
    assert np.allclose(same, cl.explain(batch, net, cl.smoothed("scorecam"), [1]).maps, atol=1e-7)
    twice = cl.explain(batch, net, cl.smoothed(cl.smoothed("gradcam", gains=(1.0,)), gains=(1.0,)), [1])
    assert twice.origin.method == "gradcam (smoothed) (smoothed)"
    assert np.allclose(twice.maps, cl.explain(batch, net, cl.smoothed("gradcam", gains=(1.0,)), [1]).maps, atol=1e-7)
    fused = cl.explain(batch, net, cl.smoothed("layercam"), [1], layer="stages")
    assert fused.grid == (8, 12)
    assert fused.maps.min() >= 0
    assert fused.maps.max() <= 1


@pytest.mark.parametrize("gains", [(), (0.0, 1.0), (float("nan"),), (float("inf"),)])
def test_gains_that_are_none(gains):
    with pytest.raises(MethodError, match="smoothed: expected gains that are finite and not 0, at least one; got"):
        cl.smoothed("cam", gains=gains)


def test_unknown_methods_are_refused_at_once():
    with pytest.raises(MethodError, match="no method 'gradcamm'"):
        cl.smoothed("gradcamm")
