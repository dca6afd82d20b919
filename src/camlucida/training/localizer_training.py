"""Train a localizer on the boxes of a run's maps: the whole way on one screen. The same call again goes on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from camlucida.boxes.calibration import Calibration
from camlucida.data.record import Example
from camlucida.errors import TrainingError
from camlucida.images.picture import shown
from camlucida.results.files import make_folder
from camlucida.training import box_localizer
from camlucida.training.augment import moved
from camlucida.training.box_localizer import LocalizerConfig, LocalizerNetwork, LocalizerRecord
from camlucida.training.box_regression import box_loss, overlap
from camlucida.training.config import TrainConfig
from camlucida.training.example_batches import fingerprint, normalized
from camlucida.training.pseudo_labels import USUAL_CALIBRATION, PseudoLabels, make_pseudo_labels
from camlucida.training.run_folder import WEIGHTS, open_network
from camlucida.training.saved_files import is_resumable
from camlucida.training.training_loop import ResumableTraining, Row, run_training

_LAST = "last.ckpt"
_AUGMENTING, _ORDER = 0x10C1, 0x10C2  # keys that keep the draws of this module apart


def fit_localizer(
    run: Path,
    examples: Sequence[Example],
    out: Path | None = None,
    *,
    config: LocalizerConfig | None = None,
    calibration: Calibration | None = None,
    without: Sequence[str] = (),
    on_epoch: Callable[[Row], None] | None = None,
) -> Path:
    """Train a class-agnostic localizer on the boxes of a run's maps, from image labels alone.

    The folder holds ``localizer.json``, ``localizer.safetensors``, ``log.jsonl`` and, until it is finished,
    ``last.ckpt``. Called again after a kill it goes on from the last epoch and ends with the same weights; called again
    after the end it does nothing.

    Args:
        run: a folder of ``fit``.
        examples: the pictures that it was trained on, with their labels; no truth is in them.
        out: folder of the localizer; None: ``localizer`` inside the run.
        config: how to train; None: as usual.
        calibration: how the averaged maps become boxes, see ``calibrate_pseudo_labels``; None: ``USUAL_CALIBRATION``.
        without: names of classes that show no object.
        on_epoch: called with each epoch's row: epoch, loss, overlap (mean IoU with the pseudo-boxes), seconds.

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
    calibration = calibration or USUAL_CALIBRATION
    source = {
        "weights": hashlib.sha256((run / WEIGHTS).read_bytes()).hexdigest()[:16],
        "pictures": fingerprint(examples, record.classes),
        "calibration": calibration.to_dict(),
        "without": sorted(without),
    }
    goal = LocalizerRecord(record.config, record.preprocess, config, source)
    if _state(out, goal) == "complete":
        return out
    make_folder(out)
    localizer = box_localizer.make_localizer(record.config, len(record.classes), config.seed)
    if not config.fresh:
        localizer.trunk.load_state_dict(network.backbone.state_dict())
    labels = make_pseudo_labels(network, record, examples, calibration, without)
    training = LocalizerTraining(localizer, labels, goal, out, on_epoch)
    run_training(training, TrainConfig(), out / _LAST, accelerator="cpu")
    box_localizer.write_localizer(out, localizer, replace(goal, state="complete"))
    (out / _LAST).unlink(missing_ok=True)
    return out


def _state(out: Path, goal: LocalizerRecord) -> str | None:
    """The state of the localizer in a folder, None if there is none; refuses another's."""
    if not is_resumable(out, box_localizer.RECORD, "localizer"):
        return None
    there = box_localizer.read_localizer(out)
    for name in ("classifier", "preprocess", "config", "source"):
        if getattr(there, name) != getattr(goal, name):
            raise TrainingError(f"{shown(out)}: holds a localizer of another {name}; choose another folder")
    return there.state


class LocalizerTraining(ResumableTraining):
    """A localizer in training on pseudo-labels; its record goes with the weights so far."""

    def __init__(
        self,
        network: LocalizerNetwork,
        labels: PseudoLabels,
        record: LocalizerRecord,
        out: Path,
        on_epoch: Callable[[Row], None] | None,
    ) -> None:
        self.batch = min(record.config.batch, len(labels.boxes))
        super().__init__(out, record.config.epochs, len(labels.boxes) // self.batch, on_epoch)
        self.network, self.labels, self.record = network, labels, record
        self.totals = np.zeros(2)  # of loss and overlap in this epoch

    def train_dataloader(self) -> Any:
        """The numbers of the pictures of each batch, in an order keyed by the epoch that stands next."""
        key = [self.record.config.seed, _ORDER, self.global_step // self.steps]
        order: Any = torch.from_numpy(np.random.default_rng(key).permutation(len(self.labels.boxes)))
        return DataLoader(order, self.batch, drop_last=True, generator=torch.Generator())

    def training_step(self, chosen: Tensor, index: int) -> Tensor:
        """The loss of one batch, each picture augmented by its own generator."""
        labels, seed, augment = self.labels, self.record.config.seed, self.record.classifier.augment
        pairs = [
            moved(labels.pictures[i], labels.boxes[i], augment,
                  np.random.default_rng([seed, _AUGMENTING, self.current_epoch, i]))
            for i in chosen.tolist()
        ]  # fmt: skip
        pictures, pseudo_boxes = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
        boxes, _ = self.network(normalized(pictures, self.record.preprocess))
        loss = box_loss(boxes, pseudo_boxes, torch.from_numpy(labels.weights[chosen.numpy()]))
        self.totals += [float(loss.detach()), float(overlap(boxes.detach(), pseudo_boxes)[0].mean())]
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the means over the epoch."""
        loss, mean_overlap = (self.totals / self.steps).tolist()
        self.totals[:] = 0
        self.finish_epoch({"epoch": float(self.current_epoch), "loss": loss, "overlap": mean_overlap})

    def save_epoch(self) -> None:
        """The weights so far."""
        box_localizer.write_localizer(self.out, self.network, self.record)

    def configure_optimizers(self) -> Any:
        """AdamW, its learning rate falling as a cosine."""
        config = self.record.config
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        return self.scheduled(optimizer, lambda progress: 0.5 + 0.5 * math.cos(math.pi * progress))
