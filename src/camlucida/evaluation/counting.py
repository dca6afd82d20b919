"""One picture's counters for every metric, made here or in worker processes; they are all that is kept of a picture.

Each metric is updated with the one picture, and its counters are handed back. They add up: over pictures to the
evaluation's numbers, with random weights to its confidence intervals.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.errors import CamlucidaError, DataError
from camlucida.evaluation.labelled_map import CountingSettings, LabelledMap, MappedPicture, labelled_maps, predictions
from camlucida.evaluation.measures import ACCURACY, CLASSES, MASK, MEASURES, POINTING
from camlucida.metrics import Metric

Counters = dict[str, dict[str, NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class Tally:
    """One picture's counters (metric → counter → sums), and how well its box, or else its mask, fits: NaN without."""

    index: int
    counters: Counters
    overlap: float


CountedBatch = tuple[list[Tally], list[str]]
"""The counters of several pictures, and what could not be read."""


def tally(picture: MappedPicture, settings: CountingSettings) -> Tally:
    """The counters of one picture; metrics that do not apply to it are left out.

    Raises:
        DataError: its mask cannot be read.
    """
    accuracy, classes = ACCURACY.make(settings), CLASSES.make(settings)
    accuracy.update([min(picture.ranks)])
    metrics: dict[str, Metric] = {}
    overlaps = []
    for target in labelled_maps(picture, settings):
        said = predictions(target)
        counted: dict[str, Metric] = {}
        for measure in MEASURES:
            if measure.update is not None and measure.by in said and measure.need in target.truths:
                counted[measure.name] = metric = measure.make(settings)
                measure.update(metric, target, said[measure.by])
        numbers = _class_numbers(target, said["maps"].boxes, counted)
        classes.update(target.label, **numbers)
        overlaps.append(numbers.get("iou", numbers.get("mask_iou", np.nan)))
        metrics |= {name: metrics[name] + metric if name in metrics else metric for name, metric in counted.items()}
    metrics |= {ACCURACY.name: accuracy, CLASSES.name: classes}
    least = min((overlap for overlap in overlaps if not np.isnan(overlap)), default=float("nan"))
    return Tally(picture.index, {name: metric.counters for name, metric in metrics.items()}, least)


def _class_numbers(target: LabelledMap, boxes: NDArray[Any], counted: Mapping[str, Metric]) -> dict[str, float]:
    """What this picture adds to its class's row: those of ``CLASS_NUMBERS`` that apply."""
    numbers = {"top1": float(target.rank < 1)}
    if "boxes" in target.truths:
        overlap = target.overlap(boxes)
        numbers |= {"gt_known": float(overlap >= 0.5), "iou": overlap}
    for name, measure in (("pointing", POINTING["maps"]), ("mask_iou", MASK["maps"])):
        if measure.name in counted:
            numbers[name] = counted[measure.name].compute()
    return numbers


def count(pictures: Sequence[MappedPicture], settings: CountingSettings) -> CountedBatch:
    """The counters of several pictures; one whose mask cannot be read is named and left out."""
    tallies, errors = [], []
    for picture in pictures:
        try:
            tallies.append(tally(picture, settings))
        except DataError as error:
            errors.append(str(error))
    return tallies, errors


def counted_in_order(
    batches: Iterable[Sequence[MappedPicture]], settings: CountingSettings, workers: int
) -> Iterator[CountedBatch]:
    """``count`` on each batch, in order, in so many worker processes, or here for 0. The maps come to them at the
    network's small grid; batches are read only as far ahead as the workers need.

    Raises:
        CamlucidaError: the processes could not start or died.
    """
    if not workers:
        yield from (count(batch, settings) for batch in batches)
        return
    waiting: deque[Future[CountedBatch]] = deque()
    # Not forked: a copy of a process whose threads run a network may wait for ever on their locks. Each worker is one
    # of several: OpenCV's own threads would only get in their way.
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    )
    try:
        for batch in batches:
            waiting.append(pool.submit(count, batch, settings))
            while len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise CamlucidaError(
            "evaluate: the worker processes died (out of memory?) or could not start; a script that asks for workers "
            'needs `if __name__ == "__main__":` around it; or take workers=0'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
