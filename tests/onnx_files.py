"""ONNX files of small networks, and what their maps are held against."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

import camlucida
from camlucida.explainer import Explainer


def export(net, x, path, **options):
    """Written by the exporter that needs no compiling; ``dynamic`` leaves the batch open."""
    axes = {"pictures": {0: "n"}} if options.pop("dynamic", True) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net.eval(), (x,), path, dynamo=False, input_names=["pictures"], dynamic_axes=axes, **options)
    return path


def plain_demo(path):
    """The demonstration model without its outputs for maps."""
    import onnx

    model = onnx.load(Path(camlucida.__file__).with_name("models") / "demo.onnx")
    for output in [one for one in model.graph.output if one.name in ("maps", "bias")]:
        model.graph.output.remove(output)
    onnx.save(model, path)
    return path


def close(model, net, x, method, classes=(0, 1), tolerance=1e-4):
    """The same scores and maps on both, to a share of the largest value; returns ONNX's."""
    wanted, found = (Explainer(one, method=method)(x, list(classes)) for one in (net, model))
    assert found.maps.shape == wanted.maps.shape
    np.testing.assert_allclose(found.logits, wanted.logits, rtol=0, atol=tolerance * np.abs(wanted.logits).max())
    np.testing.assert_allclose(found.maps, wanted.maps, rtol=0, atol=tolerance * np.abs(wanted.maps).max())
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=tolerance * np.abs(wanted.scores).max())
    assert found.names == wanted.names
    assert found.origin.activation == wanted.origin.activation
    assert found.origin.unit == wanted.origin.unit
    return found
