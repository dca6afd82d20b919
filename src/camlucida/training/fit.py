"""Train a network on examples: the whole way on one screen. The same call again goes on where it was killed."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from camlucida.data.record import Example
from camlucida.errors import MissingExtraError, TrainingError
from camlucida.images.picture import shown
from camlucida.images.preprocess import Preprocess
from camlucida.results.saving import made_folder, whole, write_whole
from camlucida.training.config import TrainConfig
from camlucida.training.data import Labels, Pictures, fingerprint
from camlucida.training.network import make_network
from camlucida.training.regularizers import make_regularizers
from camlucida.training.run_folder import Run, check_resumable, write_record, write_weights

try:
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import Checkpoint
    from lightning.pytorch.loggers import TensorBoardLogger
    from lightning.pytorch.plugins.io import TorchCheckpointIO
    from lightning.pytorch.strategies import DDPStrategy
except ModuleNotFoundError as error:
    raise MissingExtraError("Lightning", "train") from error

from camlucida.training.lightning_module import Row, Training, best_of
from camlucida.training.map_sheet import map_sheet

LAST = Path("checkpoints") / "last.ckpt"


def fit(
    config: TrainConfig,
    train: Sequence[Example],
    val: Sequence[Example],
    classes: Sequence[str],
    out: Path,
    *,
    progress: bool = False,
    on_epoch: Callable[[Row], None] | None = None,
) -> Path:
    """Train, validate each epoch, and leave a run folder that ``open_model`` opens.

    The folder holds ``model.json``, ``model.safetensors`` (the best epoch's so far; at the end what ``config.keep``
    says), ``log.jsonl`` (a line an epoch), ``logs/`` for TensorBoard and ``checkpoints/last.ckpt``. Called again after
    a kill it goes on, and ends with the weights of an undisturbed run (bit for bit on the CPU with as many threads);
    called again after the end it does nothing.

    Args:
        config: see ``TrainConfig``.
        train: pictures with labels; truth is in none of them.
        val: likewise, to validate on; may be empty.
        classes: the names of the labels.
        out: the run folder; made if missing.
        progress: show a progress bar.
        on_epoch: told each epoch's row.

    Returns:
        The run folder.

    Raises:
        TrainingError: something in ``config`` does not fit the data, or the folder holds another run.
        ImageError: a picture cannot be read.
        OutputError: the folder cannot be written.
    """
    labels = Labels.of([*train, *val], len(classes))
    regularizers = make_regularizers(config.regularizers)
    if not val and (config.patience or config.keep == "best"):
        raise TrainingError("patience and keep=best need validation pictures; give some, or leave both out")
    network = make_network(config, len(classes))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trunk = network.trunk
    preprocess = Preprocess((config.size, config.size), config.fit, mean=trunk.mean, std=trunk.std)
    data = (fingerprint(train, classes), fingerprint(val, classes))
    run = Run(config, tuple(classes), labels.multi, preprocess, data)
    state = check_resumable(out, run)
    if state == "complete":
        return out

    def told(training: Training, row: Row) -> None:
        if training.trainer.is_global_zero:
            _write_epoch(out, training, classes)
            if on_epoch is not None:
                on_epoch(row)

    pictures = Pictures(train, labels, preprocess, config, training=True)
    held_out = Pictures(val, labels, preprocess, config, training=False) if val else None
    training = Training(network, config, pictures, held_out, regularizers, told)
    made_folder(out)
    if state is None:
        write_record(out, run)
    with _quiet():
        trainer = _trainer(config, out, progress)
        trainer.fit(training, ckpt_path=str(out / LAST) if (out / LAST).exists() else None)
    if trainer.interrupted:
        raise TrainingError(f"{shown(out)}: interrupted; the same command goes on from the last epoch")
    if trainer.is_global_zero:
        if config.keep == "last":
            write_weights(out, training.result)
        write_record(out, Run(config, run.classes, labels.multi, preprocess, data, "complete"))
    return out


def _trainer(config: TrainConfig, out: Path, progress: bool) -> Any:
    several = DDPStrategy(broadcast_buffers=False, process_group_backend=None if torch.cuda.is_available() else "gloo")
    return pl.Trainer(
        max_epochs=config.epochs, devices=config.devices, precision=_PRECISIONS[config.precision],
        strategy=several if config.devices > 1 else "auto", use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1, num_sanity_val_steps=0, default_root_dir=out,
        logger=TensorBoardLogger(out, name="", version="logs"), callbacks=[_Checkpoints(out, config.checkpoint_steps)],
        plugins=[_CheckpointFiles()], enable_checkpointing=True, enable_progress_bar=progress,
        enable_model_summary=False, log_every_n_steps=20,
    )  # fmt: skip


_PRECISIONS = {"32": "32-true", "bf16-mixed": "bf16-mixed", "16-mixed": "16-mixed"}


def _write_epoch(out: Path, training: Training, classes: Sequence[str]) -> None:
    """The log, the weights if they are the best so far, and the maps of some validation pictures."""
    rows = training.rows
    lines = "".join(json.dumps(one | {"epoch": int(one["epoch"])}) + "\n" for one in rows)
    write_whole(out / "log.jsonl", lines.encode())
    if best_of(rows) == len(rows) - 1:
        write_weights(out, training.result)
    if training.val_pictures is not None and training.logger is not None:
        sheet = map_sheet(training.result, training.val_pictures, training.preprocess, classes)
        training.logger.experiment.add_image("maps", sheet, len(rows), dataformats="HWC")


class _Checkpoints(Checkpoint):  # type: ignore[misc]
    """Writes the one checkpoint that a run goes on from: after each epoch, and every so many steps if asked."""

    def __init__(self, out: Path, steps: int) -> None:
        self.path, self.steps = out / LAST, steps

    def on_train_batch_end(self, trainer: Any, training: Any, outputs: Any, batch: Any, index: int) -> None:
        """Between epochs' ends."""
        if self.steps and trainer.global_step % self.steps == 0 and trainer.global_step % training.steps:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Any, training: Any) -> None:
        """After the epoch was logged."""
        trainer.save_checkpoint(self.path)


class _CheckpointFiles(TorchCheckpointIO):  # type: ignore[misc]
    """Checkpoints are written whole or not at all, and read without unpickling."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Beside its place, then moved there."""
        made_folder(Path(path).parent)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with whole(Path(path)) as file:
            file.write(buffer.getbuffer())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Tensors and plain values alone."""
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise TrainingError(
                f"{shown(path)}: damaged ({type(error).__name__}); remove it, and the run begins again"
            ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advice, which is meant for whoever writes the loop."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")]
    children = [
        one for name, one in logging.Logger.manager.loggerDict.items()
        if isinstance(one, logging.Logger) and name.startswith(("lightning.pytorch.", "lightning.fabric."))
    ]  # fmt: skip
    levels = {one: one.level for one in (*loggers, *children)}
    try:
        for one in levels:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for one, level in levels.items():
            one.setLevel(level)
