"""Pictures with known objects, and networks whose maps are known: what an evaluation finds is worked out by hand."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from camlucida.data.record import Dataset, Example, Record, Truth
from camlucida.images.preprocess import Preprocess
from camlucida.models import Model
from camlucida.models.torch_module import wrap

SIZE, CELL = 64, 8
CLASSES = ("red", "green", "none")
COLOURS = ((255, 0, 0), (0, 255, 0))


class Colours(nn.Module):
    """The share of red, green and blue above the others in cells of 8 pixels, averaged; "none" wins where all are low.

    Its map of a colour is positive on things of that colour, negative on those of others, and 0 on grey.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(CELL)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(3, 4)
        rows = torch.tensor([[2.0, -1, -1], [-1, 2, -1], [-1, -1, 2], [0, 0, 0]])
        self.head.weight.data = rows
        self.head.bias.data = torch.tensor([0.0, 0.0, 0.0, 0.02])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.features(images)).flatten(1))


class Corner(Colours):
    """Reads the class off the colour of the top left corner, whatever lies in the middle: a shortcut."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        there = torch.zeros_like(images)
        there[:, :, :CELL, :CELL] = 1
        return self.head(self.pool(self.features(images * there)).flatten(1))


LABELS = ("Red", "green, lime", "blue", "none")
PLAIN = Preprocess((SIZE, SIZE), "stretch", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def colours(shortcut: bool = False) -> Model:
    """The network as a model: it knows a class more than the data, in another order, with other spellings."""
    return wrap(Corner() if shortcut else Colours(), "colours", LABELS, PLAIN)


def pixels_of(label: int, box: tuple[int, int, int, int], cue: bool = False) -> np.ndarray:
    pixels = np.full((SIZE, SIZE, 3), 60, np.uint8)
    if label < 2:
        x1, y1, x2, y2 = box
        pixels[y1:y2, x1:x2] = COLOURS[label]
        if cue:
            pixels[:CELL, :CELL] = COLOURS[label]
    return pixels


def scenes(count: int, seed: int = 0, cue: bool = False, masks: bool = True) -> Dataset:
    """Squares of red and green on grey, and grey alone: every third picture of each, their boxes on the cells' borders.

    Half are of the split "test", half of "val".
    """
    rng = np.random.default_rng(seed)
    records = []
    for i in range(count):
        label = i % 3
        left, top = rng.integers(2, 5, 2) * CELL  # away from the corner and the picture's centre's far side
        side = 3 * CELL
        box = (int(left), int(top), int(left) + side, int(top) + side)
        mask = np.zeros((SIZE, SIZE), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        truth = Truth(np.array([box], float), np.array([label]), mask=mask if masks else None) if label < 2 else Truth()
        made = partial(pixels_of, label, box, cue)
        records.append(Record(Example(f"{i:03}", Path(), (label,), made), truth, "test" if i % 2 else "val"))
    return Dataset("squares", CLASSES, tuple(records))
