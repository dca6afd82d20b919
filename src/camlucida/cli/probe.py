"""``camlucida probe`` and ``camlucida finegrained``: linear classifiers on a trained network's pooled features."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from camlucida.cli.options import LabelOption, need_torch

ModelArgument = Annotated[
    str, typer.Argument(help="A run's folder, or a backbone with its published weights: timm:NAME, torchvision:NAME.")
]
DataArgument = Annotated[str, typer.Argument(help="Labelled pictures: a folder, or KIND:PLACE.")]
ClassifierOption = Annotated[str, typer.Option(help="svm or logistic.")]
SizeOption = Annotated[int, typer.Option(help="Pixels of a backbone's input; a run knows its own.")]
StrideOption = Annotated[int, typer.Option(help="Pixels between a backbone's cells; a run knows its own.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def probe(
    model: ModelArgument,
    data: DataArgument,
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder; it opens as any run does.")],
    classifier: ClassifierOption = "svm",
    size: SizeOption = 224,
    stride: StrideOption = 32,
    split_train: Annotated[str, typer.Option(help="The split to fit on.")] = "train",
    split_val: Annotated[Optional[str], typer.Option(help="The split to choose the strength on.")] = None,  # noqa: UP045
    split_test: Annotated[Optional[str], typer.Option(help="The split to report on.")] = None,  # noqa: UP045
    label: LabelOption = "label",
    as_json: JsonOption = False,
) -> None:
    """Fit a linear classifier on a network's features: maps of classes that it was never trained on."""
    from camlucida.data import open_dataset

    need_torch()
    from camlucida.training.linear_probe import probe as fit_probe

    dataset = open_dataset(data, label=label)
    train, val, test = (dataset.split(one).examples if one else () for one in (split_train, split_val, split_test))
    found = fit_probe(
        model, train, val, test, dataset.classes, out, classifier=classifier, size=size, stride=stride, on_progress=_say  # type: ignore[arg-type]
    )  # fmt: skip
    if as_json:
        print(json.dumps(asdict(found)))
        return
    _show({"regularization": f"C = {found.strength:g}", "training accuracy": found.train,
           "validation accuracy": found.val, "test accuracy": found.test})  # fmt: skip
    print(f"{out}: written; draw its maps with: camlucida map PICTURE -m {out}")


def finegrained(
    model: ModelArgument,
    data: DataArgument,
    classifier: ClassifierOption = "svm",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Of the box, a share of the map's maximum.")] = 0.2,
    size: SizeOption = 224,
    stride: StrideOption = 32,
    split_train: Annotated[str, typer.Option(help="The split to fit on.")] = "train",
    split_test: Annotated[str, typer.Option(help="The split to report on.")] = "test",
    label: LabelOption = "label",
    as_json: JsonOption = False,
) -> None:
    """Classify whole pictures, then crops to the maps' boxes, then to the true boxes: the paper's three rows."""
    from camlucida.data import open_dataset

    need_torch()
    from camlucida.training.finegrained import fine_grained

    dataset = open_dataset(data, label=label)
    found = fine_grained(
        model, dataset.split(split_train), dataset.split(split_test), classifier=classifier, threshold=threshold,  # type: ignore[arg-type]
        size=size, stride=stride, on_progress=_say,
    )  # fmt: skip
    if as_json:
        print(json.dumps(asdict(found)))
        return
    _show({"test pictures": str(found.pictures), "whole pictures": found.whole, "boxes of the maps": found.map_crop,
           "true boxes": found.true_crop, "boxes of the maps, IoU >= 0.5": found.box_iou})  # fmt: skip


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _show(rows: dict[str, str | float]) -> None:
    """Shares as percent; what is not known is left out."""
    from camlucida.cli.printing import two_columns

    shown = {name: one if isinstance(one, str) else f"{100 * one:.1f} %" for name, one in rows.items() if one == one}
    two_columns(shown.items())
