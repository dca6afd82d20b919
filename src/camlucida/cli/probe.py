"""``camlucida probe``: a linear classifier on a trained network's pooled features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from camlucida.cli import options
from camlucida.cli.exits import say


def probe(
    model: options.Backbone,
    data: options.Data,
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder; it opens as any run does.")],
    classifier: options.Classifier = "svm",
    size: options.Size = 224,
    stride: options.Stride = 32,
    split_train: options.FitSplit = "train",
    split_val: Annotated[str | None, typer.Option(help="The split to choose the strength on.")] = None,
    split_test: Annotated[str | None, typer.Option(help="The split to report on.")] = None,
    label: options.Label = "label",
    as_json: options.Json = False,
) -> None:
    """Fit a linear classifier on a network's features: maps of classes that it was never trained on."""
    from camlucida.cli.printing import shares
    from camlucida.data import open_dataset

    options.need_torch()
    from camlucida.training.linear_probe import probe as fit_probe

    dataset = open_dataset(data, label=label)
    splits = (dataset.split(name).examples if name else () for name in (split_train, split_val, split_test))
    result = fit_probe(
        model, *splits, dataset.classes, out, classifier=classifier, size=size, stride=stride, on_progress=say  # type: ignore[arg-type, misc]
    )  # fmt: skip
    shares(result, {
        "regularization": f"C = {result.strength:g}", "training accuracy": result.train,
        "validation accuracy": result.val, "test accuracy": result.test,
    }, as_json)  # fmt: skip
    if not as_json:
        print(f"{out}: written; draw its maps with: camlucida map PICTURE -m {out}")
