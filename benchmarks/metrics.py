"""What box accuracy costs: MaxBoxAcc over 1000 thresholds beside the plain loop with ``cv2.findContours``.

    python benchmarks/metrics.py

Maps of 7², 14² and 28² cells, resized to 224 by bicubic interpolation, one or two true boxes each; half are smooth
noise, half rectified with a blob, as trained networks make them. The loop is the public benchmark's rule, written
plainly: for each of 1000 thresholds cut, find contours, box them; then all overlaps at once. Both on one thread, in
turns; medians over maps of the processor's time, which other programs disturb least. Results must be equal. Exit status
1: a ratio below 10, or a difference.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.metrics import box_overlaps

LIMIT = 10.0
SIZE = 224


def plain(heatmap: NDArray[np.float64], truth: NDArray[np.float64], parts: str) -> NDArray[np.float64]:
    """The best overlap at each threshold, one threshold after another."""
    values = heatmap - heatmap.min()
    image = (values / values.max() * 255).astype(np.uint8)
    top = image.max()
    boxes, counts = [], []
    for threshold in np.arange(0, 1, 0.001):
        _, binary = cv2.threshold(image, int(threshold * top), 255, cv2.THRESH_BINARY)
        lines = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        if parts == "largest":
            lines = [max(lines, key=cv2.contourArea)]
        for line in lines:
            x, y, width, height = cv2.boundingRect(line)
            boxes.append((x, y, min(x + width, SIZE - 1), min(y + height, SIZE - 1)))
        counts.append(len(lines))
    a, b = np.array(boxes)[:, None], truth.astype(int)[None]
    sides = np.maximum(0, np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1)
    across = sides[..., 0] * sides[..., 1]
    area_a = (a[..., 2] - a[..., 0] + 1) * (a[..., 3] - a[..., 1] + 1)
    area_b = (b[..., 2] - b[..., 0] + 1) * (b[..., 3] - b[..., 1] + 1)
    overlaps = (across / (area_a + area_b - across)).max(axis=1)
    return np.maximum.reduceat(overlaps, np.cumsum([0, *counts[:-1]]))


def maps(grid: int, count: int) -> list[NDArray[np.float64]]:
    """Maps of a grid at 224 pixels: noise, and blobs over rectified noise, in turns."""
    rng = np.random.default_rng(grid)
    made = []
    for i in range(count):
        values = rng.standard_normal((grid, grid))
        if i % 2:
            y, x = np.mgrid[:grid, :grid] / grid - rng.uniform(0.3, 0.7, (2, 1, 1))
            values = np.maximum(0.3 * values + 2 * np.exp(-10 * (x * x + y * y)), 0)
        made.append(cv2.resize(values, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC))
    return made


def timed(call: Callable[[], NDArray[np.float64]]) -> tuple[float, NDArray[np.float64]]:
    start = time.process_time()
    result = call()
    return 1000 * (time.process_time() - start), result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40, help="maps a grid")
    count = parser.parse_args().images
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    equal = fast_enough = True
    print("ms an image       loop   here  ratio")
    for parts, name in (("all", "V2"), ("largest", "V1")):
        for grid in (7, 14, 28):
            times: list[tuple[float, float]] = []
            for i, heatmap in enumerate(maps(grid, count)):
                truth = np.sort(rng.uniform(0, SIZE, (1 + i % 2, 2, 2)), axis=1).reshape(-1, 4)
                slow, expected = timed(partial(plain, heatmap, truth, parts))
                fast, got = timed(partial(box_overlaps, heatmap, truth, parts=parts))
                equal &= bool(np.array_equal(expected, got))
                times.append((slow, fast))
            slow, fast = (median(column) for column in zip(*times, strict=True))
            ratio = median(s / f for s, f in times)
            fast_enough &= ratio >= LIMIT
            print(f"{name}  {grid:2}² → {SIZE}²  {slow:6.1f} {fast:6.2f} {ratio:6.1f}")
    print(
        "results equal" if equal else "results DIFFER",
        f"; ratios {'' if fast_enough else 'NOT '}at least {LIMIT:g}",
        sep="",
    )
    return 0 if equal and fast_enough else 1


if __name__ == "__main__":
    sys.exit(main())
