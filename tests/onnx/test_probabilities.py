"""Probabilities are never activated twice: activations behind casts and clamps are found, others taken as they are."""

from __future__ import annotations

import numpy as np
import pytest

from camlucida.explainer import Explainer

onnx = pytest.importorskip("onnx")
pytest.importorskip("torch")
import onnxruntime  # noqa: E402
from wild_networks import FLOAT, SIZE, K, network  # noqa: E402


def ended(*steps):
    """Further operations behind the scores."""

    def end(make, x):
        for op, inputs, attributes in steps:
            x = make(op, x, *inputs, **attributes)
        make("Identity", x, out="final")
        return [("final", FLOAT, ["N", K])]

    return end


def mean_of_softmaxes(make, x):
    other = make("Mul", x, np.float32(0.3))
    both = make("Add", make("Softmax", x, axis=1), make("Softmax", other, axis=1))
    make("Mul", both, np.float32(0.5), out="final")
    return [("final", FLOAT, ["N", K])]


SOFTMAX = ("Softmax", (), {"axis": 1})
CLIP = ("Clip", (np.float32(0), np.float32(1)), {})


def same(probabilities):
    return probabilities


ENDS = {
    "softmax": (ended(SOFTMAX), "softmax", same),
    "log softmax": (ended(("LogSoftmax", (), {"axis": 1})), "softmax", np.exp),
    "softmax, log": (ended(SOFTMAX, ("Log", (), {})), "softmax", np.exp),
    "softmax, clip": (ended(SOFTMAX, CLIP), "softmax", same),
    "softmax, flatten, cast": (ended(SOFTMAX, ("Flatten", (), {}), ("Cast", (), {"to": FLOAT})), "softmax", same),
    "sigmoid, clip": (ended(("Sigmoid", (), {}), CLIP), "sigmoid", same),
    "nothing": (ended(), "softmax", lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True)),
    "mean of softmaxes": (mean_of_softmaxes, "none", None),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_probability_is_the_files_own(tmp_path, case):
    end, activation, probability = ENDS[case]
    onnx.save(network(end=end).model, tmp_path / "net.onnx")
    batch = np.random.default_rng(0).normal(size=(3, 3, *SIZE)).astype(np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (own,) = session.run(None, {"pictures": batch})
    ex = Explainer(tmp_path / "net.onnx", method="occlusion")(batch, list(range(K)))
    assert ex.origin.activation == activation
    if probability is None:
        np.testing.assert_allclose(ex.scores, own, atol=1e-5)
        assert np.isnan(ex.probabilities).all()
        assert "probabilities" in ex.origin.note
    else:
        np.testing.assert_allclose(ex.probabilities, probability(own), atol=1e-5)
