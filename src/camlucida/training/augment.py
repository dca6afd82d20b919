"""Augmentations of one picture by name: one visible dict. What is drawn depends on the generator alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.training.config import Augment

Pixels = NDArray[np.uint8]
"""H×W×3, RGB."""


def affine(picture: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """One of the square's eight symmetries, turned by up to 29 degrees more, scaled by 0.78 to 1.28, moved by up to a
    twelfth of its side, and of another brightness and contrast; what comes in is mirrored.
    """
    resized = _resized(picture, size)
    angle, log_scale, log_gain = rng.uniform(-0.5, 0.5), rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25)
    matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), np.degrees(angle), np.exp(log_scale))
    matrix[:, 2] += rng.uniform(-size / 12, size / 12, 2)
    warped = cv2.warpAffine(np.ascontiguousarray(resized), matrix, (size, size), borderMode=cv2.BORDER_REFLECT_101)
    bright: Pixels = np.clip(warped * np.float32(np.exp(log_gain)) + rng.uniform(-15, 15), 0, 255).astype(np.uint8)
    return mirrored(*turned(bright, NOWHERE, rng), rng)[0]


def crops(picture: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """A random crop (30 to 100 % of the area, aspect 0.6 to 1.67), mirrored half of the time, with mild changes of
    brightness, contrast and saturation; grey one time in twenty.
    """
    height, width = picture.shape[:2]
    crop_h, crop_w = height, width
    for _ in range(5):
        area = rng.uniform(0.3, 1.0) * height * width
        aspect = np.exp(rng.uniform(np.log(0.6), np.log(1 / 0.6)))
        across, down = max(1, round(np.sqrt(area * aspect))), max(1, round(np.sqrt(area / aspect)))
        if across <= width and down <= height:
            crop_h, crop_w = down, across
            break
    x, y = rng.integers(width - crop_w + 1), rng.integers(height - crop_h + 1)
    out, _ = mirrored(_resized(picture[y : y + crop_h, x : x + crop_w], size), NOWHERE, rng)
    if rng.random() < 0.8:
        gain, offset, colour = rng.uniform(0.7, 1.3), rng.uniform(-25, 25), rng.uniform(0.4, 1.4)
        floats = out.astype(np.float32)
        grey = floats @ np.array([[0.299], [0.587], [0.114]], np.float32)
        out = np.clip((grey + (floats - grey) * colour) * gain + offset, 0, 255).astype(np.uint8)
    if rng.random() < 0.05:
        out = np.repeat(cv2.cvtColor(np.ascontiguousarray(out), cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return out


def _resized(picture: Pixels, size: int) -> Pixels:
    height, width = picture.shape[:2]
    if (height, width) == (size, size):
        return picture
    shrinks = height >= size and width >= size
    resized: Pixels = cv2.resize(
        np.ascontiguousarray(picture), (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    return resized


Box = NDArray[np.float32]
"""(4,) x0, y0, x1, y1 in shares of the picture's width and height."""

NOWHERE: Box = np.zeros(4, np.float32)


def at_size(picture: Pixels, size: int, rng: np.random.Generator, augment: Augment) -> Pixels:
    """The picture at this size, ``moved`` as an augmentation moves pictures.

    >>> at_size(np.zeros((4, 6, 3), np.uint8), 8, np.random.default_rng(0), "none").shape
    (8, 8, 3)
    """
    return moved(_resized(picture, size), NOWHERE, augment, rng)[0]


def shifted(picture: Pixels, box: Box, rng: np.random.Generator) -> tuple[Pixels, Box]:
    """Moved by up to a twelfth of the side of a square picture; what comes in is mirrored."""
    size = len(picture)
    most = size // 12
    x, y = rng.integers(2 * most + 1, size=2)
    if not most:
        return picture, box
    wide = cv2.copyMakeBorder(picture, most, most, most, most, cv2.BORDER_REFLECT_101)
    shift = np.tile([most - x, most - y], 2).astype(np.float32) / size
    return wide[y : y + size, x : x + size], np.clip(box + shift, 0, 1)


def turned(picture: Pixels, box: Box, rng: np.random.Generator) -> tuple[Pixels, Box]:
    """By none to three quarters, counter-clockwise: what was at the right is at the top."""
    turns = int(rng.integers(4))
    for _ in range(turns):
        box = np.array([box[1], 1 - box[2], box[3], 1 - box[0]], np.float32)
    return np.rot90(picture, turns), box


def mirrored(picture: Pixels, box: Box, rng: np.random.Generator) -> tuple[Pixels, Box]:
    """Left to right, half of the time."""
    if rng.random() >= 0.5:
        return picture, box
    return picture[:, ::-1], np.array([1 - box[2], box[1], 1 - box[0], box[3]], np.float32)


def moved(picture: Pixels, box: Box, augment: Augment, rng: np.random.Generator) -> tuple[Pixels, Box]:
    """A square picture and its box, moved alike as an augmentation moves pictures; scales and colours stay.

    "flips" and "crops" mirror half of the time, the others also turn by quarters and shift by up to a twelfth.

    >>> picture, box = np.zeros((8, 8, 3), np.uint8), np.array([0.0, 0.0, 0.25, 0.5], np.float32)
    >>> moved(picture, box, "flips", np.random.default_rng(1))[1].tolist()
    [0.0, 0.0, 0.25, 0.5]
    >>> moved(picture, box, "flips", np.random.default_rng(2))[1].tolist()
    [0.75, 0.0, 1.0, 0.5]
    """
    if augment in ("dihedral", "affine"):
        picture, box = turned(*shifted(picture, box, rng), rng)
    return (picture, box) if augment == "none" else mirrored(picture, box, rng)


AUGMENTS: dict[Augment, Callable[[Pixels, int, np.random.Generator], Pixels]] = {
    "none": partial(at_size, augment="none"),
    "flips": partial(at_size, augment="flips"),
    "dihedral": partial(at_size, augment="dihedral"),
    "affine": affine,
    "crops": crops,
}
"""Name -> (picture H×W×3 uint8, size, generator) -> size×size×3 uint8; the picture is not modified. Add your own here
and to ``config.Augment``."""
