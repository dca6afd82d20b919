"""Whether the cells of features lie where the picture is that drives them: change the picture, see what changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_PLACES = ((0.15, 0.15), (0.2, 0.8), (0.8, 0.3), (0.6, 0.85), (0.45, 0.1), (0.9, 0.6))
"""Of changes, as shares of height and width: away from the middle and from symmetries."""
_SHARP = 3.0
"""A change whose strongest cell is not so many times its mean over the cells says little of places."""
_IN_PLACE = 0.75
"""In place: the cells that should change rank above this share of all cells."""
_RATHER_IN_PLACE = 0.6
"""The same where changes spread over the whole grid."""


def seen_in_place(
    features_of: Callable[[NDArray[np.float32]], NDArray[np.float32]], picture: NDArray[np.float32]
) -> bool:
    """Whether changes of a picture show in the cells over them.

    Args:
        features_of: features (N, C, h, w) of pictures (N, C, H, W).
        picture: one, (1, C, H, W).
    """
    before = features_of(picture)[0]
    grid, space = before.shape[1:], picture.shape[2:]
    random, spread = np.random.default_rng(0), 2 * max(float(picture.std()), 1e-3)
    ranks, sharpness = [], []
    for place in _PLACES:
        cell = tuple(min(int(share * count), count - 1) for share, count in zip(place, grid, strict=True))
        rows, columns = (
            slice(index * size // count, max(index * size // count + 1, (index + 1) * size // count))
            for index, size, count in zip(cell, space, grid, strict=True)
        )
        changed = picture.copy()
        patch = changed[0, :, rows, columns]
        changed[0, :, rows, columns] = patch + spread * random.standard_normal(patch.shape)
        change = ((features_of(changed)[0] - before) ** 2).sum(0)
        near = _largest_nearby(change)
        expected = near[cell]
        ranks.append((near < expected).mean() + 0.5 * (near == expected).mean())
        sharpness.append(change.max() / max(change.mean(), 1e-30))
    return bool(np.mean(ranks) > (_IN_PLACE if np.median(sharpness) > _SHARP else _RATHER_IN_PLACE))


def _largest_nearby(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest value of each cell and its eight neighbours."""
    padded = np.pad(values, 1, constant_values=-np.inf)
    height, width = values.shape
    parts = [padded[row : row + height, column : column + width] for row in range(3) for column in range(3)]
    return np.asarray(np.max(parts, axis=0))
