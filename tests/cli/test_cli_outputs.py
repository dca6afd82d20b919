"""``--output``: which of several tensors that a PyTorch model returns is explained, in every command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")

from commands import Run, caller

NET = """
import torch
from torch import nn


class Tasks(nn.Module):
    pretrained_cfg = {"input_size": (3, 32, 32)}

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU())
        self.kind, self.age = nn.Linear(8, 5), nn.Linear(8, 3)

    def forward(self, x):
        pooled = self.body(x).mean((2, 3))
        return {"kind": self.kind(pooled), "age": self.age(pooled)}


class Ensemble(Tasks):
    def forward(self, x):
        pooled = self.body(x).mean((2, 3))
        return (self.kind(pooled).softmax(1) + self.kind(2 * pooled).softmax(1)) / 2
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    return caller(monkeypatch, capsys)


@pytest.mark.parametrize(("output", "path", "classes"), [("kind", "kind", 5), ("1", "age", 3)])
def test_info_and_map(run: Run, output: str, path: str, classes: int) -> None:
    shown = json.loads(run("info", "net.py:Tasks", "--output", output, "--json").out)
    assert (shown["output"], shown["classes"]) == (path, classes)
    ended = run("map", "photo.png", "-m", "net.py:Tasks", "--output", output, "-o", "out")
    assert ended.code == 0
    assert json.loads(Path("out/manifest.json").read_text())["output"] == path


@pytest.mark.parametrize(
    "command",
    [["info", "net.py:Tasks"], ["map", "photo.png", "-m", "net.py:Tasks"],
     ["export", "net.py:Tasks", "-o", "cam.onnx"], ["serve", "-m", "net.py:Tasks", "--port", "0"]],
    ids=lambda command: command[0],
)  # fmt: skip
def test_without_it_every_command_says_what_there_is(run: Run, command: list[str]) -> None:
    ended = run(*command)
    assert ended.code != 0
    said = " ".join(ended.err.split())
    assert "several tensors that could be its logits (kind (2, 5), age (2, 3))" in said
    assert "say it by output='age'" in said


def test_an_output_that_is_not_there(run: Run) -> None:
    ended = run("info", "net.py:Tasks", "--output", "sex")
    assert ended.code != 0
    assert "output='sex' is no tensor; the model returns kind (2, 5), age (2, 3); name one of these" in " ".join(
        ended.err.split()
    )


def test_compare(run: Run) -> None:
    ended = run("compare", "photo.png", "-m", "net.py:Tasks", "--output", "age", "--methods", "cam,occlusion")
    assert ended.code == 0
    assert [one["failure"] for one in json.loads(Path("camlucida-out/compare.json").read_text())] == ["", ""]


def test_export(run: Run) -> None:
    pytest.importorskip("onnxscript")
    assert run("export", "net.py:Tasks", "--output", "kind", "-o", "cam.onnx").code == 0
    one = json.loads(run("info", "cam.onnx", "--json").out)
    two = json.loads(run("info", "net.py:Tasks", "--output", "kind", "--json").out)
    assert one["classes"] == two["classes"] == 5
    assert one["sample"].partition("·")[0].split()[-2:] == two["sample"].partition("·")[0].split()[-2:]


def test_probabilities_are_said_to_be_such(run: Run) -> None:
    shown = json.loads(run("info", "net.py:Ensemble", "--json").out)
    assert "probabilities" in shown["scores"]
    assert "%" not in shown["sample"].partition("·")[0]
