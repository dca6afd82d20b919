"""A classifier in training: one step, one validation step, the optimizer, and what each epoch leaves."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from camlucida.drawing import overlay as draw
from camlucida.errors import TrainingError
from camlucida.images.preprocess import View
from camlucida.pytorch.state import evaluating
from camlucida.training import example_batches
from camlucida.training.augment import Pixels
from camlucida.training.example_batches import Batch, Key, Pictures, normalized
from camlucida.training.heads import Criterion
from camlucida.training.network import Network
from camlucida.training.regularizers import Regularizer
from camlucida.training.run_folder import Run, write_weights
from camlucida.training.synced_normalization import SyncedNormalization
from camlucida.training.training_loop import ResumableTraining, Row

MOST = 12
"""Pictures on a sheet of maps."""

_STEP = 0x57E9  # keys the draws of steps apart from those of pictures


class ClassifierTraining(ResumableTraining):
    """A classifier in training, as a run's record says.

    Everything random is keyed by the seed and by where training stands, so that a run that goes on from a checkpoint
    draws what an undisturbed one draws.
    """

    tally: Tensor  # (2, 3): sums of loss and right guesses, and the count, of training and of validation in this epoch

    def __init__(
        self,
        network: Network,
        run: Run,
        regularizers: Sequence[Regularizer],
        train: Pictures,
        val: Pictures | None,
        out: Path,
        on_epoch: Callable[[Row], None] | None,
    ) -> None:
        super().__init__(out, run.config.epochs, example_batches.steps_of(len(train), run.config), on_epoch)
        self.run, self.config, self.regularizers = run, run.config, regularizers
        self.train_pictures, self.val_pictures = train, val
        for regularizer in regularizers:
            regularizer.attach(network.backbone)
        self.network = network
        self.average = copy.deepcopy(network).requires_grad_(False) if run.config.ema else None
        self.register_buffer("tally", torch.zeros(2, 3, dtype=torch.float64))

    @property
    def result(self) -> Network:
        """What is validated and saved."""
        return self.average or self.network

    def train_dataloader(self) -> Any:
        """The batches of the epoch that stands next, or what a kill left of it."""
        epoch, first = divmod(self.global_step, self.steps)
        rank, world = self.trainer.global_rank, self.trainer.world_size
        keys = example_batches.TrainingKeys(len(self.train_pictures), self.config, epoch, first, rank, world)
        return example_batches.loader(self.train_pictures, keys, self.config.workers)

    def val_dataloader(self) -> Any:
        """The validation pictures."""
        if self.val_pictures is None:
            return []
        rank, world = self.trainer.global_rank, self.trainer.world_size
        keys = example_batches.validation_keys(len(self.val_pictures), self.config, rank, world)
        return example_batches.loader(self.val_pictures, keys, self.config.workers)

    def on_train_start(self) -> None:
        """A run that had stopped early before the kill stays stopped."""
        super().on_train_start()
        self.trainer.should_stop |= stopped(self.rows, self.config.patience)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of one batch."""
        number, rank = self.global_step, self.trainer.global_rank
        torch.manual_seed(int(np.random.SeedSequence([self.config.seed, _STEP, number, rank]).generate_state(1)[0]))
        generator = np.random.default_rng([self.config.seed, _STEP, number, rank])
        images, targets = normalized(batch.pictures, self.run.preprocess), batch.targets
        for regularizer in self.regularizers:
            images, targets = regularizer.batch(images, targets, generator)
            regularizer.draw(self.network.backbone, generator)
        criterion = Criterion(self.config.label_smoothing, self.run.multi_label)
        with SyncedNormalization() if self.trainer.world_size > 1 else nullcontext():
            loss, logits = self.network.loss(images, targets, criterion)
        self._count(0, loss, logits, batch.targets)
        self.log("step_loss", loss.detach(), prog_bar=True)
        return loss

    def optimizer_step(self, epoch: int, index: int, optimizer: Any, closure: Any = None) -> None:
        """A step, then the running average of what it left; before a checkpoint can be written."""
        super().optimizer_step(epoch, index, optimizer, closure)
        if self.average is not None:
            averaged(self.average, self.network, self.config.ema)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Count one batch."""
        logits = self.result(normalized(batch.pictures, self.run.preprocess))
        loss = Criterion(multi_label=self.run.multi_label)(logits, batch.targets)
        self._count(1, loss, logits, batch.targets)

    def on_train_epoch_end(self) -> None:
        """Log what the epoch gave, and stop if it is time."""
        tally = self._tally_of_all()
        row: Row = {}
        for name, (loss, right, count) in zip(("", "val_"), tally.tolist(), strict=True):
            if count:
                row |= {f"{name}loss": loss / count, f"{name}accuracy": right / count}
        if not math.isfinite(row["loss"]):
            raise TrainingError(f"epoch {self.current_epoch}: the loss is no longer finite; take a lower lr")
        row |= {"lr": float(self.optimizers().param_groups[0]["lr"])}
        for name, value in row.items():
            self.log(name, value, prog_bar=name == "val_accuracy", rank_zero_only=True)
        self.tally.zero_()
        self.finish_epoch({"epoch": float(self.current_epoch), **row})
        self.trainer.should_stop |= stopped(self.rows, self.config.patience)

    def save_epoch(self) -> None:
        """The weights if they are the best so far, and the maps of some validation pictures."""
        if best_of(self.rows) == len(self.rows) - 1:
            write_weights(self.out, self.result)
        if self.val_pictures is not None and self.logger is not None:
            sheet = map_sheet(self.result, self.val_pictures, self.run)
            self.logger.experiment.add_image("maps", sheet, len(self.rows), dataformats="HWC")

    def _count(self, which: int, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        count = len(targets)
        right = ((logits > 0) == (targets > 0.5)).float().mean(1) if self.run.multi_label else (
            logits.argmax(1) == targets.argmax(1)
        )  # fmt: skip
        self.tally[which, 0] += loss.detach().double() * count
        self.tally[which, 1] += right.double().sum()
        self.tally[which, 2] += count

    def _tally_of_all(self) -> Tensor:
        """(2, 3): loss, right and count of training and validation, summed over the processes."""
        tally = self.tally.clone()
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(tally)
        return tally

    def configure_optimizers(self) -> Any:
        """SGD with Nesterov's momentum or AdamW, by one cycle of the learning rate."""
        config = self.config
        learning = [p for p in self.network.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in learning if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=config.peak_lr)
        if config.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, config.peak_lr, config.momentum, nesterov=config.momentum > 0)
        return self.scheduled(optimizer, lambda progress: one_cycle(progress, config.warmup))


def map_sheet(network: Network, pictures: Pictures, run: Run) -> Pixels:
    """The maps of the labels of up to ``MOST`` pictures, spread evenly over the set.

    Returns:
        H×W×3 uint8: a grid of overlays, each map at its own scale, with the label's probability below.
    """
    indices = np.unique(np.linspace(0, len(pictures) - 1, MOST).astype(int))
    items = [pictures[Key(0, run.preprocess.size_hw[0], int(at))] for at in indices]
    shown = np.stack([picture for picture, _, _ in items])
    device = next(network.parameters()).device
    with torch.inference_mode(False), torch.no_grad(), evaluating(network):
        logits, maps = network.maps(normalized(torch.from_numpy(shown), run.preprocess).to(device))
    chances = (logits.sigmoid() if run.multi_label else logits.softmax(1)).float().cpu().numpy()
    heat = View.whole(run.preprocess.size_hw).project(maps.float().cpu().numpy())
    classes = [int(target.argmax()) for _, target, _ in items]
    overlays = [draw.overlay(picture, heat[i, c]) for i, (picture, c) in enumerate(zip(shown, classes, strict=True))]
    captions = [f"{run.classes[c]}: {chances[i, c]:.2f}" for i, c in enumerate(classes)]
    return draw.contact_sheet(overlays, captions)


def one_cycle(progress: float, warmup: float) -> float:
    """The learning rate as a share of its peak: from 1/25 up over the warmup, then down to 1/10000, on half cosines.

    Progress is the share of the run that is done, in [0, 1]; warmup that after which the peak is reached, in [0, 1).

    >>> [round(one_cycle(progress, 0.2), 4) for progress in (0, 0.1, 0.2, 0.6, 1)]
    [0.04, 0.52, 1.0, 0.5001, 0.0001]
    """
    start, stop, done = (1 / 25, 1.0, progress / warmup) if progress < warmup else (
        1.0, 1e-4, (progress - warmup) / (1 - warmup)
    )  # fmt: skip
    return stop + (start - stop) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


@torch.no_grad()
def averaged(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network: ``average = decay · average + (1 - decay) · network``, statistics too."""
    for mean, now in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(now, 1 - decay)
        else:
            mean.copy_(now)


def score_of(row: Row) -> float:
    """How good an epoch is: validation accuracy, of equal ones the lower loss; 0 without validation.

    >>> score_of({"val_accuracy": 0.5, "val_loss": 2.0}) > score_of({"val_accuracy": 0.5, "val_loss": 3.0})
    True
    """
    if "val_accuracy" not in row:
        return 0.0
    return row["val_accuracy"] - 1e-7 * min(row["val_loss"], 1e3)


def best_of(rows: Sequence[Row]) -> int:
    """The place of the best epoch so far, the first of equals; -1 without any."""
    return max(range(len(rows)), key=lambda i: (score_of(rows[i]), -i), default=-1)


def stopped(rows: Sequence[Row], patience: int) -> bool:
    """Whether the last ``patience`` epochs brought nothing better.

    >>> rows = [{"val_accuracy": a, "val_loss": 1.0} for a in (0.1, 0.5, 0.4, 0.5)]
    >>> stopped(rows, 2), stopped(rows, 3), stopped(rows, 0)
    (True, False, False)
    """
    return patience > 0 and len(rows) - 1 - best_of(rows) >= patience
