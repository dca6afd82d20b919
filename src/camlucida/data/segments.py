"""COCO's segmentations -> pixels: polygons, where a pixel is inside if its centre is, and run lengths.

What is neither raises a BadRecordError that quotes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.data.reading import BadRecordError
from camlucida.data.values import quoted


def segments_of(said: object, size_hw: tuple[int, int]) -> list[NDArray[Any]]:
    """What a segmentation draws: polygons, float64 (N, 2), or run lengths, int64 (R,); nothing where there is none."""
    if isinstance(said, dict):
        if said.get("size") != list(size_hw):
            raise BadRecordError(f"run lengths for size {quoted(said.get('size'))}, its picture has {[*size_hw]}")
        return [run_lengths(said.get("counts"), size_hw)]
    if said is not None and not isinstance(said, list):
        raise BadRecordError(f"segmentation is {quoted(said)}, expected polygons or run lengths")
    return [_polygon(flat) for flat in said or ()]


def segments_mask(segments: Sequence[NDArray[Any]], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The union of polygons and run lengths, bool H×W."""
    mask = polygon_mask((segment for segment in segments if segment.ndim == 2), size_hw)
    for segment in segments:
        if segment.ndim == 1:
            mask |= run_mask(segment, size_hw)
    return mask


def _polygon(flat: object) -> NDArray[np.float64]:
    try:
        points = np.array(flat, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        points = np.zeros((0, 2))
    if len(points) < 3 or not np.isfinite(points).all():
        raise BadRecordError(f"polygon {quoted(flat)}, expected x, y of at least three points, all finite")
    return points


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


def run_lengths(counts: object, size_hw: tuple[int, int]) -> NDArray[np.int64]:
    """Run lengths as numbers that add up to the picture, from a list of them or COCO's compressed text.

    The text has six bits a character (code point - 48): five of the number, low ones first, and one that says that more
    follow; the last one's fifth bit is the sign. From the fourth run on, a number is the difference to the run two
    before it.

    >>> run_lengths([1, 2, 1], (2, 2)).tolist(), run_lengths("121", (2, 2)).tolist()
    ([1, 2, 1], [1, 2, 1])
    """
    if isinstance(counts, str):
        runs = _from_text(counts, size_hw[0] * size_hw[1])
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        runs = counts
    else:
        raise BadRecordError(f"counts are {quoted(counts)}, expected whole numbers or COCO's compressed text")
    if sum(runs) != size_hw[0] * size_hw[1] or min(runs, default=0) < 0:
        raise BadRecordError(f"its run lengths add up to {sum(runs)}, expected {size_hw[0]} × {size_hw[1]} pixels")
    return np.array(runs, np.int64)


def run_mask(runs: NDArray[np.int64], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Run lengths, down the columns, first of pixels that are not set -> bool H×W.

    >>> run_mask(np.array([1, 2, 1]), (2, 2)).astype(int).tolist()
    [[0, 1], [1, 0]]
    """
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size_hw[::-1]).T


def _from_text(text: str, most: int) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise BadRecordError(f"counts are {quoted(text)}, not COCO's compressed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            if not 0 <= runs[-1] <= most:
                raise BadRecordError(f"counts are {quoted(text)}, with a run of {runs[-1]} of {most} pixels")
            value = shift = 0
    if shift:
        raise BadRecordError(f"counts are {quoted(text)}, cut short")
    return runs
