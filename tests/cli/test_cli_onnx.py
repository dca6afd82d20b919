"""The command line on ONNX classifiers: with maps, without, by methods that need no gradient, on chosen devices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import camlucida as cl
from commands import Run, caller
from onnx_files import plain_demo

onnx = pytest.importorskip("onnx")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Call ``main()`` in an empty folder with the demonstration model, stripped of its maps, as ``plain.onnx``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    plain_demo("plain.onnx")
    return caller(monkeypatch, capsys)


def test_a_plain_classifier_is_explained_by_a_method_without_gradients(run: Run) -> None:
    ended = run("map", "-m", "plain.onnx", "--method", "ablationcam", "--top", 2, "--threads", 1, "--json", "-o", "out")
    assert (ended.code, ended.err) == (0, "")
    record = json.loads(ended.out)
    assert [one["name"] for one in record["classes"]] == ["cat", "face"]
    assert record["grid"] == [10, 10]
    made = dict(np.load("out/chelsea.npz"))
    wanted = cl.explain(cl.sample(), classes=["cat", "face"])
    # Behind an affine head what a channel adds is weight x its mean: the map is cam's, up to a factor a channel.
    assert np.corrcoef(made["maps"].ravel(), wanted.maps.ravel())[0, 1] > 0.7
    assert list(Path("out").glob("*.cat.png"))


def test_the_same_labels_and_logits_with_maps_and_without(run: Run) -> None:
    plain = json.loads(run("map", "-m", "plain.onnx", "--method", "fem", "--json").out)
    bundled = json.loads(run("map", "--json", "--provider", "cpu", "--threads", 2).out)
    for key in ("name", "id"):
        assert plain["classes"][0][key] == bundled["classes"][0][key]
    assert plain["classes"][0]["score"] == pytest.approx(bundled["classes"][0]["score"], rel=1e-5)
    assert (plain["classes"][0]["residual"], bundled["classes"][0]["residual"] < 1e-5) == (None, True)


def test_comparing_lists_what_works_and_says_why_others_do_not(run: Run) -> None:
    methods = "cam,gradcam,rollout,eigencam,ablationcam,reciprocam"
    ended = run("compare", "-m", "plain.onnx", "--methods", methods, "--threads", 1)
    assert ended.code == 1
    table = {row["method"]: row for row in json.loads(Path("camlucida-out/compare.json").read_text())}
    assert list(table) == methods.split(",")
    assert [name for name, row in table.items() if not row["failure"]] == ["eigencam", "ablationcam", "reciprocam"]
    assert "camlucida export plain.onnx -o cam.onnx" in table["cam"]["failure"]
    for name in ("gradcam", "rollout"):
        assert f"{name} needs a network's gradients or inner calls" in table[name]["failure"]
        assert f"{name} " in ended.out.partition("not for this model:")[2]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["map", "-m", "plain.onnx"], "has no maps among its outputs (logits); make them with: camlucida export plain"),
        (["map", "-m", "plain.onnx", "--method", "gradcam"], "plain.onnx: gradcam needs a network's gradients"),
        (["map", "-m", "plain.onnx", "--method", "fem", "--layer", "relu_7"], "an ONNX model has no layers to choose"),
        (["map", "--provider", "abacus"], "there is no provider 'abacus'; this ONNX Runtime has "),
        (["info", "--provider", "qnn"], "provider 'qnn' is not in the installed ONNX Runtime, which has "),
        (["compare", "--provider", "abacus"], "there is no provider 'abacus'"),
        (["serve", "--provider", "abacus"], "there is no provider 'abacus'"),
        (["evaluate", "demo", "synthetic:shapes?count=10", "--provider", "abacus"], "there is no provider 'abacus'"),
        (["map", "-m", "net.py:f", "--threads", "2"], "net.py:f: providers and threads are chosen for ONNX models"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_two(run: Run, arguments: list[str], says: str) -> None:
    ended = run(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert [path.name for path in Path().rglob("*") if path.is_file()] == ["plain.onnx"]


def test_no_threads_are_refused_before_anything_is_opened(run: Run) -> None:
    ended = run("map", "--threads", 0)
    assert ended.code == 2
    assert "--threads" in ended.err
