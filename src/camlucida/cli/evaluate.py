"""``camlucida evaluate``: how well a model's maps find what it names, by the field's protocols."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from camlucida.cli.options import LabelOption, ProviderOption, ThreadsOption, need_torch

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from camlucida.boxes.calibration import Calibration
    from camlucida.data.record import Dataset
    from camlucida.images.picture import Picture

SOME_FAILED = 1


class Sides(StrEnum):
    """Views of each picture that the maps are means of."""

    ONE = "one"
    FLIPS = "flips"
    DIHEDRAL = "dihedral"


class Mode(StrEnum):
    """How overlaps are counted and pictures seen; see ``evaluation.evaluate``."""

    EXACT = "exact"
    PROTOCOL = "protocol"


def evaluate(
    model: Annotated[str, typer.Argument(help="Which model; see: camlucida models.")],
    data: Annotated[str, typer.Argument(help="Labelled pictures: a folder or file, or KIND:PLACE.")],
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Evaluate this split; if not given, test if there is one, else everything."),
    ] = None,
    label: LabelOption = "label",
    method: Annotated[str, typer.Option(help="Of the maps; see: camlucida methods.")] = "cam",
    tta: Annotated[
        Sides, typer.Option("--tta", "--views", help="Take the maps' mean over flips, or over quarter turns too.")
    ] = Sides.ONE,
    mode: Annotated[Mode, typer.Option(help="exact, or the public benchmark's own way.")] = Mode.EXACT,
    threshold: Annotated[
        str,
        typer.Option(help="Of the boxes, a share of the map's maximum; auto: the model's own, else 0.2."),
    ] = "auto",
    calibrate_on: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Choose normalization and threshold on this split first."),
    ] = None,
    pseudo: Annotated[
        bool, typer.Option("--pseudo", help="Choose them with pseudo-boxes: no true box is looked at.")
    ] = False,
    localizer: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Judge the boxes of this localizer too; see: camlucida localizer."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures that go through the model at once.")] = 16,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="Processes that count boxes and masks; if not given, one a processor."),
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples of the intervals; 0 for none.")] = 1000,
    mosaics: Annotated[int, typer.Option(min=0, help="Of the grid pointing game; 0 for none.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of resamples and mosaics.")] = 0,
    provider: ProviderOption = None,
    threads: ThreadsOption = None,
    out: Annotated[
        Optional[Path], typer.Option("-o", "--out", help="Folder for evaluation.json and evaluation.html.")  # noqa: UP045
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Evaluate classification and localization, with baselines and confidence intervals."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from camlucida.cli.app import say
    from camlucida.data import open_dataset
    from camlucida.evaluation import evaluate as evaluated
    from camlucida.evaluation.table import print_table
    from camlucida.models import open_model

    chosen = _threshold(threshold)
    if chosen is not None and calibrate_on is not None:
        raise typer.BadParameter("--threshold and --calibrate-on both choose the operating point; give one")
    if pseudo and calibrate_on is None:
        raise typer.BadParameter("--pseudo needs --calibrate-on, the split to choose on")
    failed = 0

    def fail(message: object) -> None:
        nonlocal failed
        failed += 1
        say(f"error: {message}")

    dataset = open_dataset(data, label=label, broken="skip", on_broken=fail)
    if split is None and "test" in dataset.splits:
        split = "test"
    opened = open_model(model, providers=provider, threads=threads)
    calibration = _given(chosen)
    if calibrate_on is not None:
        calibration = _calibrated(opened, dataset, calibrate_on, split, method, tta, mode, pseudo, batch, fail)
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty(),
    )  # fmt: skip
    with progress:
        total = len((dataset.split(split) if split is not None else dataset).records)
        task = progress.add_task("pictures", total=total)
        found = evaluated(
            opened, dataset, split=split, method=method, tta=tta.value, mode=mode.value, calibration=calibration,
            localizer=None if localizer is None else _boxer(localizer),
            batch=batch, workers=(os.cpu_count() or 1) if workers is None else workers,
            bootstrap=bootstrap, mosaics=mosaics, seed=seed, on_error=fail,
            on_pictures=lambda count: progress.advance(task, count),
        )  # fmt: skip
    if out is not None:
        found.save(out)
    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        print_table(found, out)
    if failed:
        raise typer.Exit(SOME_FAILED)


def _boxer(folder: Path) -> Callable[[Picture], NDArray[np.float64]]:
    """The boxes of a two-stage localizer."""
    need_torch()
    from camlucida.training.box_localizer import open_localizer

    opened = open_localizer(folder)
    return lambda picture: opened.find([picture.pixels])[0]


def _threshold(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise typer.BadParameter(
            f"expected auto or a share of the maximum in [0, 1), got {text!r}", param_hint="--threshold"
        )
    return value


def _given(threshold: float | None) -> Calibration | None:
    from camlucida.boxes.calibration import Calibration

    return None if threshold is None else Calibration(threshold=threshold)


def _calibrated(
    model: object, dataset: Dataset, on: str, split: str | None, method: str, tta: Sides, mode: Mode, pseudo: bool,
    batch: int, fail: object,
) -> Calibration:  # fmt: skip
    from camlucida.evaluation import calibrated

    if split is None or on == split:
        raise typer.BadParameter(
            f"--calibrate-on {on}: would choose the threshold on the pictures that are evaluated; "
            "name another split, or evaluate one with --split"
        )
    return calibrated(
        model, dataset.split(on), method=method, tta=tta.value, mode=mode.value, boxes=not pseudo, batch=batch,  # type: ignore[arg-type]
        on_error=fail,  # type: ignore[arg-type]
    )  # fmt: skip
