"""The boxes of the original code: a loose and a tight one of each map, and five guesses of the five likeliest classes.

Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, and the bounding box generator that
the authors published with it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.boxes.localize import as_heatmap

LEVELS = (20, 100, 110)  # thresholds of the 8-bit map: 7.8, 39 and 43 % of its maximum
DEEP = 10  # of 255: how far inside a part, relative to its deepest pixel, a pixel must lie to be kept
MARGIN = 5  # pixels that the original's boxes stay off the right and the lower edge

GUESSES = ((0, 2), (1, 2), (2, 1))  # (rank of the class, how many of its boxes): five guesses


def all_boxes(heatmap: ArrayLike) -> NDArray[np.int64]:
    """Every box of the original generator, largest first.

    At each of three thresholds: the exact Euclidean distance of each kept pixel to the nearest other one, rescaled to
    0 … 255; pixels above 10 stay; every contour is boxed, holes too. Then, from the largest box down, smaller ones that
    share more than half of the larger one's area are dropped, with the original's peculiarity: the box that follows a
    dropped one is not compared with the same larger box. (That is how a tight box at 43 % survives inside the loose one
    when the box at 39 % is dropped.) Boxes end 5 pixels before the right and the lower edge, as the original's do.

    Args:
        heatmap: real H×W, finite; negative values count as 0.

    Returns:
        int64 (M, 4), half-open xyxy pixels; none where the map is nowhere positive.

    Raises:
        CamlucidaError: a bad heatmap.
    """
    values = np.maximum(as_heatmap(heatmap).astype(np.float64), 0)
    if not values.any():
        return np.zeros((0, 4), np.int64)
    image = np.rint(values / values.max() * 255).astype(np.uint8)
    found = [box for level in LEVELS for box in _boxes_at(image, level)]
    found.sort(key=lambda box: -box[2] * box[3])
    larger = 0
    while larger < len(found):
        other = larger + 1
        while other < len(found):
            if _share_half(found[larger], found[other]):
                del found[other]  # what follows takes its place, and is passed over
            other += 1
        larger += 1
    x, y, width, height = np.array(found, np.int64).reshape(-1, 4).T
    corners = np.stack([np.minimum(x, x + width), np.minimum(y, y + height)], 1)
    ends = np.stack([np.maximum(x, x + width), np.maximum(y, y + height)], 1)
    return np.concatenate([corners, ends], 1).clip(0)


def loose_tight(heatmap: ArrayLike) -> NDArray[np.int64]:
    """The loose and the tight box of a map: the first two of ``all_boxes``.

    Returns:
        int64 (M, 4), half-open xyxy pixels, the loose one first; M is 1 where there is no second box, 0 where the map
        is nowhere positive.

    >>> y, x = np.mgrid[:60, :60] - 30
    >>> heatmap = np.maximum(0, 1 - np.hypot(x, y) / 28) ** 2
    >>> loose_tight(heatmap).tolist()
    [[10, 10, 51, 51], [20, 20, 41, 41]]
    """
    return all_boxes(heatmap)[:2]


def guesses_of_rank(heatmap: ArrayLike, rank: int) -> NDArray[np.int64]:
    """The guesses among the paper's five that name the class of this map, if it is the ``rank``-th likeliest, 0 the
    first: loose and tight boxes of the two likeliest classes, the loose one of the third.

    A picture is right if any guess has its class and overlaps one of its boxes enough. Guesses of other classes are
    never right, so these are all that decide whether a picture's class is localized.

    Returns:
        int64 (M, 4), half-open xyxy; M is at most 2, and 0 from the fourth class on.
    """
    count = dict(GUESSES).get(rank, 0)
    return loose_tight(heatmap)[:count] if count else np.zeros((0, 4), np.int64)


def _boxes_at(image: NDArray[np.uint8], level: int) -> list[tuple[int, int, int, int]]:
    """Boxes (x, y, width, height) of the parts above one level, without their outermost pixels."""
    above = (image > level).view(np.uint8)
    if above.all():
        deep = above  # no pixel to be far from: the original leaves such a map as it is
    elif not above.any():
        return []
    else:
        distance = cv2.distanceTransform(above, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        deep = (np.floor(distance * (255 / distance.max()) + 0.5) > DEEP).view(np.uint8)
    height, width = image.shape
    boxes = []
    for line in cv2.findContours(deep, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[0]:
        x, y, across, down = cv2.boundingRect(line)
        boxes.append((min(x, width - MARGIN), min(y, height - MARGIN),
                      min(across, width - x - MARGIN), min(down, height - y - MARGIN)))  # fmt: skip
    return boxes


def _share_half(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """Whether two boxes share more than half of the larger one's area."""
    across = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    down = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return across * down > int(max(a[2] * a[3], b[2] * b[3]) * 0.5)
