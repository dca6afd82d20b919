"""Measure the exported demonstration model: accuracy per source, and where its cat and dog maps point.

    python recipes/default_model/evaluate.py DATA

Uses the package as a user would: the bundled ONNX file, its own preprocessing, ``camlucida.explain``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from classes import IMAGENETTE, LABELS
from pictures import Record, records

import camlucida as cl
from camlucida.boxes import localize
from camlucida.images import picture as images


def interval(hits: list[bool]) -> str:
    """A share in percent with the half-width of its 95 % interval (normal approximation)."""
    share = float(np.mean(hits))
    return f"{100 * share:.1f} ± {196 * np.sqrt(share * (1 - share) / len(hits)):.1f} %"


def accuracy(explainer: cl.Explainer, held_out: list[Record]) -> None:
    """Top-1 and top-5 of every source over all 73 classes; Imagenette's also over its own ten."""
    ten = np.array([LABELS.index(name) for name in IMAGENETTE.values()])
    top1: dict[str, list[bool]] = {}
    top5: dict[str, list[bool]] = {}
    among_ten: list[bool] = []
    for start in range(0, len(held_out), 64):
        part = held_out[start : start + 64]
        logits = explainer.explain_pictures([images.read(item.path) for item in part]).logits
        for item, row in zip(part, logits, strict=True):
            order = np.argsort(-row)
            top1.setdefault(item.source, []).append(order[0] == item.label)
            top5.setdefault(item.source, []).append(item.label in order[:5])
            if item.source == "imagenette":
                among_ten.append(ten[row[ten].argmax()] == item.label)
    for source, hits in top1.items():
        print(f"{source}: {len(hits)} pictures, top-1 {interval(hits)}, top-5 {interval(top5[source])}")
    print(f"imagenette among its ten classes: {interval(among_ten)}")


def localization(explainer: cl.Explainer, root: Path) -> None:
    """GT-known box accuracy (IoU >= 0.5), pointing at the mask, for the true species; beside trivial answers."""
    with (root / "pets_mini/annotations.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == "test"]
    hits: dict[str, list[bool]] = {name: [] for name in ("map box", "whole picture", "map peak", "centre")}
    for row in rows:
        picture = images.read(root / "pets_mini" / row["path"])
        mask_path = root / "pets_mini/masks" / Path(row["path"]).with_suffix(".png").name
        mask = images.read(mask_path).pixels[..., 0] > 0
        truth = [[int(row[corner]) for corner in ("x0", "y0", "x1", "y1")]]
        heatmap = explainer.explain_pictures([picture], [row["species"]]).heatmap()
        height, width = heatmap.shape
        found = localize.boxes(heatmap, 0.2)
        hits["map box"].append(bool(len(found)) and localize.iou(found, truth)[0, 0] >= 0.5)
        hits["whole picture"].append(localize.iou([[0, 0, width, height]], truth)[0, 0] >= 0.5)
        hits["map peak"].append(bool(mask[np.unravel_index(heatmap.argmax(), heatmap.shape)]))
        hits["centre"].append(bool(mask[height // 2, width // 2]))
    for name, answers in hits.items():
        print(f"pets, {len(rows)} test pictures, {name}: {interval(answers)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    explainer = cl.Explainer()
    accuracy(explainer, records(arguments.data)[1])
    localization(explainer, arguments.data)


if __name__ == "__main__":
    main()
