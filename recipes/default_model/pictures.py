"""The three sources as lists of (path, label, source), their fixed split, and the training augmentation."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from classes import CALTECH, IMAGENETTE, LABELS, PETS

MOST_OF_A_CALTECH_FOLDER = 300  # airplanes, motorbikes and faces would outweigh everything else
PETS_REPEATS = 4  # 348 training pictures of cats and dogs against 17,000 others


class Record(NamedTuple):
    """One picture file with its label (an index into LABELS) and where it comes from."""

    path: Path
    label: int
    source: str


def records(root: Path) -> tuple[list[Record], list[Record]]:
    """Training and validation records. Imagenette and the pets keep their own split; one Caltech
    picture in ten, chosen by a hash of its name, is held out.
    """
    train: list[Record] = []
    held_out: list[Record] = []
    for part, target in (("train", train), ("val", held_out)):
        for folder, name in IMAGENETTE.items():
            for path in sorted((root / "imagenette128" / part / folder).iterdir()):
                target.append(Record(path, LABELS.index(name), "imagenette"))
    for folder, name in CALTECH.items():
        for path in sorted((root / "caltech128/images" / folder).iterdir())[:MOST_OF_A_CALTECH_FOLDER]:
            out = zlib.crc32(f"{folder}/{path.name}".encode()) % 10 == 0
            (held_out if out else train).append(Record(path, LABELS.index(name), "caltech"))
    with (root / "pets_mini/annotations.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            pet = Record(root / "pets_mini" / row["path"], LABELS.index(PETS[row["species"]]), "pets")
            if row["split"] in ("train", "extra"):
                train += [pet] * PETS_REPEATS
            else:
                held_out.append(pet)
    return train, held_out


def load(items: list[Record]) -> list[np.ndarray]:
    """RGB uint8 pictures in the order of ``items``; repeated records share one array."""
    seen: dict[Path, np.ndarray] = {}
    for item in items:
        if item.path not in seen:
            bgr = cv2.imread(str(item.path), cv2.IMREAD_COLOR)
            if bgr is None:
                raise SystemExit(f"{item.path}: not a readable picture")
            seen[item.path] = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return [seen[item.path] for item in items]


def augment(picture: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random crop (30-100 % of the area, aspect 0.6-1.67), mirrored half the time, with mild
    changes of brightness, contrast and saturation; ``size`` x ``size`` x 3 uint8.
    """
    height, width = picture.shape[:2]
    for _ in range(5):
        area = rng.uniform(0.3, 1.0) * height * width
        aspect = np.exp(rng.uniform(np.log(0.6), np.log(1 / 0.6)))
        crop_w, crop_h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if crop_w <= width and crop_h <= height:
            break
    else:
        crop_w, crop_h = width, height
    x, y = rng.integers(width - crop_w + 1), rng.integers(height - crop_h + 1)
    out = cv2.resize(picture[y : y + crop_h, x : x + crop_w], (size, size), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        out = out[:, ::-1]
    if rng.random() < 0.8:
        gain, offset = rng.uniform(0.7, 1.3), rng.uniform(-25, 25)
        colour = rng.uniform(0.4, 1.4)
        floats = out.astype(np.float32)
        grey = floats @ np.array([[0.299], [0.587], [0.114]], np.float32)
        out = np.clip((grey + (floats - grey) * colour) * gain + offset, 0, 255).astype(np.uint8)
    if rng.random() < 0.05:
        out = np.repeat(cv2.cvtColor(np.ascontiguousarray(out), cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return out
