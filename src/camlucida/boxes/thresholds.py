"""Connected parts of a map at all its 8-bit thresholds at once: a component tree, made with array operations only.

Every pixel climbs to a local maximum; the pixels that reach the same one are its hill. At any threshold, what is left
of a hill is connected, so the parts at that threshold are unions of hills, joined in the order of the passes between
them (single linkage). This costs one pass over the pixels, not one for each of the 255 thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.boxes.localize import components
from camlucida.errors import CamlucidaError

Wanted = Literal["all", "largest"]

STEPS = 128  # fine steps in one 8-bit level: pixels of one level climb by the map's own order, so hills stay few

# Freed at once: from then on glibc keeps freed blocks of up to this size for the next temporary arrays, instead of
# giving them back to the system and faulting their pages in again. Measured (MaxBoxAccV2 alone, medians of 6 paired
# processes): 2.6 instead of 4.2 ms for a map of 7² cells, 3.4 for 4.2 at 14², 5.7 for 6.5 at 28²; no difference once a
# process has freed larger blocks, as the contours of "largest" do. Elsewhere it is idle.
np.empty(1 << 24, np.uint8)


@dataclass(frozen=True, eq=False)
class LevelParts:
    """The connected parts of `values >= level`, for every level of 1 … 255, in no particular order.

    Attributes:
        levels: int64 (K,), the level of each part.
        boxes: int64 (K, 4), half-open xyxy pixels.
        areas: int64 (K,), the sum of the weights inside each part; zeros where no weights were given.
    """

    levels: NDArray[np.int64]
    boxes: NDArray[np.int64]
    areas: NDArray[np.int64]


Weights = tuple[NDArray[np.int64], NDArray[np.int64]]
"""What to add up inside the parts: flat indices of pixels, and the level in 0 … 255, not above the pixel's own, where
each begins to count, going down."""


def unit_scaled(heatmap: NDArray[Any]) -> NDArray[np.float64]:
    """Scale a map by min–max as the benchmark does: float64 H×W in [0, 1]; all 0 for a constant map."""
    values = heatmap.astype(np.float64)
    if float(values.max()) / 2 - float(values.min()) / 2 > np.finfo(np.float64).max / 2:
        raise CamlucidaError("heatmap: its range is too large for float64; scale it down")
    values -= values.min()
    top = values.max()
    if top > 0:
        values /= top
    return values


def fine_levels(heatmap: NDArray[Any]) -> NDArray[np.int32]:
    """Scale a map by min–max to 0 … 255 levels of `STEPS` fine steps; `fine // STEPS` is the benchmark's 8-bit map.

    Args:
        heatmap: real H×W, finite.

    Returns:
        int32 H×W in 0 … 255·STEPS; all 0 for a constant map.

    >>> (fine_levels(np.array([[-1.0, 0.0, 1.0]])) // STEPS).tolist()
    [[0, 127, 255]]
    """
    scaled = unit_scaled(heatmap) * 255.0
    scaled *= STEPS  # a power of two: no rounding, so whole levels stay where the benchmark puts them
    return scaled.astype(np.int32)


def outer_parts(fine: NDArray[np.int32], wanted: Sequence[Wanted]) -> list[LevelParts]:
    """The 8-connected parts of `values >= level`: all, or at each level only the one of most pixels.

    Equal areas: the part of the first pixel in reading order, as in `localize.components`.

    Args:
        fine: int32 H×W from `fine_levels`.
        wanted: "all", "largest" or both; both cost little more than one.

    Returns:
        One LevelParts for each that is wanted.
    """
    if "largest" not in wanted:
        return [level_parts(fine, 8)] * len(wanted)
    values = (fine // STEPS).astype(np.int64)
    parts = level_parts(fine, 8, (np.arange(fine.size), values.ravel()))

    def first_box(level: int) -> NDArray[np.int64]:
        box: NDArray[np.int64] = components(values, values >= level).boxes[0]
        return box

    return [parts if one == "all" else _largest(parts, set(), first_box) for one in wanted]


def contours(fine: NDArray[np.int32], wanted: Sequence[Wanted]) -> list[LevelParts]:
    """What `cv2.findContours` with the tree mode boxes in `values >= level`: 8-connected parts, and their holes.

    Args:
        fine: int32 H×W from `fine_levels`.
        wanted: "all"; "largest", at each level only the contour of the largest area (`cv2.contourArea`; of equal ones,
            the first); or both, which cost little more than one.

    Returns:
        One LevelParts for each that is wanted. The contour of a hole runs along the pixels around it: its box is the
        hole's, grown by one pixel. Of a constant map it is the top left pixel, as the benchmark has it.
    """
    if not fine.any():
        return [LevelParts(np.arange(256), np.zeros((256, 4), np.int64), np.zeros(256, np.int64))] * len(wanted)
    height, width = fine.shape
    inverted = 256 * STEPS - 1 - fine  # 8-bit levels turn into 255 - level
    found = level_parts(inverted, 4)
    inside = ((found.boxes > 0) & (found.boxes < [width + 1, height + 1, width, height])).all(axis=1)
    hole_levels, hole_boxes = 256 - found.levels[inside], found.boxes[inside] + np.array([-1, -1, 1, 1])
    parts = level_parts(fine, 8, _block_areas(fine) if "largest" in wanted else None)

    # A hole's contour is never larger than the one around it, so only outer contours compete. Where there are no holes,
    # their area is half a pixel for each 2×2 block with three pixels set, and one for each with four.
    values = (fine // STEPS).astype(np.uint8)

    def box_of_cv2(level: int) -> NDArray[np.int64]:
        lines = cv2.findContours((values >= level).view(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        x, y, w, h = cv2.boundingRect(max(lines, key=cv2.contourArea))
        return np.array([x, y, x + w, y + h])

    every = LevelParts(
        np.concatenate([parts.levels, hole_levels]),
        np.concatenate([parts.boxes, hole_boxes]),
        np.zeros(parts.levels.size + hole_levels.size, np.int64),
    )
    return [every if one == "all" else _largest(parts, set(hole_levels.tolist()), box_of_cv2) for one in wanted]


def _block_areas(fine: NDArray[np.int32]) -> Weights:
    """Twice the area inside outer contours: each 2×2 block counts once with its third pixel, again with its fourth."""
    index = np.arange(fine.size).reshape(fine.shape)
    a, b, c, d = fine[:-1, :-1], fine[:-1, 1:], fine[1:, :-1], fine[1:, 1:]
    upper = np.where(a >= b, index[:-1, :-1], index[:-1, 1:])
    lower = np.where(c >= d, index[1:, :-1], index[1:, 1:])
    high_ab, low_ab, high_cd, low_cd = np.maximum(a, b), np.minimum(a, b), np.maximum(c, d), np.minimum(c, d)
    highest = np.where(high_ab >= high_cd, upper, lower).ravel()
    third = np.minimum(np.maximum(low_ab, low_cd), np.minimum(high_ab, high_cd)).ravel()
    fourth = np.minimum(low_ab, low_cd).ravel()
    return np.concatenate([highest, highest]), np.concatenate([third, fourth]) // STEPS


def _largest(parts: LevelParts, doubtful: set[int], decide: Callable[[int], NDArray[np.int64]]) -> LevelParts:
    """Keep the part of the largest area at each level; `decide` levels with a tie, and doubtful ones with a choice."""
    order = np.lexsort((-parts.areas, parts.levels))
    levels, areas = parts.levels[order], parts.areas[order]
    first = np.flatnonzero(np.append(True, levels[1:] != levels[:-1])[: levels.size])
    second = np.minimum(first + 1, levels.size - 1)
    choice = (second > first) & (levels[second] == levels[first])
    tie = choice & (areas[second] == areas[first])
    candidates = parts.boxes[order]
    boxes = candidates[first]
    # Areas of doubtful levels are too small by what the holes hold, but no contour encloses more than its box.
    limits = 2 * (candidates[:, 2] - candidates[:, 0] - 1) * (candidates[:, 3] - candidates[:, 1] - 1)
    others = limits.copy()
    others[first] = -1
    others = np.maximum.reduceat(others, first)
    for i in np.flatnonzero(choice):
        if tie[i] or (int(levels[first[i]]) in doubtful and others[i] >= areas[first[i]]):
            boxes[i] = decide(int(levels[first[i]]))
    return LevelParts(levels[first], boxes, areas[first])


def level_parts(fine: NDArray[np.int32], connectivity: int, weights: Weights | None = None) -> LevelParts:
    """Find the connected parts at every level.

    Args:
        fine: int32 H×W from `fine_levels`, sides up to 32,767.
        connectivity: 8 or 4.
        weights: what to add up in `areas`.

    Returns:
        LevelParts. Memory: 2 kB for each local maximum of the map.

    >>> parts = level_parts(np.array([[255, 0, 9, 9]], np.int32) * STEPS, 8)
    >>> for level in (1, 9, 10): print(level, parts.boxes[parts.levels == level].tolist())
    1 [[0, 0, 1, 1], [2, 0, 4, 1]]
    9 [[0, 0, 1, 1], [2, 0, 4, 1]]
    10 [[0, 0, 1, 1]]
    """
    values = (fine // STEPS).astype(np.uint8)
    hills, tops = _hills(fine, values, connectivity)
    reach = _reach(hills, values, tops.size)
    area = np.zeros((tops.size, 256 if weights is not None else 1), np.int64)
    if weights is not None:
        pixels, begins = weights
        codes = hills.ravel()[pixels].astype(np.int64) * 256 + begins
        area = np.bincount(codes, minlength=area.size).reshape(area.shape)
        area = np.cumsum(area[:, ::-1], axis=1)[:, ::-1].copy()

    floors = np.zeros(tops.size, np.int64)  # a hill is a part of its own at floor < level <= top
    roots = list(range(tops.size))
    for low, high, height in _passes(hills, values, tops.size, connectivity):
        a, b = _root(roots, low), _root(roots, high)
        if a == b:
            continue
        roots[b] = a
        floors[b] = height
        joined = reach[a, : height + 1]
        np.maximum(joined, reach[b, : height + 1], out=joined)
        if weights is not None:
            area[a, : height + 1] += area[b, : height + 1]

    level = np.arange(256)
    part, levels = np.nonzero((level > floors[:, None]) & (level <= tops[:, None]))
    boxes = reach[part, levels].astype(np.int64)
    boxes[:, :2] *= -1
    boxes[:, 2:] += 1
    areas = area[part, levels] if weights is not None else np.zeros(part.size, np.int64)
    return LevelParts(levels, boxes, areas)


def _hills(
    fine: NDArray[np.int32], values: NDArray[np.uint8], connectivity: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Label each pixel by the local maximum it climbs to: hills int32 H×W in 0 … B-1, and their tops' levels (B,).

    It climbs along its row to the highest pixel of its run there, then to that pixel's highest neighbour, and so on.
    """
    height, width = fine.shape
    rises = np.ones((height, width + 1), bool)  # into each pixel, from the left; of equal pixels the later is higher
    np.greater_equal(fine[:, 1:], fine[:, :-1], out=rises[:, 1:-1])
    rises[:, -1] = False
    peaks = np.flatnonzero(rises[:, :-1] & ~rises[:, 1:])  # one in each run
    begins = np.ones((height, width), bool)
    begins[:, 1:] = rises[:, 1:-1] < rises[:, 2:]
    runs = np.cumsum(begins.ravel(), dtype=np.intp) - 1

    bits = (fine.size - 1).bit_length()
    kind = np.int32 if bits <= 16 else np.int64
    keys = np.zeros((height + 2, width + 2), kind)  # unique, and each carries its pixel's own index
    keys[1:-1, 1:-1] = np.left_shift(fine, bits, dtype=kind) | np.arange(fine.size, dtype=kind).reshape(fine.shape)
    key, at = keys.ravel(), peaks + 2 * (peaks // width) + width + 3
    best = key[at]
    for right in (-1, 0, 1) if connectivity == 8 else (0,):
        np.maximum(best, key[at - (width + 2) + right], out=best)
        np.maximum(best, key[at + (width + 2) + right], out=best)

    parent = runs[best & ((1 << bits) - 1)]
    summits = np.flatnonzero(parent == np.arange(peaks.size))
    while not np.array_equal(further := parent[parent], parent):  # twice as far up with every round
        parent = further
    number = np.empty(peaks.size, np.int32)
    number[summits] = np.arange(summits.size, dtype=np.int32)
    return number[parent][runs].reshape(fine.shape), values.ravel()[peaks[summits]].astype(np.int64)


def _reach(hills: NDArray[np.int32], values: NDArray[np.uint8], count: int) -> NDArray[np.int16]:
    """How far each hill reaches at each level: int16 (B, 256, 4) of -x1, -y1, x2, y2, inclusive; maxima join them."""
    height, width = hills.shape
    reach = np.full((count, 256, 4), np.iinfo(np.int16).min, np.int16)
    flat = reach.reshape(-1)
    codes = (hills * np.intp(256) + values) * 4
    # The last assignment to an index wins, so the order of the pixels decides which of them is kept.
    by_row, by_column = codes.ravel(), codes.T.ravel()
    y = np.repeat(np.arange(height, dtype=np.int16), width)
    x = np.repeat(np.arange(width, dtype=np.int16), height)
    flat[by_column[::-1]] = -x[::-1]
    flat[by_row[::-1] + 1] = -y[::-1]
    flat[by_column + 2] = x
    flat[by_row + 3] = y
    for levels in (1, 2, 4, 8, 16, 32, 64, 128):  # each reaches as far as the highest of those above it
        np.maximum(reach[:, :-levels], reach[:, levels:], out=reach[:, :-levels])
    return reach


def _passes(
    hills: NDArray[np.int32], values: NDArray[np.uint8], count: int, connectivity: int
) -> list[tuple[int, int, int]]:
    """The highest pass between each two hills that touch, highest first: (hill, hill, level), levels above 0."""
    height, width = hills.shape
    hill, value = hills.ravel(), values.ravel()
    found = []
    for down, right in [(0, 1), (1, 0), (1, 1), (1, -1)][: 4 if connectivity == 8 else 2]:
        apart = np.zeros((height, width), bool)
        left = slice(max(-right, 0), width - max(right, 0))
        apart[: height - down, left] = (
            hills[: height - down, left] != hills[down:, left.start + right : left.stop + right]
        )
        one = np.flatnonzero(apart)
        other = one + (down * width + right)
        a, b = hill[one].astype(np.int64), hill[other].astype(np.int64)
        level = np.minimum(value[one], value[other])
        found.append((np.minimum(a, b) * count + np.maximum(a, b)) * 256 + level)
    codes = np.sort(np.concatenate(found))
    pairs = codes >> 8
    codes = codes[np.append(pairs[1:] != pairs[:-1], True)[: codes.size] & (codes & 255 > 0)]
    codes = codes[np.argsort(-(codes & 255), kind="stable")]
    pairs = codes >> 8
    return list(zip((pairs // count).tolist(), (pairs % count).tolist(), (codes & 255).tolist(), strict=True))


def _root(roots: list[int], index: int) -> int:
    """The representative of a joined set, with path halving."""
    while roots[index] != index:
        roots[index] = roots[roots[index]]
        index = roots[index]
    return index
