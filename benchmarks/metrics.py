"""What box accuracy costs: all 1000 thresholds at once beside the plain loop with ``cv2.findContours``.

    python benchmarks/metrics.py

Maps of 7², 14² and 28² cells, resized to 224 by bicubic interpolation, one or two true boxes each; half are smooth
noise, half rectified with a blob, as trained networks make them. The loop is the public benchmark's rule, written
plainly: for each of 1000 thresholds cut, find contours, box them; then all overlaps at once.

"one thread": loop and library in turns; medians over maps of the processor's time, which other programs disturb least.
Rows are MaxBoxAccV2 (every part), MaxBoxAcc (the largest) and both, as an evaluation wants them, which share their
work here and nothing in the loop. "two processes": how evaluation counts them, the grids in chunks to two worker
processes, which resize them; wall time an image, of the loop in this process and of the library in two, in turns, the
best of three rounds each. Results must be equal. Exit status 1: a ratio of two processes below 10, or a difference.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import median
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.metrics import part_overlaps

LIMIT = 10.0
SIZE = 224
CHUNK = 4  # maps that go to a worker at once


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
    """Maps of a grid: noise, and blobs over rectified noise, in turns."""
    rng = np.random.default_rng(grid)
    made = []
    for i in range(count):
        values = rng.standard_normal((grid, grid))
        if i % 2:
            y, x = np.mgrid[:grid, :grid] / grid - rng.uniform(0.3, 0.7, (2, 1, 1))
            values = np.maximum(0.3 * values + 2 * np.exp(-10 * (x * x + y * y)), 0)
        made.append(values)
    return made


def laid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A map at the pictures' size."""
    return cv2.resize(values, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def timed(call: Callable[[], list[Overlaps]]) -> tuple[float, list[Overlaps]]:
    start = time.process_time()
    result = call()
    return 1000 * (time.process_time() - start), result


Case = tuple[NDArray[np.float64], NDArray[np.float64]]
Overlaps = list[NDArray[np.float64]]

WANTED: dict[str, tuple[Literal["all", "largest"], ...]] = {
    "V2": ("all",),
    "V1": ("largest",),
    "both": ("all", "largest"),
}


def fast(cases: Sequence[Case], parts: tuple[Literal["all", "largest"], ...]) -> list[Overlaps]:
    return [part_overlaps(laid(values), truth, parts) for values, truth in cases]


def slow(cases: Sequence[Case], parts: tuple[Literal["all", "largest"], ...]) -> list[Overlaps]:
    return [[plain(laid(values), truth, one) for one in parts] for values, truth in cases]


def in_two(
    pool: ProcessPoolExecutor, cases: Sequence[Case], parts: tuple[Literal["all", "largest"], ...]
) -> list[Overlaps]:
    chunks = [cases[start : start + CHUNK] for start in range(0, len(cases), CHUNK)]
    return [one for found in pool.map(partial(fast, parts=parts), chunks) for one in found]


def wall(call: Callable[[], list[Overlaps]]) -> tuple[float, list[Overlaps]]:
    start = time.perf_counter()
    result = call()
    return 1000 * (time.perf_counter() - start), result


def equal(one: list[Overlaps], other: list[Overlaps]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40, help="maps a grid")
    count = parser.parse_args().images
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    same = fast_enough = True
    print("ms an image         one thread             two processes")
    print("                    loop   here  ratio     loop   here  ratio")
    with ProcessPoolExecutor(
        2, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        for name, parts in WANTED.items():
            for grid in (7, 14, 28):
                truths = (np.sort(rng.uniform(0, SIZE, (1 + i % 2, 2, 2)), axis=1).reshape(-1, 4) for i in range(count))
                cases = list(zip(maps(grid, count), truths, strict=True))
                times: list[tuple[float, float]] = []
                for case in cases:
                    (a, expected), (b, got) = (timed(partial(how, [case], parts)) for how in (slow, fast))
                    same &= equal(expected, got)
                    times.append((a, b))
                columns = [median(column) for column in zip(*times, strict=True)]
                ratio = median(a / b for a, b in times)
                rounds: list[tuple[float, float]] = []
                for _ in range(3):
                    (a, expected), (b, got) = (
                        wall(partial(slow, cases, parts)),
                        wall(partial(in_two, pool, cases, parts)),
                    )
                    same &= equal(expected, got)
                    rounds.append((a / count, b / count))
                loop, here = (min(column) for column in zip(*rounds, strict=True))
                fast_enough &= loop / here >= LIMIT
                print(f"{name:4}  {grid:2}² → {SIZE}²  {columns[0]:6.1f} {columns[1]:6.2f} {ratio:6.1f}"
                      f"   {loop:6.1f} {here:6.2f} {loop / here:6.1f}")  # fmt: skip
    print(
        "results equal" if same else "results DIFFER",
        f"; ratios of two processes {'' if fast_enough else 'NOT '}at least {LIMIT:g}",
        sep="",
    )
    return 0 if same and fast_enough else 1


if __name__ == "__main__":
    sys.exit(main())
