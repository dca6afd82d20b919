"""A set that a small network learns in seconds: one square or one cross in noise, anywhere, boxes known."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camlucida.data.record import Example
from camlucida.training.config import TrainConfig
from camlucida.training.heads import Criterion
from camlucida.training.network import Network, make_network
from camlucida.training.regularizers import Regularizer

SIZE = 32
CLASSES = ("cross", "square")


def picture(index: int) -> tuple[NDArray[np.uint8], int, NDArray[np.int64]]:
    """Pixels 32×32×3, class, and the box (half-open xyxy) of picture number ``index``."""
    rng = np.random.default_rng([9, index])
    label = int(rng.integers(2))
    height, width = rng.integers(10, 15, size=2)
    y, x = rng.integers(1, SIZE - height), rng.integers(1, SIZE - width)
    pixels = rng.integers(60, 130, (SIZE, SIZE, 3))
    thing = np.zeros((height, width), bool)
    if CLASSES[label] == "cross":
        thing[height // 2 - 1 : height // 2 + 2] = thing[:, width // 2 - 1 : width // 2 + 2] = True
    else:
        thing[:2] = thing[-2:] = thing[:, :2] = thing[:, -2:] = True
    pixels[y : y + height, x : x + width][thing] = 230
    return pixels.astype(np.uint8), label, np.array([x, y, x + width, y + height])


def examples(count: int, first: int = 0) -> list[Example]:
    """The first pictures as examples without truth."""
    numbers = range(first, first + count)
    return [Example(f"{i}", Path(), (picture(i)[1],), made=partial(_pixels, i)) for i in numbers]


def _pixels(index: int) -> NDArray[np.uint8]:
    return picture(index)[0]


def batch(start: int, count: int) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
    """Inputs (B, 3, 32, 32), targets (B, 2), boxes (B, 4)."""
    pixels, labels, boxes = zip(*(picture(i) for i in range(start, start + count)), strict=True)
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 128 - 1
    return images, torch.eye(2)[list(labels)], np.stack(boxes)


def trained(config: TrainConfig, regularizer: Regularizer | None = None, steps: int = 60) -> tuple[Network, float]:
    """A network after some steps, in evaluation mode, and its accuracy on pictures that it has not seen."""
    network = make_network(config, 2).train()
    if regularizer is not None:
        regularizer.attach(network.backbone)
    pool, targets, _ = batch(0, 480)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for number in range(steps):
        rng = np.random.default_rng([1, number])
        chosen = torch.from_numpy(rng.integers(len(pool), size=32))
        images, wanted = pool[chosen], targets[chosen]
        if regularizer is not None:
            images, wanted = regularizer.batch(images, wanted, rng)
            regularizer.draw(network.backbone, rng)
        loss, logits = network.loss(images, wanted, Criterion())
        assert torch.isfinite(loss)
        assert torch.isfinite(logits).all()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    images, wanted, _ = batch(1000, 200)
    with torch.no_grad():
        right = network(images).argmax(1) == wanted.argmax(1)
    return network, float(right.float().mean())
