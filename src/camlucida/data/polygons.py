"""Polygons -> pixels: a pixel is inside if its centre is."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def polygon_mask(parts: Iterable[NDArray[np.float64]], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The union of polygons, each filled by the even-odd rule at the pixels' centres.

    Args:
        parts: polygons, each (N, 2), x and y in pixels, N of at least 3; closed by themselves. They may reach out.
        size_hw: the size of the picture.

    Returns:
        bool H×W; a pixel (column c, row r) is set if the point (c + 0.5, r + 0.5) lies inside of a polygon.

    >>> triangle = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    >>> polygon_mask([triangle], (4, 4)).astype(int).tolist()
    [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    """
    height, width = size_hw
    mask = np.zeros(size_hw, np.bool_)
    for polygon in parts:
        first = int(np.clip(np.floor(polygon[:, 1].min()), 0, height))
        last = int(np.clip(np.ceil(polygon[:, 1].max()), 0, height))
        start, end = polygon, np.roll(polygon, -1, 0)
        centres = np.arange(first, last)[:, None] + 0.5
        rows, edges = np.nonzero((start[:, 1] <= centres) != (end[:, 1] <= centres))
        along = (centres[rows, 0] - start[edges, 1]) / (end[edges, 1] - start[edges, 1])
        crossings = start[edges, 0] + along * (end[edges, 0] - start[edges, 0])
        columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.intp)  # the first centre not left of it
        turns = np.zeros((last - first, width + 1), np.int32)
        np.add.at(turns, (rows, columns), 1)
        mask[first:last] |= np.cumsum(turns, 1)[:, :width] % 2 == 1
    return mask
