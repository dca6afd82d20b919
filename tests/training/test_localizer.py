"""The two-stage localizer: its arithmetic against slow versions, its pseudo-labels, and that it outdoes its teacher."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
import typer
from numpy.typing import NDArray
from shapes_toy import CLASSES, SIZE, batch, examples, picture, trained
from torch import Tensor
from typer.testing import CliRunner

from camlucida.boxes.calibration import Calibration
from camlucida.boxes.localize import iou
from camlucida.cli.localizer import localizer as localizer_command
from camlucida.data.record import Dataset, Record, Truth
from camlucida.errors import ModelError, TrainingError
from camlucida.evaluation import evaluate
from camlucida.images.preprocess import Preprocess
from camlucida.training.augment import moved
from camlucida.training.box_localizer import LocalizerConfig, open_localizer
from camlucida.training.box_regression import box_loss, centres, decoded, overlap
from camlucida.training.config import Augment, TrainConfig
from camlucida.training.localizer_training import fit_localizer
from camlucida.training.network import make_network
from camlucida.training.pseudo_labels import (
    USUAL_CALIBRATION,
    calibrate_pseudo_labels,
    make_pseudo_labels,
    symmetric_maps,
)
from camlucida.training.run_folder import Run, open_network, write_record, write_weights

CONFIG = TrainConfig(backbone="small:8-16-24", size=SIZE, stride=4, augment="dihedral")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small classifier of squares and crosses."""
    torch.manual_seed(0)
    network, accuracy = trained(CONFIG)
    assert accuracy > 0.9
    folder = tmp_path_factory.mktemp("run")
    preprocess = Preprocess((SIZE, SIZE), "stretch", mean=(0.5,) * 3, std=(0.5,) * 3)
    write_record(folder, Run(CONFIG, CLASSES, False, preprocess, state="complete"))
    write_weights(folder, network)
    return folder


def _truth(count: int, first: int = 0) -> list[Record]:
    made = []
    for number, example in zip(range(first, first + count), examples(count, first), strict=True):
        _, label, box = picture(number)
        made.append(Record(example, Truth(box[None].astype(np.float64), np.array([label]))))
    return made


# Arithmetic


def test_one_box_is_the_weighted_mean_of_the_cells_boxes() -> None:
    scores, distances = torch.randn(2, 3, 4, dtype=torch.float64), torch.rand(2, 4, 3, 4, dtype=torch.float64)
    boxes, weights = decoded(scores, distances)
    for i in range(2):
        total = sum(math.exp(scores[i, y, x]) for y in range(3) for x in range(4))
        expected = np.zeros(4)
        for y in range(3):
            for x in range(4):
                share = math.exp(scores[i, y, x]) / total
                left, top, right, bottom = distances[i, :, y, x].tolist()
                cx, cy = (x + 0.5) / 4, (y + 0.5) / 3
                expected += share * np.array([cx - left, cy - top, cx + right, cy + bottom])
                assert weights[i, y, x].item() == pytest.approx(share)
        np.testing.assert_allclose(boxes[i], expected)
    assert centres((3, 4), scores).shape == (12, 2)


def test_overlaps_equal_counted_pixels() -> None:
    rng = np.random.default_rng(0)
    pairs = np.sort(rng.integers(0, 12, (60, 2, 2, 2)), axis=2)  # pair, box, corner, xy
    a, b = (torch.from_numpy(pairs[:, i].reshape(-1, 4)).double() for i in (0, 1))
    found, generalized = overlap(a, b)
    for i in range(60):
        masks = []
        for x0, y0, x1, y1 in (a[i].int().tolist(), b[i].int().tolist()):
            mask = np.zeros((12, 12), bool)
            mask[y0:y1, x0:x1] = True
            masks.append(mask)
        inside, union = (masks[0] & masks[1]).sum(), (masks[0] | masks[1]).sum()
        low, high = pairs[i, :, 0].min(0), pairs[i, :, 1].max(0)
        around = np.prod(high - low)
        expected = inside / union if union else 0.0
        assert found[i].item() == pytest.approx(expected)
        assert generalized[i].item() == pytest.approx(expected - ((around - union) / around if around else 0.0))


def test_the_best_box_of_noisy_ones_is_their_median() -> None:
    wanted = torch.tensor([[0.2, 0.2, 0.6, 0.6]]).repeat(9, 1)
    wanted[:3] = torch.tensor([0.0, 0.0, 1.0, 1.0])  # a third are far off
    box = torch.tensor([[0.4, 0.4, 0.5, 0.5]], requires_grad=True)
    optimizer = torch.optim.Adam([box], 0.01)
    for _ in range(300):
        loss = box_loss(box.repeat(9, 1), wanted, torch.ones(9))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(box.detach(), [[0.2, 0.2, 0.6, 0.6]], atol=0.02)


def test_boxes_that_are_not_trusted_do_not_count() -> None:
    boxes, wanted = torch.rand(3, 4).sort(1).values[:, [0, 1, 2, 3]], torch.rand(3, 4).sort(1).values
    some = box_loss(boxes, wanted, torch.tensor([1.0, 0.0, 1.0]))
    assert some.item() == pytest.approx(box_loss(boxes[[0, 2]], wanted[[0, 2]], torch.ones(2)).item())
    assert box_loss(boxes, wanted, torch.zeros(3)).item() == 0


@pytest.mark.parametrize("augment", get_args(Augment))
def test_boxes_move_with_their_pictures(augment: str) -> None:
    stays = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x0, y0 = rng.integers(3, 16, size=2)  # away from the edges: nothing is mirrored in or cut off
        x1, y1 = x0 + rng.integers(2, 6), y0 + rng.integers(2, 6)
        pixels = np.zeros((24, 24, 3), np.uint8)
        pixels[y0:y1, x0:x1] = 255
        before = pixels.copy()
        made, box = moved(pixels, np.array([x0, y0, x1, y1], np.float32) / 24, augment, rng)
        ys, xs = np.nonzero(made[..., 0])
        np.testing.assert_allclose(box * 24, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1e-4)
        assert np.array_equal(pixels, before)
        stays += bool(np.allclose(box * 24, [x0, y0, x1, y1], atol=1e-4))
    turned = stays < 10
    assert {"none": stays == 60, "flips": 20 < stays < 50, "crops": 20 < stays < 50, "dihedral": turned,
            "affine": turned}[augment]  # fmt: skip


# Pseudo-labels

_MOVES: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: torch.rot90(x, 1, (-2, -1)), lambda x: x.transpose(-2, -1),
]  # fmt: skip


@pytest.mark.parametrize("move", _MOVES)
def test_averaged_maps_turn_with_the_picture(move: Callable[[Tensor], Tensor]) -> None:
    network = make_network(TrainConfig(backbone="small:8-8-8", size=SIZE, stride=8), 3).double().eval()
    images = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    logits, maps = symmetric_maps(network, images, "dihedral")
    of_moved, moved_maps = symmetric_maps(network, move(images), "dihedral")
    torch.testing.assert_close(moved_maps, move(maps))
    torch.testing.assert_close(of_moved, logits)
    torch.testing.assert_close(maps.sum((2, 3)) + network.head.bias(), logits)
    assert not torch.allclose(network.maps(move(images))[1], move(network.maps(images)[1]))


def test_flips_average_two_maps_and_none_is_the_networks_own() -> None:
    network = make_network(TrainConfig(backbone="small:8-8-8", size=SIZE, stride=8), 3).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        plain, mirrored = network.maps(images)[1], network.maps(images.flip(3))[1].flip(3)
    torch.testing.assert_close(symmetric_maps(network, images, "flips")[1], (plain + mirrored) / 2)
    torch.testing.assert_close(symmetric_maps(network, images, "none")[1], plain)


def test_every_augmentation_has_its_symmetries():
    network, images = make_network(TrainConfig("small:8-8-16", size=24, stride=8), 3), torch.rand(1, 3, 24, 24)
    found = {augment: symmetric_maps(network, images, augment)[1] for augment in get_args(Augment)}
    torch.testing.assert_close(found["affine"], found["dihedral"])
    torch.testing.assert_close(found["crops"], found["flips"])
    assert not torch.equal(found["dihedral"], found["flips"])


def test_pseudo_labels_are_boxes_of_the_labels_maps(run: Path) -> None:
    network, record = open_network(run)
    labels = make_pseudo_labels(network, record, examples(40), USUAL_CALIBRATION)
    assert len(labels.boxes) + labels.skipped == 40
    for i in range(5):
        pixels, label, _ = picture(i)
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
        logits, maps = symmetric_maps(network, images, "dihedral")
        laid = cv2.resize(maps[0, label].numpy(), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
        low, high = laid.min(), laid.max()
        stats = cv2.connectedComponentsWithStats((laid > (low + high) / 2).astype(np.uint8))[2]
        x, y, width, height = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax()][:4]
        np.testing.assert_allclose(labels.boxes[i] * SIZE, [x, y, x + width, y + height], atol=1e-4)
        assert labels.weights[i] == pytest.approx(logits[0].softmax(0)[label].item(), abs=1e-5)


def test_classes_without_an_object_teach_nothing(run: Path) -> None:
    network, record = open_network(run)
    some = examples(30)
    labels = make_pseudo_labels(network, record, some, USUAL_CALIBRATION, without=["cross"])
    assert len(labels.boxes) + labels.skipped == sum(example.labels == (1,) for example in some)
    with pytest.raises(TrainingError, match="no class 'none' to leave out; the run knows cross, square"):
        make_pseudo_labels(network, record, some, USUAL_CALIBRATION, without=["none"])
    with pytest.raises(TrainingError, match="no picture gave a pseudo-box"):
        make_pseudo_labels(network, record, [replace(one, labels=()) for one in some], USUAL_CALIBRATION)


def test_the_calibration_is_chosen_on_validation_boxes(run: Path) -> None:
    found = calibrate_pseudo_labels(run, _truth(60, 500))
    assert found.how == "boxes"
    assert found.pictures == 60
    with pytest.raises(TrainingError, match="no validation picture has a label and a box"):
        calibrate_pseudo_labels(run, [Record(one) for one in examples(3)])


# The whole


@pytest.fixture(scope="module")
def taught(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("taught") / "localizer"
    config = LocalizerConfig(epochs=6, batch=16, lr=4e-3)
    return fit_localizer(
        run, examples(320), out, config=config, calibration=calibrate_pseudo_labels(run, _truth(60, 500))
    )


def _overlaps(found: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array([iou(one[None], other[None])[0, 0] for one, other in zip(found, truth, strict=True)])


def test_it_outdoes_its_teacher_without_labels(run: Path, taught: Path) -> None:
    pixels, _, boxes = zip(*(picture(i) for i in range(1000, 1150)), strict=True)
    learned = _overlaps(open_localizer(taught).find(pixels), np.stack(boxes))
    network, record = open_network(run)
    labels = make_pseudo_labels(network, record, examples(150, 1000), calibrate_pseudo_labels(run, _truth(60, 500)))
    assert labels.skipped == 0
    teacher = _overlaps(labels.boxes.astype(np.float64) * SIZE, np.stack(boxes))
    assert (learned >= 0.5).mean() > (teacher >= 0.5).mean() + 0.1
    assert learned.mean() > teacher.mean() + 0.04


def test_its_scores_are_a_heatmap_on_the_thing(taught: Path) -> None:
    images, _, boxes = batch(1000, 100)
    found = open_localizer(taught)
    heatmaps = found.heatmaps(images)
    np.testing.assert_allclose(heatmaps.sum((1, 2)), 1, rtol=1e-5)
    assert heatmaps.min() >= 0
    hits = 0
    for one, (x0, y0, x1, y1) in zip(heatmaps, boxes, strict=True):
        y, x = (np.array(np.unravel_index(one.argmax(), one.shape)) + 0.5) * SIZE / np.array(one.shape)
        hits += x0 <= x <= x1 and y0 <= y <= y1
    assert hits > 85


def test_evaluate_takes_an_opened_localizer_as_it_is(run: Path, taught: Path) -> None:
    localizer = open_localizer(taught)
    records = _truth(40, 1000)
    evaluation = evaluate(
        str(run), Dataset("shapes", CLASSES, tuple(records)), localizer=localizer, bootstrap=0, mosaics=0
    )
    pictures = [record.example.read() for record in records]
    boxes = np.concatenate([localizer.boxes(picture) for picture in pictures])
    np.testing.assert_array_equal(boxes, localizer.find([picture.pixels for picture in pictures]))
    overlaps = _overlaps(boxes, np.concatenate([record.truth.boxes for record in records]))
    assert 0.5 < (overlaps >= 0.5).mean() < 1
    assert evaluation["found_gt_known"].value.value == pytest.approx((overlaps >= 0.5).mean())
    assert evaluation["found_iou"].value.value == pytest.approx(overlaps.mean())


def test_boxes_are_in_the_pixels_of_the_picture(taught: Path) -> None:
    found = open_localizer(taught)
    pixels = picture(1001)[0]
    (box,) = found.find([pixels])
    wide = cv2.resize(pixels, (4 * SIZE, 2 * SIZE), interpolation=cv2.INTER_NEAREST)
    (stretched,) = found.find([wide])
    np.testing.assert_allclose(stretched, box * [4, 2, 4, 2], atol=4)
    inputs = torch.from_numpy(found.record.preprocess(pixels)[0])[None]
    np.testing.assert_allclose(found.input_boxes(inputs)[0], box)
    cropping = replace(found, record=replace(found.record, preprocess=replace(found.record.preprocess, fit="crop")))
    framed = np.pad(pixels, ((0, 0), (10, 6), (0, 0)))  # the middle is cut out: 8 pixels from the left
    shown = framed[:, 8 : 8 + SIZE]
    np.testing.assert_allclose(cropping.find([framed])[0], found.find([shown])[0] + [8, 0, 8, 0], atol=1e-4)
    assert found.find([]).shape == (0, 4)


def test_after_a_kill_it_goes_on_to_the_same_weights(run: Path, tmp_path: Path) -> None:
    config = LocalizerConfig(epochs=3, batch=8)
    whole = fit_localizer(run, examples(32), tmp_path / "whole", config=config)

    class Killed(BaseException):
        """Stands for a kill."""

    def killed(row: dict[str, float]) -> None:
        if row["epoch"] == 1:
            raise Killed

    with pytest.raises(Killed):
        fit_localizer(run, examples(32), tmp_path / "killed", config=config, on_epoch=killed)
    with pytest.raises(ModelError, match="not finished"):
        open_localizer(tmp_path / "killed")
    epochs: list[float] = []
    again = fit_localizer(
        run, examples(32), tmp_path / "killed", config=config, on_epoch=lambda row: epochs.append(row["epoch"])
    )
    assert epochs == [2.0]
    assert (again / "localizer.safetensors").read_bytes() == (whole / "localizer.safetensors").read_bytes()
    assert [json.loads(line)["epoch"] for line in (again / "log.jsonl").read_text().splitlines()] == [0, 1, 2]
    assert not (again / "last.ckpt").exists()


def test_a_finished_one_is_left_as_it_is_and_others_are_refused(run: Path, taught: Path, tmp_path: Path) -> None:
    config = LocalizerConfig(epochs=6, batch=16, lr=4e-3)
    calibration = calibrate_pseudo_labels(run, _truth(60, 500))
    before = (taught / "localizer.safetensors").stat().st_mtime_ns
    fit_localizer(run, examples(320), taught, config=config, calibration=calibration)
    assert (taught / "localizer.safetensors").stat().st_mtime_ns == before
    with pytest.raises(TrainingError, match="holds a localizer of another config"):
        fit_localizer(run, examples(320), taught, config=replace(config, seed=1), calibration=calibration)
    with pytest.raises(TrainingError, match="holds a localizer of another source"):
        fit_localizer(run, examples(320), taught, config=config, calibration=Calibration())
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(TrainingError, match="has files, but no localizer"):
        fit_localizer(run, examples(320), tmp_path, config=config)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("localizer.json", b"{", "no JSON"),
        ("localizer.json", b'{"version": 9}', "not the record of a localizer of version 1"),
        ("localizer.json", b'{"version": 1, "preprocess": 3}', "AttributeError"),
        ("localizer.safetensors", b"\0" * 40, "damaged"),
    ],
)
def test_damaged_files_are_named(taught: Path, tmp_path: Path, name: str, damage: bytes, message: str) -> None:
    for file in ("localizer.json", "localizer.safetensors"):
        (tmp_path / file).write_bytes((taught / file).read_bytes())
    open_localizer(tmp_path)
    (tmp_path / name).write_bytes(damage)
    with pytest.raises(ModelError, match=f"{name}: .*{message}"):
        open_localizer(tmp_path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be read .*not the folder of a localizer"):
        open_localizer(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs: expected a whole number of at least 1, got 0"),
        ({"batch": 1.5}, "batch: expected a whole number"),
        ({"lr": float("nan")}, "lr: expected a number of at least 0, got nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        LocalizerConfig(**settings)  # type: ignore[arg-type]


def test_the_command_trains_inside_of_the_run(run: Path, tmp_path: Path) -> None:
    rows = ["path,split,label,x0,y0,x1,y1"]
    for number in range(40):
        pixels, label, box = picture(number)
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
        split = "train" if number < 24 else "val"
        rows.append(f"{number}.png,{split},{CLASSES[label]},{','.join(map(str, box.tolist()))}")
    (tmp_path / "annotations.csv").write_text("\n".join(rows))
    (tmp_path / "other.csv").write_text("path,label\n0.png,ring\n")
    app = typer.Typer()
    app.command()(localizer_command)
    asked = [str(run), f"csv:{tmp_path}", "--epochs", "1", "--calibrate-on", "val"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert (run / "localizer" / "localizer.json").is_file()
    assert open_localizer(run).find([picture(0)[0]]).shape == (1, 4)
    result = CliRunner().invoke(app, [*asked[:1], f"csv:{tmp_path / 'other.csv'}"])
    assert isinstance(result.exception, TrainingError)
    assert "its classes are ring; the run's are cross, square" in str(result.exception)
