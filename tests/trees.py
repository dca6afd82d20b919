"""Small sets of labelled pictures on disk, and what a reader makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camlucida.data import Dataset, open_dataset

Row = tuple[str, tuple[int, ...], str, list[list[float]], list[int]]


def picture(path: Path, width: int = 8, height: int = 6) -> None:
    """A small picture, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "teal").save(path)


def mask(path: Path, rows: Sequence[str]) -> None:
    """A mask from rows of "." and "#"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn(rows).astype(np.uint8) * 255).convert("1").save(path)


def drawn(rows: Sequence[str]) -> NDArray[np.bool_]:
    """Rows of "." and "#" as bool H×W."""
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def write(path: Path, text: str) -> None:
    """A text file, its folders made; lines are taken as they stand, without their indentation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line.strip() for line in text.strip().splitlines()) + "\n", encoding="utf-8")


def rows(dataset: Dataset) -> list[Row]:
    """Every record as id, labels, split, boxes, labels of the boxes."""
    return [
        (
            record.example.id,
            record.example.labels,
            record.split,
            record.truth.boxes.tolist(),
            record.truth.box_labels.tolist(),
        )
        for record in dataset.records
    ]


def skipping(source: str | Path, **options: Any) -> tuple[Dataset, list[str]]:
    """A dataset without its broken records, and what was said of them."""
    heard: list[str] = []
    return open_dataset(source, broken="skip", on_broken=heard.append, **options), heard
