"""Train a localizer on the boxes of a run's maps: the whole way on one screen. The same call again goes on."""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camlucida.boxes.calibration import Calibration
from camlucida.data.record import Example
from camlucida.errors import TrainingError
from camlucida.images.picture import shown
from camlucida.results.saving import made_folder, whole, write_whole
from camlucida.training.box_localizer import (
    RECORD,
    LocalizerConfig,
    LocalizerNetwork,
    LocalizerRecord,
    make_localizer,
    read_localizer,
    write_localizer,
)
from camlucida.training.box_regression import box_loss, moved, overlap
from camlucida.training.data import fingerprint, normalized
from camlucida.training.localizer_lessons import BOXES, Lessons, lessons
from camlucida.training.run_folder import WEIGHTS, open_network

Row = dict[str, float]
"""What one epoch gave: epoch, loss, overlap (mean IoU with the pseudo-boxes), seconds."""
OnEpoch = Callable[[Row], None]

_LAST = "last.ckpt"
_TEACHING, _ORDER = 0x10C1, 0x10C2  # keys that keep the draws of this module apart


def fit_localizer(
    run: Path,
    examples: Sequence[Example],
    out: Path | None = None,
    *,
    config: LocalizerConfig | None = None,
    calibration: Calibration | None = None,
    without: Sequence[str] = (),
    on_epoch: OnEpoch | None = None,
) -> Path:
    """Train a class-agnostic localizer on the boxes of a run's maps, from image labels alone.

    The folder holds ``localizer.json``, ``localizer.safetensors``, ``log.jsonl`` and, until it is finished,
    ``last.ckpt``. Called again after a kill it goes on from the last epoch and ends with the same weights; called again
    after the end it does nothing.

    Args:
        run: a folder of ``fit``.
        examples: the pictures that it was trained on, with their labels; no truth is in them.
        out: folder of the localizer; None: ``localizer`` inside of the run.
        config: how to train; None: as usual.
        calibration: how the averaged maps become boxes, see ``calibrate_lessons``; None: ``lessons.BOXES``.
        without: names of classes that show no object.
        on_epoch: told each epoch's row: epoch, loss, overlap (mean IoU with the pseudo-boxes), seconds.

    Returns:
        The localizer's folder, for ``open_localizer``.

    Raises:
        TrainingError: nothing to learn from, or the folder holds another localizer.
        ModelError: the run cannot be opened.
        ImageError: a picture cannot be read.
        OutputError: the folder cannot be written.
    """
    config = config or LocalizerConfig()
    out = run / "localizer" if out is None else out
    network, record = open_network(run)
    calibration = calibration or BOXES
    source = {
        "weights": hashlib.sha256((run / WEIGHTS).read_bytes()).hexdigest()[:16],
        "pictures": fingerprint(examples, record.classes),
        "calibration": calibration.to_dict(),
        "without": sorted(without),
    }
    made = LocalizerRecord(record.config, record.preprocess, config, source)
    if _state(out, made) == "complete":
        return out
    made_folder(out)
    learner = make_localizer(record.config, len(record.classes), config.seed)
    if not config.fresh:
        learner.trunk.load_state_dict(network.trunk.state_dict())
    _learn(learner, lessons(network, record, examples, calibration, without), made, out, on_epoch)
    write_localizer(out, learner, replace(made, state="complete"))
    (out / _LAST).unlink(missing_ok=True)
    return out


def _learn(
    learner: LocalizerNetwork,
    given: Lessons,
    made: LocalizerRecord,
    out: Path,
    on_epoch: Callable[[dict[str, float]], None] | None,
) -> None:
    config = made.config
    optimizer = torch.optim.AdamW(learner.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    rows = _resumed(out, made, learner, optimizer)
    batch = min(config.batch, len(given.boxes))
    steps = len(given.boxes) // batch
    for epoch in range(len(rows), config.epochs):
        begun, totals = time.monotonic(), np.zeros(2)
        order = np.random.default_rng([config.seed, _ORDER, epoch]).permutation(len(given.boxes))
        learner.train()
        for step in range(steps):
            progress = (epoch * steps + step) / (config.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * (0.5 + 0.5 * math.cos(math.pi * progress))
            images, boxes, weights = _batch(given, order[step * batch : (step + 1) * batch], epoch, made)
            answer, _ = learner(images)
            loss = box_loss(answer, boxes, weights)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            totals += [float(loss.detach()), float(overlap(answer.detach(), boxes)[0].mean())]
        loss_mean, iou_mean = (totals / steps).tolist()
        row = {"epoch": float(epoch), "loss": loss_mean, "overlap": iou_mean}
        rows.append(row | {"seconds": round(time.monotonic() - begun, 2)})
        _note(out, made, learner, optimizer, rows)
        if on_epoch is not None:
            on_epoch(rows[-1])


def _batch(given: Lessons, chosen: NDArray[Any], epoch: int, made: LocalizerRecord) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, boxes and weights, each picture augmented by its own generator."""
    pairs = [
        moved(given.pictures[i], given.boxes[i], made.trunk.augment,
              np.random.default_rng([made.config.seed, _TEACHING, epoch, int(i)]))
        for i in chosen
    ]  # fmt: skip
    pictures, boxes = (np.stack(one) for one in zip(*pairs, strict=True))
    return (
        normalized(torch.from_numpy(pictures), made.preprocess), torch.from_numpy(boxes),
        torch.from_numpy(given.weights[chosen]),
    )  # fmt: skip


def _state(out: Path, made: LocalizerRecord) -> str | None:
    """The state of the localizer in a folder, None if there is none; refuses another's."""
    if not out.exists() or not any(out.iterdir()):
        return None
    if not (out / RECORD).is_file():
        raise TrainingError(f"{shown(out)}: has files, but no localizer; choose an empty folder")
    there = read_localizer(out)
    for name in ("trunk", "preprocess", "config", "taught"):
        if getattr(there, name) != getattr(made, name):
            raise TrainingError(f"{shown(out)}: holds a localizer of another {name}; choose another folder")
    return there.state


def _note(
    out: Path,
    made: LocalizerRecord,
    learner: LocalizerNetwork,
    optimizer: torch.optim.Optimizer,
    rows: list[Row],
) -> None:
    """The checkpoint, what is so far, and the log."""
    buffer = io.BytesIO()
    torch.save({"learner": learner.state_dict(), "optimizer": optimizer.state_dict(), "rows": rows}, buffer)
    write_localizer(out, learner, made)
    with whole(out / _LAST) as file:
        file.write(buffer.getbuffer())
    lines = "".join(json.dumps(one | {"epoch": int(one["epoch"])}) + "\n" for one in rows)
    write_whole(out / "log.jsonl", lines.encode())


def _resumed(
    out: Path, made: LocalizerRecord, learner: LocalizerNetwork, optimizer: torch.optim.Optimizer
) -> list[Row]:
    """Put the last checkpoint back, if there is one; the rows of the epochs that are done."""
    path = out / _LAST
    if not path.is_file():
        return []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        learner.load_state_dict(state["learner"])
        optimizer.load_state_dict(state["optimizer"])
        rows: list[Row] = list(state["rows"])
    except Exception as error:
        raise TrainingError(
            f"{shown(path)}: damaged ({type(error).__name__}); remove it, and training begins again"
        ) from error
    return rows
