"""``camlucida localizer``: one box on any picture without its label, learned from a trained run's maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from camlucida.cli import options
from camlucida.cli.exits import say
from camlucida.errors import TrainingError


def localizer(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.")],
    data: Annotated[str, typer.Argument(help="The pictures that it was trained on: a folder, or KIND:PLACE.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder of the localizer; if not given, RUN/localizer. The same goes on."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="A class that shows no object, such as none. May be repeated."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pictures.")] = 12,
    batch: Annotated[int, typer.Option(min=1, help="Pictures a step.")] = 32,
    lr: Annotated[float, typer.Option(help="Learning rate at the beginning.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin with new weights, not with the run's.")] = False,
    split: Annotated[str, typer.Option(help="The split that teaches: its labels alone are read.")] = "train",
    calibrate_on: Annotated[
        str | None,
        typer.Option(help="Choose on this split's true boxes how maps become boxes; else half of their range."),
    ] = None,
    label: options.Label = "label",
) -> None:
    """Train a network that puts one box on any picture, on the boxes of a run's maps."""
    from camlucida.data import open_dataset

    options.need_torch()
    from camlucida.training.box_localizer import LocalizerConfig
    from camlucida.training.localizer_training import fit_localizer
    from camlucida.training.pseudo_labels import USUAL_CALIBRATION, calibrate_pseudo_labels
    from camlucida.training.run_folder import read_record

    config = LocalizerConfig(epochs=epochs, batch=batch, lr=lr, seed=seed, fresh=fresh)
    dataset = open_dataset(data, label=label)
    known = read_record(run).classes
    if dataset.classes != known:
        raise TrainingError(f"{data}: its classes are {', '.join(dataset.classes)}; the run's are {', '.join(known)}")
    calibration = USUAL_CALIBRATION
    if calibrate_on is not None:
        calibration = calibrate_pseudo_labels(run, dataset.split(calibrate_on).records)
    say(f"pseudo-boxes: {calibration}")
    teaching = dataset.split(split) if dataset.splits != ("",) else dataset
    folder = fit_localizer(
        run, teaching.examples, out, config=config, calibration=calibration, without=without or (),
        on_epoch=lambda row: say(f"epoch {int(row['epoch']) + 1}/{epochs}  loss {row['loss']:.4f}  "
                                 f"overlap with pseudo-boxes {row['overlap']:.3f}"),
    )  # fmt: skip
    print(f"{folder}: trained; open it with camlucida.training.box_localizer.open_localizer")
