"""``compare``: costs, failures told, agreement as SciPy computes it, and the files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import camlucida as cl
from camlucida import cli
from camlucida.errors import MethodError
from camlucida.judging.compare import SIDE, agreement, compare, ranks, reference, save
from nets import pooled

METHODS = ["eigencam", "cam", "gradcam", "layercam", "rollout", "random"]


@pytest.fixture(scope="module")
def rows():
    torch.manual_seed(3)
    net = pooled(torch.nn.Linear(6, 5)).eval()
    return compare(cl.sample(), net, METHODS)


def test_ranks_are_scipys(rng: np.random.Generator) -> None:
    for values in (rng.normal(size=200), rng.integers(0, 9, 200), np.zeros(5)):
        assert np.array_equal(ranks(values), stats.rankdata(values))


def test_rows_say_cost_and_failure(rows) -> None:
    assert [row.method for row in rows] == METHODS
    by_name = {row.method: row for row in rows}
    assert "attention" in by_name["rollout"].failure
    assert by_name["rollout"].explanation is None
    assert all(row.cost > 0 for row in rows if not row.failure)
    assert reference(rows) == METHODS.index("cam")
    assert reference([by_name["rollout"]]) is None


def test_agreement_is_spearmans_correlation_of_the_laid_maps(rows) -> None:
    table = agreement(rows)
    laid = [row.explanation and row.explanation.heatmap(0, size=(SIDE, SIDE)).ravel() for row in rows]
    seen = rows[1].explanation.seen(0, size=(SIDE, SIDE)).ravel()
    for i, a in enumerate(laid):
        for j, b in enumerate(laid):
            if a is None or b is None:
                assert np.isnan(table[i, j])
            else:
                assert table[i, j] == pytest.approx(stats.spearmanr(a[seen], b[seen]).statistic, abs=1e-9)
    assert table[METHODS.index("gradcam"), METHODS.index("cam")] > 0.999  # an affine head: they are the same map


def test_what_is_written(rows, tmp_path: Path) -> None:
    save(rows, tmp_path / "new" / "folder")
    found = json.loads((tmp_path / "new/folder/compare.json").read_text())
    assert [row["method"] for row in found] == METHODS
    assert found[1]["residual"] < 1e-5
    assert found[0]["residual"] is None
    assert found[1]["agreement"]["cam"] == pytest.approx(1)
    with Image.open(tmp_path / "new/folder/compare.png") as sheet:
        assert min(sheet.size) > 300


def test_the_public_function_reads_the_picture_and_opens_the_model_itself(tmp_path: Path) -> None:
    Image.fromarray(cl.sample().pixels).save(tmp_path / "cat.png")
    for picture in (tmp_path / "cat.png", str(tmp_path / "cat.png"), cl.sample().pixels, cl.sample()):
        (result,) = cl.compare(picture, methods="cam", classes=["dog"])
        assert (result.method, result.failure, result.explanation.names) == ("cam", "", (("dog",),))
        assert np.allclose(result.explanation.maps, cl.explain(cl.sample(), classes=["dog"]).maps, atol=1e-5)
    assert [result.method for result in cl.compare(cl.sample(), methods=("cam", "gradcam"))] == ["cam", "gradcam"]
    with pytest.raises(cl.CamlucidaError, match=r"gone\.png: no such file"):
        cl.compare(tmp_path / "gone.png")


def test_nothing_is_written_where_no_method_works(rows, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=r"no method could explain this model: .*attention"):
        save([row for row in rows if row.method == "rollout"], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    body = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU())\n"
        "    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["camlucida", "compare", "-m", "own.py:net", "--methods", "cam, rollout"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "agrees with cam" in out
    assert "rollout" in out.partition("not for this model:")[2]
    assert (tmp_path / "camlucida-out/compare.png").exists()
