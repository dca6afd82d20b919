"""The three sources as lists of (path, label, source), and their fixed split."""

from __future__ import annotations

import csv
import zlib
from pathlib import Path
from typing import NamedTuple

from classes import CALTECH, IMAGENETTE, LABELS, PETS

from camlucida.data.record import Example

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


def examples(root: Path) -> tuple[list[Example], list[Example]]:
    """The same as the trainer takes them: without any truth; a picture that counts several times is there so often."""
    train, held_out = records(root)

    def of(record: Record) -> Example:
        return Example(record.path.relative_to(root).as_posix(), record.path, (record.label,))

    return [of(record) for record in train], [of(record) for record in held_out]
