"""A run from start to end: kills, processes, truth, early stopping, what is refused, and the run as a model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import CLASSES, SIZE, config, examples, train
from torch import Tensor

import camlucida as cl
from camlucida.data.record import Example
from camlucida.errors import MethodError, ModelError, TrainingError
from camlucida.images.picture import read
from camlucida.training import classifier_training as module
from camlucida.training import fit as fitting
from camlucida.training.classifier_training import averaged, one_cycle, stopped
from camlucida.training.config import TrainConfig
from camlucida.training.fit import LAST, fit
from camlucida.training.run_folder import open_network, open_run, read_record, store_calibration, write_record
from camlucida.training.synced_normalization import SyncedNormalization
from camlucida.training.training_loop import CheckpointFiles

HERE = Path(__file__).parent
EVERYTHING: dict[str, Any] = {
    "epochs": 3, "head": "fc:hidden=16", "regularizers": ("has", "cutmix:rate=0.5", "adl"), "augment": "crops",
    "ema": 0.9, "label_smoothing": 0.1, "sizes": ((0.0, 16), (0.4, 20)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Bit for bit needs as many threads each time; small networks need one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(run: Path) -> dict[str, Tensor]:
    return dict(load_file(run / "model.safetensors"))


def same(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same weights, bit for bit, and the same log but for the time it took."""
    rows = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (one, other)]
    for row in rows[0] + rows[1]:
        del row["seconds"]
    first, second = weights(one), weights(other)
    return rows[0] == rows[1] and first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


class Killed(BaseException):
    """Stands for a kill where a process of its own would take too long."""


def killed_at(step: int, out: Path, **settings: Any) -> None:
    """Train, and stop for good when step number ``step`` begins."""
    whole: Callable[..., Tensor] = module.ClassifierTraining.training_step

    def training_step(self: Any, batch: Any, index: int) -> Tensor:
        if self.global_step == step:
            raise Killed
        return whole(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.ClassifierTraining, "training_step", training_step)
        with pytest.raises(Killed):
            train(out, **settings)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return train(tmp_path_factory.mktemp("undisturbed") / "run", **EVERYTHING)


@pytest.mark.parametrize(("kills", "steps"), [((2, 6, 9), 0), ((3, 7, 11), 2)])
def test_killed_at_any_step_it_ends_the_same(
    kills: tuple[int, ...], steps: int, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for step in kills:
        killed_at(step, out, checkpoint_steps=steps, **EVERYTHING)
        assert not list(out.rglob("*.part"))
    train(out, checkpoint_steps=steps, **EVERYTHING)
    assert same(out, undisturbed)


def test_killed_while_the_checkpoint_is_written(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    whole = CheckpointFiles.save_checkpoint
    saved: list[int] = []

    def save(self: Any, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        saved.append(1)
        if len(saved) == 2:
            (out / "checkpoints" / ".camlucida-0.part").write_bytes(b"half")
            raise Killed
        whole(self, checkpoint, path, storage_options)

    monkeypatch.setattr(CheckpointFiles, "save_checkpoint", save)
    with pytest.raises(Killed):
        train(out, **EVERYTHING)
    train(out, **EVERYTHING)
    assert same(out, undisturbed)


def script(out: Path, *killed_at: int, **changes: Any) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own, which prints each epoch as it ends."""
    command = [sys.executable, str(HERE / "small_runs.py"), str(out), json.dumps(changes), *map(str, killed_at)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_kill_9_in_the_middle_of_an_epoch(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    died = script(out, 6, **EVERYTHING)  # an epoch has four steps
    assert died.returncode == -signal.SIGKILL
    assert died.stdout == "0.0\n"
    assert read_record(out).state == "training"
    assert len((out / "log.jsonl").read_text().splitlines()) == 1
    epochs: list[float] = []
    went_on = config(**EVERYTHING)
    fit(went_on, examples(36), examples(12, 1000), CLASSES, out, on_epoch=lambda row: epochs.append(row["epoch"]))
    assert epochs == [1.0, 2.0]  # it did not begin again
    assert same(out, undisturbed)


def test_two_processes_are_one(tmp_path: Path) -> None:
    settings = {"epochs": 2, "units": 8, "augment": "crops"}
    two = script(tmp_path / "two", devices=2, **settings)
    assert two.returncode == 0, two.stderr
    assert two.stdout == "0.0\n1.0\n"  # told once
    assert "Warning" not in two.stderr
    train(tmp_path / "one", **settings)
    rows = [json.loads((tmp_path / run / "log.jsonl").read_text().splitlines()[-1]) for run in ("one", "two")]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "lr"):
        assert abs(rows[0][name] - rows[1][name]) <= 1e-5, name
    found, expected = weights(tmp_path / "two"), weights(tmp_path / "one")
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5, 3)])
def test_synced_normalization_of_one_process_is_torchs(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        kind = torch.nn.BatchNorm2d if len(shape) == 4 else torch.nn.BatchNorm1d
        results = []
        for synced in (False, True):
            torch.manual_seed(0)
            norm = kind(4).double()
            torch.nn.init.normal_(norm.weight)
            x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
            if synced:
                with SyncedNormalization():
                    made = norm(x)
            else:
                made = norm(x)
            (made * torch.arange(made.numel()).reshape(made.shape)).sum().backward()
            results.append([made, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
        for plain, own in zip(*results, strict=True):
            torch.testing.assert_close(own, plain, rtol=1e-9, atol=1e-9)
    finally:
        torch.distributed.destroy_process_group()


def test_it_learns_and_the_maps_find_the_object(tmp_path: Path) -> None:
    out = train(tmp_path / "run", 240, epochs=8, backbone="small:12-16")
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(8))
    assert rows[-1]["accuracy"] > 0.9
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    assert rows[-1]["val_accuracy"] >= 10 / 12
    assert set(rows[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds"}
    hits = 0
    for example in examples(12, 1000):
        picture = example.read()
        bright = picture.pixels.min(2) > 150
        heat = cl.explain(picture, str(out), classes=[CLASSES[example.labels[0]]]).heatmap()
        y, x = np.unravel_index(int(heat.argmax()), heat.shape)
        hits += bool(bright[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4].any())
    assert hits >= 10


def test_the_run_opens_as_a_model_with_equal_logits(undisturbed: Path, tmp_path: Path) -> None:
    out = train(tmp_path / "run", units=8)
    network, run = open_network(out)
    assert run.classes == CLASSES
    assert run.state == "complete"
    assert run.config == config(units=8)
    images = np.stack([run.preprocess(example.read().pixels)[0] for example in examples(5)])
    with torch.no_grad():
        logits, maps = network.maps(torch.from_numpy(images))
    made = cl.explain([example.read().pixels for example in examples(5)], str(out), classes="all")
    assert made.names[0] == CLASSES
    assert made.origin.activation == "softmax"
    np.testing.assert_allclose(made.logits, logits.numpy(), atol=1e-6)
    np.testing.assert_allclose(made.maps, maps.numpy(), atol=1e-6)
    assert made.residual.max() <= 1e-5
    one = cl.explain(read(examples(1)[0].read().pixels), str(out), classes=[cl.Contrast("bar", 2)])
    np.testing.assert_allclose(one.maps[0, 0], (maps[0, 1] - maps[0, 2]).numpy(), atol=1e-6)
    assert one.residual.max() <= 1e-5
    other = cl.explain(examples(1)[0].read().pixels, str(out), classes="all", method="gradcam")
    assert other.maps.shape == maps[:1].shape
    hidden = cl.explain(examples(1)[0].read().pixels, str(undisturbed), classes="all")
    assert np.isnan(hidden.bias).all()
    assert np.isnan(hidden.residual).all()
    assert "sums to no logit" in hidden.origin.head
    with pytest.raises((ModelError, MethodError), match="classes and their contrasts"):
        cl.explain(examples(1)[0].read().pixels, str(out), classes=lambda logits: logits[:, 0] ** 2)


def test_an_unfinished_run_opens_with_its_best_weights_and_says_so(tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed_at(1, out)
    with pytest.raises(ModelError, match=r"model.safetensors: not there yet; the run has not finished an epoch$"):
        open_run(out)
    killed_at(5, out)
    assert open_run(out).note == "its training is not finished: these are the best weights so far"


def test_a_finished_run_is_left_as_it_is(undisturbed: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    train(undisturbed, **(EVERYTHING | {"workers": 2, "checkpoint_steps": 3}))  # how it runs is not what it is
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()} == before


def test_the_log_for_tensorboard_has_scalars_and_maps(undisturbed: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(undisturbed / "logs"))
    events.Reload()
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "lr"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["maps"]
    assert [image.step for image in events.Images("maps")] == [1, 2, 3]
    rows = [json.loads(line) for line in (undisturbed / "log.jsonl").read_text().splitlines()]
    logged = [scalar.value for scalar in events.Scalars("val_accuracy")]
    assert np.allclose(logged, [row["val_accuracy"] for row in rows])


def test_truth_is_never_seen(tmp_path: Path) -> None:
    """Boxes and masks spoilt, the weights are the same: training is given examples, which carry none."""
    from camlucida.data import open_dataset

    assert not {"boxes", "mask", "truth"} & set(vars(Example("a", Path(), ())))
    runs = []
    for spoilt in (False, True):
        folder = tmp_path / f"data{spoilt}"
        write_csv_set(folder, spoilt)
        data = open_dataset(folder)
        runs.append(
            fit(
                config(),
                data.split("train").examples,
                data.split("val").examples,
                data.classes,
                tmp_path / f"run{spoilt}",
            )
        )
    assert same(*runs)


def write_csv_set(folder: Path, spoilt: bool) -> None:
    """Twenty-four pictures with boxes and masks; ``spoilt``: boxes elsewhere, masks of noise."""
    import cv2

    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    lines = ["path,split,label,width,height,x0,y0,x1,y1"]
    rng = np.random.default_rng(4)
    for n, example in enumerate(examples(24)):
        pixels = example.read().pixels
        mask = (pixels.min(2) > 150).astype(np.uint8) * 255
        ys, xs = np.nonzero(mask)
        box = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        if spoilt:
            mask, box = rng.integers(0, 2, mask.shape, np.uint8) * 255, [0, 0, 2, 2]
        cv2.imwrite(str(folder / "images" / f"{n}.png"), pixels[:, :, ::-1])
        cv2.imwrite(str(folder / "masks" / f"{n}.png"), mask)
        split = "val" if n % 4 == 3 else "train"
        label = CLASSES[example.labels[0]]
        lines.append(f"images/{n}.png,{split},{label},{SIZE},{SIZE},{','.join(map(str, box))}")
    (folder / "annotations.csv").write_text("\n".join(lines) + "\n")


def test_early_stopping_and_the_best_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = [0.5, 0.75, 0.25, 0.5, 0.25, 1.0]
    kept: list[dict[str, Tensor]] = []
    original = module.ClassifierTraining._tally_of_all

    def tally(self: Any) -> Tensor:
        found = original(self).clone()
        found[1, 1] = accuracies[self.current_epoch] * found[1, 2]
        kept.append({name: value.clone() for name, value in self.network.used_state().items()})
        return found

    monkeypatch.setattr(module.ClassifierTraining, "_tally_of_all", tally)
    out = train(tmp_path / "run", epochs=6, patience=2, keep="best")
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["val_accuracy"] for row in rows] == accuracies[:4]
    assert all(torch.equal(value, kept[1][name]) for name, value in weights(out).items())
    assert read_record(out).state == "complete"


def test_a_run_that_stopped_early_stays_stopped_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"

    def best_at_first(row: module.Row) -> float:
        return -row["epoch"]

    monkeypatch.setattr(module, "score_of", best_at_first)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "write_record", lambda folder, run: write_record(folder, replace(run, state="training")))
        train(out, epochs=6, patience=2)
    assert read_record(out).state == "training"
    before = weights(out)
    train(out, epochs=6, patience=2)
    assert len((out / "log.jsonl").read_text().splitlines()) == 3
    assert all(torch.equal(value, before[name]) for name, value in weights(out).items())
    assert read_record(out).state == "complete"


def test_averaged_weights() -> None:
    average, network = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    torch.nn.init.constant_(network.weight, 3.0)
    network.running_mean += 5
    network.num_batches_tracked += 7
    averaged(average, network, 0.9)
    assert average.weight.tolist() == pytest.approx([1.2, 1.2])
    assert average.running_mean.tolist() == pytest.approx([0.5, 0.5])
    assert int(average.num_batches_tracked) == 7
    assert network.weight.tolist() == [3, 3]


def test_one_cycle_rises_and_falls() -> None:
    values = [one_cycle(step / 100, 0.3) for step in range(101)]
    assert values.index(max(values)) == 30
    assert max(values) == 1.0
    assert all(a < b for a, b in pairwise(values[:31]))
    assert all(a > b for a, b in pairwise(values[30:]))
    assert one_cycle(0.0, 0.0) == 1.0


def test_patience_counts_epochs_without_a_better_one() -> None:
    def rows(*accuracies: float) -> list[module.Row]:
        return [{"val_accuracy": value, "val_loss": 1.0} for value in accuracies]

    assert not stopped(rows(0.5, 0.5), 2)
    assert stopped(rows(0.5, 0.5, 0.4), 2)
    assert not stopped(rows(0.5, 0.4, 0.6), 2)
    assert not stopped([], 2)


def test_several_labels_a_picture(tmp_path: Path) -> None:
    several = [replace(one, labels=(one.labels[0], 2) if i % 2 else ()) for i, one in enumerate(examples(24))]
    out = fit(config(), several, several[:6], CLASSES, tmp_path / "run")
    assert read_record(out).multi_label
    assert cl.explain(several[0].read().pixels, str(out)).origin.activation == "sigmoid"


def test_bfloat16_and_adamw_and_no_validation(tmp_path: Path) -> None:
    out = fit(config(precision="bf16-mixed", optimizer="adamw"), examples(24), [], CLASSES, tmp_path / "run")
    row = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert "val_loss" not in row
    assert all(value.dtype == torch.float32 for value in weights(out).values() if value.is_floating_point())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epochs": 0}, r"^epochs: expected a whole number of at least 1, got 0$"),
        ({"seed": True}, r"^seed: expected a whole number of at least 0, got True$"),
        ({"ema": 1.0}, r"^ema: expected a number in \[0, 1\), got 1.0$"),
        ({"lr": 0.0}, r"^lr: expected a number above 0, got 0.0$"),
        ({"stride": 5}, r"^stride: expected one of 2, 4, 8, 16, 32, at most size=20, got 5$"),
        ({"stride": 32}, r"^stride: expected one of 2, 4, 8, 16, 32, at most size=20, got 32$"),
        ({"augment": "warp"}, r"^augment: expected one of none, flips, dihedral, affine, crops, got 'warp'$"),
        ({"precision": "8"}, r"^precision: expected one of 32, bf16-mixed, 16-mixed, got '8'$"),
        ({"fit": "squash"}, r"^fit: expected one of crop, stretch, pad, got 'squash'$"),
        ({"devices": 3}, r"^batch: 8 cannot be shared by devices=3; take a multiple$"),
        ({"sizes": ((0.5, 16),)}, r"^sizes: expected rising shares of the epochs from 0 to below 1, got "),
        ({"sizes": ((0.0, 2),)}, r"^sizes: expected whole pixels of at least stride=4, got "),
    ],
)
def test_refused_settings(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        config(**changes)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([], r"^config: expected an object of settings, got list$"),
        ({"colour": 1}, r"^config: unknown settings colour; was it written by a later version\?$"),
        ({"head": 3}, r"^config: head: expected str, got 3$"),
        ({"sizes": [1]}, r"^config: "),
        ({"epochs": "many"}, r"^epochs: expected a whole number"),
    ],
)
def test_refused_records(values: object, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        TrainConfig.from_json(values)


def test_another_run_is_refused_with_the_difference(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError,
        match=r"holds a run of another configuration \(head: 'gap' here, 'fc:hidden=16' there; seed: 4 here, 3 there\)",
    ):
        train(undisturbed, **(EVERYTHING | {"head": "gap", "seed": 4}))
    with pytest.raises(TrainingError, match=r"\(data: other pictures or labels\); choose another folder$"):
        train(undisturbed, 30, **EVERYTHING)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(TrainingError, match=r"has files, but no run; choose an empty folder$"):
        train(tmp_path)
    with pytest.raises(TrainingError, match=r"^patience and keep=best need validation pictures"):
        fit(config(patience=2), examples(12), [], CLASSES, tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.txt"]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed_at(5, out)
    (out / LAST).write_bytes(b"\x80\x04junk")
    with pytest.raises(TrainingError, match=r"last.ckpt: damaged \(.*\); remove it, and the run begins again$"):
        train(out)


def test_a_diverging_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^epoch \d: the loss is no longer finite; take a lower lr$"):
        train(tmp_path / "run", 64, backbone="small:6-8", head="sum", units=8, lr=1e18, momentum=0.9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda values: values.pop("config"), r"model.json: KeyError"),
        (lambda values: values.update(version=2), r"model.json: not the record of a training run of version 1$"),
        (lambda values: values["config"].update(units=16), r"weights lack added\.0\."),
        (lambda values: values["classes"].append("more"), r"head.* has shape"),
        (lambda values: values["preprocess"].update(size_hw=[0, 1]), r"size_hw"),
        (lambda values: values.update(calibration=[1]), r"calibration: expected an object of its fields, got list"),
    ],
)
def test_a_spoilt_record_is_refused(
    change: Callable[[dict[str, Any]], object], says: str, undisturbed: Path, tmp_path: Path
) -> None:
    values = json.loads((undisturbed / "model.json").read_text())
    change(values)
    (tmp_path / "model.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").write_bytes((undisturbed / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=says):
        open_run(tmp_path)


def test_spoilt_weights_and_a_run_with_code_of_its_own_are_refused(undisturbed: Path, tmp_path: Path) -> None:
    values = json.loads((undisturbed / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04junk" * 9)
    with pytest.raises(ModelError, match=r"model.safetensors: damaged"):
        open_run(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    values["config"]["backbone"] = f"{tmp_path / 'evil.py'}:net"
    (tmp_path / "model.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=r"its backbone .*evil.py lies inside of it"):
        open_run(tmp_path)


def test_a_calibration_travels_with_the_run(tmp_path: Path) -> None:
    from camlucida.boxes.calibration import Calibration

    out = train(tmp_path / "run")
    assert open_run(out).calibration is None
    calibration = Calibration("max", threshold=0.35)
    store_calibration(out, calibration)
    assert open_run(out).calibration == calibration
    assert read_record(out).state == "complete"
