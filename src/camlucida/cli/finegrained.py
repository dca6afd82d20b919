"""``camlucida finegrained``: whole pictures, crops to the maps' boxes, crops to the true boxes."""

from __future__ import annotations

from typing import Annotated

import typer

from camlucida.cli import options
from camlucida.cli.exits import say


def finegrained(
    model: options.Backbone,
    data: options.Data,
    classifier: options.Classifier = "svm",
    threshold: options.Threshold = 0.2,
    size: options.Size = 224,
    stride: options.Stride = 32,
    split_train: options.FitSplit = "train",
    split_test: Annotated[str, typer.Option(help="The split to report on.")] = "test",
    label: options.Label = "label",
    as_json: options.Json = False,
) -> None:
    """Classify whole pictures, then crops to the maps' boxes, then to the true boxes: the paper's three rows."""
    from camlucida.cli.printing import shares
    from camlucida.data import open_dataset

    options.need_torch()
    from camlucida.training.finegrained import fine_grained

    dataset = open_dataset(data, label=label)
    result = fine_grained(
        model, dataset.split(split_train), dataset.split(split_test), classifier=classifier, threshold=threshold,  # type: ignore[arg-type]
        size=size, stride=stride, on_progress=say,
    )  # fmt: skip
    shares(result, {
        "test pictures": str(result.pictures), "whole pictures": result.whole, "boxes of the maps": result.map_crop,
        "true boxes": result.true_crop, "boxes of the maps, IoU >= 0.5": result.box_iou,
    }, as_json)  # fmt: skip
