"""``camlucida train``: a network trained on image labels, with its maps' boxes calibrated."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from camlucida.cli import options
from camlucida.cli.exits import say
from camlucida.training.config import TrainConfig

if TYPE_CHECKING:
    from camlucida.data.record import Dataset

_USUAL = TrainConfig()
_HELD_OUT = 10


def train(
    data: options.Data,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the run; the same command again goes on.")],
    backbone: Annotated[
        str, typer.Option(help="small, small:24-48-96, residual, timm:NAME, torchvision:NAME or FILE.py:FUNCTION.")
    ] = _USUAL.backbone,
    head: Annotated[
        str, typer.Option(help="gap, gmp, lse, gem, sum, fc, acol, spg or tscam; options behind it: lse:r=10.")
    ] = _USUAL.head,
    regularizer: Annotated[
        list[str] | None,
        typer.Option(help="has, adl or cutmix; options behind it: cutmix:rate=0.3. May be repeated."),
    ] = None,
    size: Annotated[int, typer.Option(help="Pictures become so many pixels wide and high.")] = _USUAL.size,
    stride: Annotated[int, typer.Option(help="Pixels between the maps' cells: 4, 8, 16 or 32.")] = _USUAL.stride,
    units: Annotated[int, typer.Option(help="Channels of an added 3x3 convolution; 0: none.")] = _USUAL.units,
    epochs: Annotated[int, typer.Option(help="Passes over the training pictures.")] = _USUAL.epochs,
    batch: Annotated[int, typer.Option(help="Pictures a step, of all processes together.")] = _USUAL.batch,
    lr: Annotated[float | None, typer.Option(help="Peak of the learning rate; chosen if not given.")] = None,
    weight_decay: Annotated[float, typer.Option(help="Of matrices and kernels.")] = _USUAL.weight_decay,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = _USUAL.optimizer,
    label_smoothing: Annotated[float, typer.Option(help="In [0, 1).")] = _USUAL.label_smoothing,
    ema: Annotated[float, typer.Option(help="Decay a step of averaged weights, 0.999 say; 0: none.")] = _USUAL.ema,
    augment: Annotated[str, typer.Option(help="none, flips, dihedral, affine or crops.")] = _USUAL.augment,
    fit: Annotated[str, typer.Option(help="How pictures become square: stretch, crop or pad.")] = _USUAL.fit,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = _USUAL.seed,
    precision: Annotated[str, typer.Option(help="32, bf16-mixed or 16-mixed.")] = _USUAL.precision,
    devices: Annotated[int, typer.Option(help="Processes that share each batch.")] = _USUAL.devices,
    workers: Annotated[int, typer.Option(help="Loading processes beside each.")] = _USUAL.workers,
    patience: Annotated[int, typer.Option(help="Stop after so many epochs without a better one.")] = _USUAL.patience,
    keep: Annotated[str, typer.Option(help="Keep the weights of the last or the best epoch.")] = _USUAL.keep,
    pretrained: Annotated[
        bool, typer.Option("--pretrained/--scratch", help="Begin with a zoo's published weights.")
    ] = _USUAL.pretrained,
    split_train: Annotated[str, typer.Option(help="The split to train on.")] = "train",
    split_val: Annotated[str, typer.Option(help="The split to validate on; '' for none.")] = "val",
    label: options.Label = "label",
    calibrate: Annotated[
        Literal["auto", "boxes", "pseudo", "none"],
        typer.Option(help="Choose the boxes' threshold by true boxes, pseudo-boxes, whichever there is, or not."),
    ] = "auto",
) -> None:
    """Train a network on image labels alone; its maps find the objects."""
    from camlucida.data import open_dataset

    config = TrainConfig(
        backbone=_absolute(backbone), head=head, regularizers=tuple(regularizer or ()), size=size, stride=stride,
        units=units, epochs=epochs, batch=batch, lr=lr, weight_decay=weight_decay, optimizer=optimizer,  # type: ignore[arg-type]
        label_smoothing=label_smoothing, ema=ema, augment=augment, fit=fit, seed=seed, precision=precision,  # type: ignore[arg-type]
        devices=devices, workers=workers, patience=patience, keep=keep, pretrained=pretrained,  # type: ignore[arg-type]
    )  # fmt: skip
    options.need_torch()
    from camlucida.training.fit import calibrate_run
    from camlucida.training.fit import fit as train_network

    first = os.environ.get("LOCAL_RANK", "0") == "0"  # other processes of the same run say nothing
    learning, held_out = _parts(open_dataset(data, label=label), split_train, split_val)
    if first:
        say(f"{len(learning.records)} pictures to train on, {len(held_out.records)} to validate on, "
            f"{len(learning.classes)} classes")  # fmt: skip
    train_network(
        config, learning.examples, held_out.examples, learning.classes, out,
        progress=first and sys.stderr.isatty(), on_epoch=lambda row: say(_line(row, config.epochs)),
    )  # fmt: skip
    if not first:
        return
    if calibrate != "none" and held_out.records:
        print(f"boxes: {calibrate_run(out, held_out.records, calibrate)}")
    print(f"{out}: trained; look at it with: camlucida map PICTURE -m {out}")


def _parts(data: Dataset, train: str, val: str) -> tuple[Dataset, Dataset]:
    """The pictures to train and to validate on. Of data without splits, one group in ten (by a hash of its name, or of
    the picture's where there are no groups) is held out.
    """
    from dataclasses import replace
    from zlib import crc32

    if data.splits == ("",) and (train, val) == ("train", "val"):
        out = [crc32((record.group or record.example.id).encode()) % _HELD_OUT == 0 for record in data.records]
        return tuple(  # type: ignore[return-value]
            replace(data, records=tuple(r for r, is_out in zip(data.records, out, strict=True) if is_out is wanted))
            for wanted in (False, True)
        )
    return data.split(train), data.split(val) if val else replace(data, records=())


def _absolute(backbone: str) -> str:
    """A function's file by its whole path, so that the run can be opened from elsewhere."""
    file, python, function = backbone.partition(".py:")
    return f"{Path(f'{file}.py').resolve()}:{function}" if python else backbone


def _line(row: dict[str, float], epochs: int) -> str:
    """An epoch for people."""
    named = [("loss", "loss"), ("accuracy", "accuracy"), ("val_loss", "validation loss"),
             ("val_accuracy", "validation accuracy")]  # fmt: skip
    parts = [f"{words} {row[name]:.4f}" for name, words in named if name in row]
    return f"epoch {int(row['epoch']) + 1}/{epochs}: {', '.join(parts)}, {row['seconds']:.1f} s"
