"""Train a network on examples: the whole way on one screen. The same call again goes on where it was killed. Then
choose how boxes are made of its maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from camlucida.boxes.calibration import Calibration
from camlucida.data.record import Dataset, Example, Record
from camlucida.errors import TrainingError
from camlucida.evaluation.operating_point import calibrated
from camlucida.images.preprocess import Preprocess
from camlucida.results.files import make_folder
from camlucida.training.classifier_training import ClassifierTraining
from camlucida.training.config import TrainConfig
from camlucida.training.example_batches import Pictures, fingerprint, multi_label
from camlucida.training.network import make_network
from camlucida.training.regularizers import make_regularizers
from camlucida.training.run_folder import Run, check_resumable, open_run, store_calibration, write_record, write_weights
from camlucida.training.training_loop import Row, run_training

LAST = Path("checkpoints") / "last.ckpt"

Guide = Literal["auto", "boxes", "pseudo"]


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
        on_epoch: called with each epoch's row.

    Returns:
        The run folder.

    Raises:
        TrainingError: something in ``config`` does not fit the data, or the folder holds another run.
        ImageError: a picture cannot be read.
        OutputError: the folder cannot be written.
    """
    several = multi_label([*train, *val], len(classes))
    regularizers = make_regularizers(config.regularizers)
    if not val and (config.patience or config.keep == "best"):
        raise TrainingError("patience and keep=best need validation pictures; give some, or leave both out")
    network = make_network(config, len(classes))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean, std = network.backbone.mean, network.backbone.std
    preprocess = Preprocess((config.size, config.size), config.fit, mean=mean, std=std)
    data = (fingerprint(train, classes), fingerprint(val, classes))
    run = Run(config, tuple(classes), several, preprocess, data)
    state = check_resumable(out, run)
    if state == "complete":
        return out
    pictures = Pictures(train, len(classes), preprocess, config, training=True)
    held_out = Pictures(val, len(classes), preprocess, config, training=False) if val else None
    training = ClassifierTraining(network, run, regularizers, pictures, held_out, out, on_epoch)
    make_folder(out)
    if state is None:
        write_record(out, run)
    if run_training(training, config, out / LAST, tensorboard=True, progress=progress):
        if config.keep == "last":
            write_weights(out, training.result)
        write_record(out, replace(run, state="complete"))
    return out


def calibrate_run(folder: Path, records: Sequence[Record], guide: Guide = "auto") -> Calibration:
    """Choose how boxes are made of a run's maps on a validation split, and store it with the run.

    The weights do not change.

    Args:
        folder: a run.
        records: validation pictures; those without a label are left out.
        guide: "boxes": true boxes of the split; "pseudo": pseudo-boxes made of the pictures' own colours, without any
            truth; "auto": true boxes if the split has any.

    Returns:
        The calibration; its ``how`` says which it was.

    Raises:
        TrainingError: no record has a label, or boxes are to guide and there are none.
        ModelError: the run cannot be opened.
        DataError: a picture cannot be read.
    """
    labelled = tuple(record for record in records if record.example.labels)
    if not labelled:
        raise TrainingError("calibrate: no validation picture has a label")
    boxed = any(len(record.truth.boxes) for record in labelled)
    if guide == "boxes" and not boxed:
        raise TrainingError("calibrate: the validation split has no boxes; take pseudo")
    model = open_run(folder)
    validation = Dataset("the validation split", tuple(model.class_names or ()), labelled)
    calibration = calibrated(model, validation, boxes=boxed and guide != "pseudo")
    store_calibration(folder, calibration)
    return calibration
