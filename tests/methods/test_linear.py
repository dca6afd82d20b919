"""Contrastive CAM and Finer-CAM against loops over classes, written from their definitions."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

import camlucida as cl
from camlucida.errors import MethodError
from camlucida.methods.linear import finercam
from nets import BY_NAME


def every_map(name: str):
    case = BY_NAME[name]
    net, batch = case.net(), case.batch(3)
    return net, batch, cl.explain(batch, net, classes="all")


@pytest.mark.parametrize("name", ["gap_linear", "layer_norm", "nhwc"])
def test_contrastive_cam_is_the_difference_to_the_strongest_rival(name: str):
    net, batch, every = every_map(name)
    asked = [0, 3]
    made = cl.explain(batch, net, "contrastive-cam", asked)
    for i in range(len(batch)):
        for t, c in enumerate(asked):
            rivals = [d for d in range(every.logits.shape[1]) if d != c]
            rival = max(rivals, key=lambda d: every.logits[i, d])
            assert np.allclose(made.maps[i, t], every.maps[i, c] - every.maps[i, rival], atol=1e-6)
            assert made.scores[i, t] == pytest.approx(every.logits[i, c] - every.logits[i, rival], abs=1e-6)
    assert made.residual.max() <= 1e-6


@pytest.mark.parametrize(("rivals", "strength"), [(3, 1.0), (2, 0.6), (99, 1.0)])
def test_finercam_weighs_the_nearest_rivals_by_their_probabilities(rivals: int, strength: float):
    net, batch, every = every_map("gap_linear")
    made = cl.explain(batch, net, partial(finercam, rivals=rivals, strength=strength), [1])
    for i in range(len(batch)):
        logits = every.logits[i].astype(np.float64)
        probability = np.exp(logits) / np.exp(logits).sum()
        order = sorted((d for d in range(len(logits)) if d != 1), key=lambda d: abs(logits[d] - logits[1]))[:rivals]
        wanted, score, total = np.zeros(every.grid), 0.0, sum(probability[d] for d in order)
        for d in order:
            wanted += probability[d] / total * (every.maps[i, 1] - strength * every.maps[i, d])
            score += probability[d] / total * (logits[1] - strength * logits[d])
        assert np.allclose(made.maps[i, 0], wanted, atol=1e-6)
        assert made.scores[i, 0] == pytest.approx(score, abs=1e-6)
    assert made.origin.method == "finercam"
    assert made.residual.max() <= 1e-6


@pytest.mark.parametrize("method", ["contrastive-cam", "finercam"])
def test_what_is_no_class_cannot_be_compared(method: str):
    net, batch, _ = every_map("gap_linear")
    with pytest.raises(MethodError, match="this method compares classes"):
        cl.explain(batch, net, method, cl.Contrast(0, 1))
    binary = BY_NAME["binary"]
    with pytest.raises(MethodError, match="at least two"):
        cl.explain(binary.batch(), binary.net(), method)


def test_a_rival_map_of_the_same_class_is_never_used():
    net, batch, _ = every_map("gap_linear")
    with torch.no_grad():
        net.head[-1].weight.copy_(net.head[-1].weight[:1].expand_as(net.head[-1].weight))  # all classes alike
    made = cl.explain(batch, net, "contrastive-cam", [2])
    assert np.abs(made.maps).max() <= 1e-6
