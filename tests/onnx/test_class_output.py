"""Which output scores the classes: by name, by number of names, by what is made of what; else the user is asked."""

from __future__ import annotations

import numpy as np
import pytest

import camlucida as cl
from camlucida.errors import CamlucidaError, ModelError
from camlucida.explainer import Explainer
from camlucida.onnx.class_output import choose_output

onnx = pytest.importorskip("onnx")
import onnxruntime  # noqa: E402
from wild_formats import also  # noqa: E402
from wild_networks import SIZE, Built, network  # noqa: E402

from camlucida.export.exporting import ExportOptions, export  # noqa: E402
from commands import caller  # noqa: E402

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(3, 4))
OTHER = RNG.normal(size=(3, 4))
LONG = RNG.normal(size=(3, 9))


def softmax(x):
    raised = np.exp(x)
    return raised / raised.sum(1, keepdims=True)


def chosen(values, **options):
    rows = {name: value.shape[1] for name, value in values.items()}
    return choose_output("net.onnx", rows, lambda: values, **options)


@pytest.mark.parametrize(
    ("values", "options", "name", "others"),
    [
        ({"a": LOGITS}, {}, "a", ()),
        ({"embedding": LONG, "logits": LOGITS}, {}, "logits", ("embedding",)),
        ({"probabilities": softmax(LOGITS), "x": LOGITS}, {}, "x", ()),
        ({"x": LOGITS, "again": LOGITS.copy()}, {}, "x", ()),
        ({"y": 1 / (1 + np.exp(-LOGITS)), "x": LOGITS}, {}, "x", ()),
        ({"a": LONG, "b": LOGITS}, {"named": [4]}, "b", ("a",)),
        ({"features": LONG, "b": LOGITS}, {}, "b", ("features",)),
        ({"x": LONG, "class_scores": LOGITS}, {}, "class_scores", ("x",)),
        ({"aux": OTHER, "x": LOGITS}, {}, "x", ("aux",)),
        ({"a": LONG, "b": LOGITS}, {"asked": "a"}, "a", ("b",)),
        ({"a": LONG, "b": LOGITS}, {"asked": "1"}, "b", ("a",)),
        ({"0": LONG, "1": LOGITS, "logits": OTHER}, {"asked": "1"}, "1", ("0", "logits")),
    ],
)
def test_outputs_chosen_by_evidence(values, options, name, others):
    found = chosen(values, **options)
    assert (found.name, found.others) == (name, others)
    assert bool(found.note) == bool(others)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ({"a": LOGITS, "b": OTHER}, {},
         r"net.onnx: several of its outputs may be scores of classes: a \(4\), b \(4\); say which"),
        ({"head_a": LOGITS, "head_b": LONG}, {}, r"several of its outputs"),
        ({"age_logits": LOGITS, "sex_logits": OTHER}, {}, r"--output NAME \(output= in Python\)"),
        ({"a": LOGITS, "b": OTHER}, {"named": [4]}, r"several of its outputs"),
        ({"a": LOGITS, "b": softmax(OTHER)}, {}, r"several of its outputs"),
        ({"a": LOGITS}, {"asked": "b"}, r"has no output 'b' of one row a picture, but a \(4\)"),
        ({"a": LOGITS}, {"asked": "7"}, r"has no output '7'"),
    ],
)  # fmt: skip
def test_outputs_that_are_asked_for(values, options, message):
    with pytest.raises(ModelError, match=message):
        chosen(values, **options)


def saved(path, built: Built):
    onnx.save(built.model, path)
    return path


def batch():
    return np.random.default_rng(3).normal(size=(2, 3, *SIZE)).astype(np.float32)


@pytest.mark.parametrize("what", ["aux", "embedding"])
def test_every_command_takes_the_output_that_is_named(tmp_path, monkeypatch, capsys, what):
    run = caller(monkeypatch, capsys)
    path = saved(tmp_path / "net.onnx", network(end=also(("head_b", what))))
    opened = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    truth = dict(zip(("head_b", "scores"), opened.run(None, {"pictures": batch()}), strict=True))
    for name in ("scores", 1):
        model = cl.open_model(path, output=name)
        np.testing.assert_allclose(
            Explainer(model, method="occlusion")(batch(), [0]).logits, truth["scores"], atol=1e-5
        )
        assert "explained is 'scores' of its outputs; others: head_b" in model.note
    export(path, tmp_path / "cam.onnx", ExportOptions(output="scores"))
    np.testing.assert_allclose(Explainer(tmp_path / "cam.onnx")(batch(), "all").scores, truth["scores"], atol=1e-5)
    mapping = ("map", "-m", path, "--method", "occlusion", "--json")
    for command in (("info", path), mapping, ("export", path, "-o", tmp_path / "b.onnx")):
        assert run(*command, "--output", "scores").code == 0
        assert run(*command, "--output", "absent").code == 2
    with pytest.raises(CamlucidaError, match="has no output 'absent'"):
        export(path, tmp_path / "c.onnx", ExportOptions(output="absent"))


def test_two_heads_are_refused_by_every_command_alike(tmp_path, monkeypatch, capsys):
    run = caller(monkeypatch, capsys)
    built = network(end=also(("head_b", "aux")))
    for node in built.model.graph.node:
        node.output[:] = ["head_a" if name == "scores" else name for name in node.output]
        node.input[:] = ["head_a" if name == "scores" else name for name in node.input]
    built.model.graph.output[1].name = "head_a"
    path = saved(tmp_path / "net.onnx", built)
    for command in (("info", path), ("map", "-m", path), ("export", path, "-o", tmp_path / "cam.onnx")):
        ended = run(*command)
        assert ended.code == 2
        assert "several of its outputs may be scores of classes: head_b (4), head_a (4)" in ended.err
