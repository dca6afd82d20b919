"""Values that stand in annotations, checked: numbers, sizes, boxes, names.

Each function raises a BadRecordError that quotes the value where it is not as it must be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from camlucida.data.reading import BadRecordError
from camlucida.images.picture import MAX_PIXELS, shown

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels; half-open."""


def number(text: object, what: str) -> float:
    """A finite number.

    >>> number(" 2.5", "x0")
    2.5
    """
    try:
        value = math.nan if isinstance(text, bool) else float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise BadRecordError(f"{what} is {quoted(text)}, expected a finite number")
    return value


def whole(text: object, what: str, least: int = 0) -> int:
    """A whole number of at least ``least``.

    >>> whole("12", "width")
    12
    """
    value = number(text, what)
    if not value.is_integer() or value < least:
        raise BadRecordError(f"{what} is {quoted(text)}, expected a whole number of at least {least}")
    return int(value)


def checked_box(box: Iterable[float], size_hw: tuple[int, int] | None, overhang: float = 0.0) -> Box:
    """A half-open xyxy box that has an area and lies in a picture of ``size_hw`` (None: not known).

    Args:
        box: four finite numbers.
        size_hw: the picture's size.
        overhang: what it may reach out by, in pixels; it is cut off. Some sets round their boxes outwards.

    >>> checked_box([-0.5, 1, 8, 9], (9, 8), overhang=1)
    (0.0, 1, 8, 9)
    """
    x0, y0, x1, y1 = box
    said = f"box {x0:g} {y0:g} {x1:g} {y1:g}"
    if not (x0 < x1 and y0 < y1):
        raise BadRecordError(f"{said} is inverted or empty; expected x0 < x1 and y0 < y1")
    height, width = size_hw or (math.inf, math.inf)
    if x0 < -overhang or y0 < -overhang or x1 > width + overhang or y1 > height + overhang:
        size = f" of {width}×{height} pixels" if size_hw else ""
        raise BadRecordError(f"{said} reaches out of the picture{size}")
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
    if not (x0 < x1 and y0 < y1):
        raise BadRecordError(f"{said} has nothing in the picture of {width}×{height} pixels")
    return x0, y0, x1, y1


def boxes_array(boxes: Iterable[Box]) -> NDArray[np.float64]:
    """Boxes as float64 (M, 4), M may be 0."""
    return np.array(tuple(boxes), np.float64).reshape(-1, 4)


def checked_size(height: object, width: object) -> tuple[int, int]:
    """A picture's size in pixels, height first, as stated in a file; no larger than any picture that is read."""
    size_hw = whole(height, "height", 1), whole(width, "width", 1)
    if size_hw[0] * size_hw[1] > MAX_PIXELS:
        raise BadRecordError(f"{size_hw[1]}×{size_hw[0]} pixels, more than the limit of {MAX_PIXELS // 10**6} million")
    return size_hw


def once(seen: set[str], name: str, what: str) -> None:
    """Take note of a name that must be there only once."""
    if name in seen:
        raise BadRecordError(f"{what} {quoted(name)} is there twice")
    seen.add(name)


def quoted(value: object) -> str:
    """A value from a file, cut to a length fit for a message."""
    said = shown(repr(value) if not isinstance(value, str) else f"'{value}'")
    return said if len(said) <= 60 else said[:57] + "…'"
