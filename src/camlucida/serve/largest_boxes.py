"""The boxes of many classes' maps at once, without laying the maps over the picture pixel by pixel.

``localize.boxes`` looks at every pixel of every class. Between two columns of cell centres a map changes in one
direction only along a row of pixels, so what is above the threshold there is one run of pixels: it is enough to know
where each run begins and ends. The cost is rows × columns of *cells* for each class, whatever the picture's width, and
the answer is the same.
"""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.images.preprocess import View, interpolation_matrix

Box = tuple[int, int, int, int]

_AT_ONCE = 500_000
"""Runs worked on at once, so that many classes of a large picture need no more memory than a few."""


def largest_boxes(maps: NDArray[np.float32], view: View, threshold: float = 0.2) -> list[Box | None]:
    """The box of the largest part above the threshold for each map: ``localize.boxes`` of ``View.project``.

    Args:
        maps: (T, h, w), finite, signed, any unit.
        view: what the grid covers of the picture.
        threshold: share of each map's maximum over the picture, in [0, 1].

    Returns:
        T half-open xyxy boxes in pixels of the picture; None where a map is nowhere positive.

    Example:
        >>> largest_boxes(np.array([[[0, 1, 0, 0]], [[-1, -1, -1, -1]]], np.float32), View.whole((10, 40)), 0.5)
        [(10, 0, 20, 10), None]
    """
    (height, width), (x0, y0, x1, y1) = view.image_hw, view.seen_xyxy
    across = _Columns(interpolation_matrix(width, maps.shape[2], x0, x1))
    rows = interpolation_matrix(height, maps.shape[1], y0, y1)
    step = max(1, _AT_ONCE // (height * maps.shape[2]))
    boxes: list[Box | None] = []
    for first in range(0, len(maps), step):
        tall = (rows @ maps[first : first + step]).astype(np.float32)
        boxes += _boxes(tall, across, threshold)
    return boxes


class _Columns:
    """Where the pixels of a row lie between the cells: those from ``begin[i]`` to ``end[i]`` have cell ``cells[i]`` at
    their left. Cells that no pixel begins with (the picture is small) are left out.

    Pixel x mixes its cell and the next with the weights ``left[x]`` and ``right[x]``, in float32 as ``View.project``.
    """

    def __init__(self, matrix: NDArray[np.float64]) -> None:
        inside = np.flatnonzero(matrix.any(1))
        low = (matrix[inside] != 0).argmax(1)
        self.cells, first = np.unique(low, return_index=True)
        edges = inside[0] + np.append(first, low.size) if inside.size else np.zeros(1, np.intp)
        self.begin, self.end = edges[:-1], edges[1:]
        self.after = np.minimum(self.cells + 1, matrix.shape[1] - 1)
        self.left, self.right = np.zeros((2, len(matrix)), np.float32)
        self.left[inside] = matrix[inside, low]
        last = matrix.shape[1] - 1
        self.right[inside] = np.where(low < last, matrix[inside, np.minimum(low + 1, last)], 0)

    def at(self, a: NDArray[np.float32], b: NDArray[np.float32], pixel: NDArray[Any]) -> NDArray[np.float32]:
        """Values at pixels between cells of the values a and b."""
        value: NDArray[np.float32] = a * self.left[pixel] + b * self.right[pixel]
        return value


def _boxes(tall: NDArray[np.float32], across: _Columns, threshold: float) -> list[Box | None]:
    """Boxes of maps (T, H, w) that have the picture's rows and the grid's columns."""
    if not across.cells.size:
        return [None] * len(tall)
    a, b = tall[:, :, across.cells], tall[:, :, across.after]
    ends = np.maximum(across.at(a, b, across.begin), across.at(a, b, across.end - 1))
    highest = ends.max((1, 2)).astype(np.float64)
    cut = np.maximum(threshold * highest, 0.0)
    start, stop = _runs(a, b, across, cut[:, None, None])
    return _largest(start, stop, across)


def _runs(
    a: NDArray[np.float32], b: NDArray[np.float32], across: _Columns, cut: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For each row and cell, the pixels above the cut: from start on, before stop; none where they are equal."""
    high_a, high_b = a > cut, b > cut
    begin, end = (np.broadcast_to(edge.astype(np.int32), a.shape).copy() for edge in (across.begin, across.end))
    start, stop = begin, np.where(high_a | high_b, end, begin)
    at = np.flatnonzero(high_a != high_b)  # the value passes the cut between a and b
    left, right, limit = a.take(at), b.take(at), cut.take(at // a[0].size)
    falls, low, high = high_a.take(at), begin.take(at), end.take(at)
    last = high - 1
    for _ in range(int((across.end - across.begin).max()).bit_length()):  # halving; what is sought lies in [low, high]
        middle = (low + high) >> 1
        beyond = (across.at(left, right, np.minimum(middle, last)) > limit) != falls
        high = np.where(beyond, middle, high)
        low = np.where(beyond, low, np.minimum(middle + 1, high))
    np.put(stop, at[falls], low[falls])
    np.put(start, at[~falls], low[~falls])
    return start, stop


def _largest(start: NDArray[np.int32], stop: NDArray[np.int32], across: _Columns) -> list[Box | None]:
    """The box around the largest 8-connected set of runs for each map."""
    marked = stop > start
    numbers = _part_numbers(marked, marked & (start == across.begin), marked & (stop == across.end), start, stop)
    at = np.flatnonzero(marked)
    own, from_x, to_x = numbers.take(at), start.take(at), stop.take(at)
    areas = np.bincount(own, to_x - from_x)
    parts = np.searchsorted(at, np.arange(len(marked) + 1) * marked[0].size)
    boxes: list[Box | None] = []
    for first, last in itertools.pairwise(parts):
        if first == last:
            boxes.append(None)
            continue
        part = own[first:last]
        largest = first + np.flatnonzero(part == part[areas.take(part).argmax()])  # of equal ones, the first to be read
        top, bottom = ((at[i] // marked.shape[2]) % marked.shape[1] for i in (largest[0], largest[-1]))
        boxes.append((int(from_x[largest].min()), int(top), int(to_x[largest].max()), int(bottom) + 1))
    return boxes


def _part_numbers(
    marked: NDArray[np.bool_],
    at_begin: NDArray[np.bool_],
    at_end: NDArray[np.bool_],
    start: NDArray[np.int32],
    stop: NDArray[np.int32],
) -> NDArray[np.int32]:
    """A number for each run, the same for runs that touch (also at a corner).

    The runs are drawn as a small picture that OpenCV labels. A run is three dots in a line, of which the outer ones are
    set where it reaches the border to its neighbours; a fourth column stands for that border. Between two rows there is
    a line of joints: below a run's middle dot where runs of the same cell touch, and in the border's column where both
    rows have a run that reaches it, for those lie in one square of four pixels.
    """
    maps, height, cells = marked.shape
    drawn = np.zeros((maps, 2 * height, 4 * cells), np.uint8)
    lines, joints = drawn[:, ::2], drawn[:, 1:-1:2]
    lines[:, :, 0::4], lines[:, :, 1::4], lines[:, :, 2::4] = at_begin, marked, at_end
    next_begin = np.zeros_like(at_begin)
    next_begin[:, :, :-1] = at_begin[:, :, 1:]
    lines[:, :, 3::4] = at_end & next_begin
    both = marked[:, :-1] & marked[:, 1:]
    joints[:, :, 1::4] = both & (start[:, :-1] <= stop[:, 1:]) & (start[:, 1:] <= stop[:, :-1])
    border = at_end | next_begin
    joints[:, :, 3::4] = border[:, :-1] & border[:, 1:]
    _, drawn_numbers = cv2.connectedComponents(drawn.reshape(-1, 4 * cells), connectivity=8, ltype=cv2.CV_32S)
    return np.asarray(drawn_numbers, np.int32).reshape(drawn.shape)[:, ::2, 1::4]
