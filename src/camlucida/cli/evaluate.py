"""``camlucida evaluate``: how well a model's maps find what it names, by the field's protocols."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from camlucida.cli import options
from camlucida.cli.exits import Failures

if TYPE_CHECKING:
    from camlucida.training.box_localizer import Localizer

TTAChoice = Literal["one", "flips", "dihedral"]
"""The library's ``runners.tta.TTA``."""

ModeChoice = Literal["exact", "protocol"]
"""The library's ``boxes.overlaps.Mode``."""


def evaluate(
    model: options.ModelArgument,
    data: Annotated[str, typer.Argument(help="Labelled pictures: a folder or file, or KIND:PLACE.")],
    split: Annotated[
        str | None,
        typer.Option(help="Evaluate this split; if not given, test if there is one, else everything."),
    ] = None,
    label: options.Label = "label",
    method: Annotated[str, typer.Option(help="Of the maps; see: camlucida methods.")] = "cam",
    tta: Annotated[
        TTAChoice, typer.Option("--tta", "--views", help="Take the maps' mean over flips, or over quarter turns too.")
    ] = "one",
    mode: Annotated[ModeChoice, typer.Option(help="exact, or the public benchmark's own way.")] = "exact",
    threshold: Annotated[
        str,
        typer.Option(help="Of the boxes, a share of the map's maximum; auto: the model's own, else 0.2."),
    ] = "auto",
    calibrate_on: Annotated[
        str | None,
        typer.Option(help="Choose normalization and threshold on this split first."),
    ] = None,
    pseudo: Annotated[
        bool, typer.Option("--pseudo", help="Choose them with pseudo-boxes: no true box is looked at.")
    ] = False,
    localizer: Annotated[
        Path | None,
        typer.Option(help="Judge the boxes of this localizer too; see: camlucida localizer."),
    ] = None,
    batch: options.Batch = 16,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that count boxes and masks; if not given, one a processor."),
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples of the intervals; 0 for none.")] = 1000,
    mosaics: Annotated[int, typer.Option(min=0, help="Of the grid pointing game; 0 for none.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of resamples and mosaics.")] = 0,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    bgr: options.Bgr = False,
    size: options.PictureSize = None,
    output: options.Output = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for evaluation.json and evaluation.html.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Evaluate classification and localization, with baselines and confidence intervals."""
    from camlucida.boxes.calibration import Calibration
    from camlucida.cli.printing import progress_line
    from camlucida.data import open_dataset
    from camlucida.evaluation import calibrated
    from camlucida.evaluation import evaluate as evaluate_model
    from camlucida.evaluation.table import print_table

    share = _threshold(threshold)
    if share is not None and calibrate_on is not None:
        raise typer.BadParameter("--threshold and --calibrate-on both choose the operating point; give one")
    if pseudo and calibrate_on is None:
        raise typer.BadParameter("--pseudo needs --calibrate-on, the split to choose on")
    failures = Failures()
    dataset = open_dataset(data, label=label, broken="skip", on_broken=failures)
    if split is None and "test" in dataset.splits:
        split = "test"
    fields = options.preprocess_fields(mean, std, scale, bgr, size)
    opened = options.opened(model, fields, providers=provider, threads=threads, output=output)
    calibration = None if share is None else Calibration(threshold=share)
    if calibrate_on is not None:
        _check_apart(calibrate_on, split)
        calibration = calibrated(
            opened, dataset.split(calibrate_on), method=method, tta=tta, mode=mode, boxes=not pseudo, batch=batch,
            on_error=failures,
        )  # fmt: skip
    with progress_line() as progress:
        total = len((dataset.split(split) if split is not None else dataset).records)
        task = progress.add_task("pictures", total=total)
        evaluation = evaluate_model(
            opened, dataset, split=split, method=method, tta=tta, mode=mode, calibration=calibration,
            localizer=None if localizer is None else _opened(localizer),
            batch=batch, workers=(os.cpu_count() or 1) if workers is None else workers,
            bootstrap=bootstrap, mosaics=mosaics, seed=seed, on_error=failures,
            on_pictures=lambda count: progress.advance(task, count),
        )  # fmt: skip
    if out is not None:
        evaluation.save(out)
    if as_json:
        print(json.dumps(evaluation.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        print_table(evaluation, out)
    failures.exit()


def _opened(localizer: Path) -> Localizer:
    options.need_torch()
    from camlucida.training.box_localizer import open_localizer

    return open_localizer(localizer)


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


def _check_apart(calibration_split: str, split: str | None) -> None:
    """Refuse to choose an operating point on the pictures that are evaluated."""
    if split is None or calibration_split == split:
        raise typer.BadParameter(
            f"--calibrate-on {calibration_split}: would choose the threshold on the pictures that are evaluated; "
            "name another split, or evaluate one with --split"
        )
