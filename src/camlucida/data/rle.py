"""COCO's run lengths -> pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from camlucida.data.reading import BadRecordError, quoted


def run_lengths(counts: object, size_hw: tuple[int, int]) -> NDArray[np.int64]:
    """Run lengths as numbers, from a list of them or COCO's compressed text.

    The text has six bits a character (code point - 48): five of the number, low ones first, and one that says that more
    follow; the last one's fifth bit is the sign. From the fourth run on, a number is the difference to the run two
    before it.

    Raises:
        BadRecordError: they are neither, negative, or do not add up to the picture.

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
