"""``camlucida train`` from a shell's arguments to a run that opens, on a set of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_training_fit import write_csv_set
from typer.testing import CliRunner

import camlucida as cl
from camlucida import cli
from camlucida.errors import CamlucidaError, TrainingError
from camlucida.training.run_folder import open_run, read_record

TINY = ["--backbone", "small:8-12", "--size", "20", "--stride", "4", "--epochs", "2", "--batch", "8"]


def run(*arguments: str | Path) -> tuple[str, str]:
    """Standard output and standard error of a command that must succeed."""
    result = CliRunner().invoke(cli.app, ["train", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_train_goes_on_and_says_what_it_did(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    write_csv_set(data, spoilt=False)
    settings = [data, "-o", out, *TINY, "--regularizer", "has:rate=0.25", "--regularizer", "cutmix", "--units", "8"]
    said, told = run(*settings)
    assert "18 pictures to train on, 6 to validate on, 3 classes" in told
    assert told.count("epoch ") == 2
    assert "epoch 2/2: loss " in told
    assert "chosen with true boxes" in said
    assert f"camlucida map PICTURE -m {out}" in said
    config = read_record(out).config
    assert config.regularizers == ("has:rate=0.25", "cutmix")
    assert (config.units, config.size, config.batch) == (8, 20, 8)
    assert open_run(out).calibration.how == "boxes"
    weights = (out / "model.safetensors").read_bytes()
    said, told = run(*settings, "--calibrate", "pseudo")
    assert "epoch" not in told  # complete: only calibrated anew
    assert open_run(out).calibration.how == "pseudo"
    assert (out / "model.safetensors").read_bytes() == weights
    found = cl.explain(data / "images" / "0.png", out, classes="all")
    assert found.residual.max() <= 1e-5
    assert set(found.names[0]) == {"square", "bar", "cross"}


def test_a_folder_without_splits_has_one_in_ten_held_out(tmp_path: Path) -> None:
    import cv2
    from small_runs import CLASSES, examples

    data, out = tmp_path / "data", tmp_path / "run"
    for n, example in enumerate(examples(60)):
        place = data / CLASSES[example.labels[0]] / f"{n}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place), example.read().pixels)
    said, told = run(data, "-o", out, *TINY, "--head", "gmp")
    counts = [int(word) for word in told.replace(",", "").split() if word.isdigit()][:2]
    assert sum(counts) == 60
    assert 1 <= counts[1] <= 15
    assert "chosen with pseudo-boxes" in said
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["epoch"] == 1


def test_without_validation_and_calibration(tmp_path: Path) -> None:
    write_csv_set(tmp_path / "data", spoilt=False)
    said, _ = run(tmp_path / "data", "-o", tmp_path / "run", *TINY, "--split-val", "", "--calibrate", "none")
    assert "boxes" not in said
    assert open_run(tmp_path / "run").calibration is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--head", "nothing"], r"head: there is no 'nothing'"),
        (["--regularizer", "nothing"], r"regularizer: there is no 'nothing'"),
        (["--augment", "warp"], r"augment: expected one of none, flips"),
        (["--split-val", "test"], r"has no split 'test'; its splits are train, val"),
        (["--split-val", "", "--patience", "2"], r"patience and keep=best need validation pictures"),
        (["--backbone", "missing.py:net"], r"missing.py: no such file"),
    ],
)
def test_refused_before_anything_is_written(options: list[str], says: str, tmp_path: Path) -> None:
    write_csv_set(tmp_path / "data", spoilt=False)
    with pytest.raises(CamlucidaError, match=says):
        run(tmp_path / "data", "-o", tmp_path / "run", *TINY, *options)
    assert not (tmp_path / "run").exists()


def test_boxes_asked_where_there_are_none(tmp_path: Path) -> None:
    write_csv_set(tmp_path / "data", spoilt=False)
    rows = (tmp_path / "data" / "annotations.csv").read_text().splitlines()
    plain = ["path,split,label", *(",".join(row.split(",")[:3]) for row in rows[1:])]
    (tmp_path / "data" / "annotations.csv").write_text("\n".join(plain) + "\n")
    for mask in (tmp_path / "data" / "masks").iterdir():
        mask.unlink()
    (tmp_path / "data" / "masks").rmdir()
    with pytest.raises(TrainingError, match=r"^calibrate: the validation split has no boxes; take pseudo$"):
        run(tmp_path / "data", "-o", tmp_path / "run", *TINY, "--calibrate", "boxes")
