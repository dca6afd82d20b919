"""The one training loop: Lightning's, going on where it was killed, with a log of its epochs."""

from __future__ import annotations

import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from camlucida.errors import MissingExtraError, TrainingError
from camlucida.images.picture import shown
from camlucida.results.files import make_folder, whole, write_whole
from camlucida.training.config import TrainConfig

try:
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import Checkpoint
    from lightning.pytorch.loggers import TensorBoardLogger
    from lightning.pytorch.plugins.io import TorchCheckpointIO
    from lightning.pytorch.strategies import DDPStrategy
except ModuleNotFoundError as error:
    raise MissingExtraError("Lightning", "train") from error

Row = dict[str, float]
"""What one epoch gave, by name: its number, means over its steps, seconds."""

_PRECISIONS = {"32": "32-true", "bf16-mixed": "bf16-mixed", "16-mixed": "16-mixed"}


class ResumableTraining(pl.LightningModule):  # type: ignore[misc]
    """A network in training for so many epochs of so many steps, whose epochs' rows are logged in a folder, stay in
    checkpoints and so survive a kill. ``on_epoch`` is called with each, in one process, once the checkpoint is written.
    """

    def __init__(self, out: Path, epochs: int, steps: int, on_epoch: Callable[[Row], None] | None) -> None:
        super().__init__()
        self.out, self.epochs, self.steps, self.on_epoch = out, epochs, steps, on_epoch
        self.rows: list[Row] = []
        self._begun = 0.0

    def save_epoch(self) -> None:
        """Write what the latest epoch brought; called in one process."""
        raise NotImplementedError

    def finish_epoch(self, row: Row) -> None:
        """Log what an epoch gave, and how long it took."""
        now = time.monotonic()
        self.rows.append(row | {"seconds": round(now - self._begun, 2)})
        self._begun = now
        if self.trainer.is_global_zero:
            lines = (json.dumps(logged | {"epoch": int(logged["epoch"])}) + "\n" for logged in self.rows)
            write_whole(self.out / "log.jsonl", "".join(lines).encode())
            self.save_epoch()

    def scheduled(self, optimizer: torch.optim.Optimizer, share: Callable[[float], float]) -> dict[str, Any]:
        """What ``configure_optimizers`` returns: learning rates times a share, by the part of the training done."""
        total = self.epochs * self.steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share(step / total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The epochs so far go along."""
        checkpoint["rows"] = [dict(row) for row in self.rows]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The epochs so far come back."""
        self.rows = [dict(row) for row in checkpoint["rows"]]


def run_training(
    training: ResumableTraining,
    config: TrainConfig,
    checkpoint: Path,
    *,
    accelerator: str = "auto",
    tensorboard: bool = False,
    progress: bool = False,
) -> bool:
    """Train to the last epoch, from the checkpoint on if there is one, on ``config``'s devices and in its precision.

    Returns:
        Whether this is the process that writes results.

    Raises:
        TrainingError: it was interrupted, or the checkpoint is damaged.
    """
    several = DDPStrategy(broadcast_buffers=False, process_group_backend=None if torch.cuda.is_available() else "gloo")
    with _quiet():
        trainer = pl.Trainer(
            max_epochs=training.epochs, accelerator=accelerator, devices=config.devices,
            precision=_PRECISIONS[config.precision], strategy=several if config.devices > 1 else "auto",
            use_distributed_sampler=False, reload_dataloaders_every_n_epochs=1, num_sanity_val_steps=0,
            default_root_dir=training.out,
            logger=tensorboard and TensorBoardLogger(training.out, name="", version="logs"),
            callbacks=[_Checkpoints(checkpoint, config.checkpoint_steps)], plugins=[CheckpointFiles()],
            enable_checkpointing=True, enable_progress_bar=progress, enable_model_summary=False, log_every_n_steps=20,
        )  # fmt: skip
        trainer.fit(training, ckpt_path=str(checkpoint) if checkpoint.exists() else None)
    if trainer.interrupted:
        raise TrainingError(f"{shown(training.out)}: interrupted; the same command goes on from the last epoch")
    return bool(trainer.is_global_zero)


class _Checkpoints(Checkpoint):  # type: ignore[misc]
    """Writes the one checkpoint that a run goes on from: after each epoch, and every so many steps if asked."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path, self.steps = path, steps

    def on_train_batch_end(self, trainer: Any, training: Any, outputs: Any, batch: Any, index: int) -> None:
        """Between epochs' ends."""
        if self.steps and trainer.global_step % self.steps == 0 and trainer.global_step % training.steps:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Any, training: Any) -> None:
        """After the epoch was logged."""
        trainer.save_checkpoint(self.path)
        if training.on_epoch is not None and trainer.is_global_zero:
            training.on_epoch(training.rows[-1])


class CheckpointFiles(TorchCheckpointIO):  # type: ignore[misc]
    """Checkpoints are written whole or not at all, and read without unpickling."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Beside its place, then moved there."""
        make_folder(Path(path).parent)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with whole(Path(path)) as file:
            file.write(buffer.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Tensors and plain values alone."""
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            checkpoint["state_dict"], checkpoint["rows"]
        except Exception as error:
            raise TrainingError(
                f"{shown(path)}: damaged ({type(error).__name__}); remove it, and the run begins again"
            ) from error
        return checkpoint


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice, which is meant for whoever writes the loop."""
    names = [name for name in logging.Logger.manager.loggerDict if name.startswith(("lightning.", "pytorch_lightning"))]
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    try:
        for logger in levels:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
