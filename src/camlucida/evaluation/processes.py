"""Counting in worker processes, in the order of the work; the maps come to them at the network's small grid."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from camlucida.errors import CamlucidaError, DataError
from camlucida.evaluation.tally import Settings, Tally, Work, tally

Job = tuple[Sequence[Work], Settings]


@dataclass(frozen=True)
class Done:
    """One job's counters, and what could not be read."""

    tallies: list[Tally]
    troubles: list[str]


def count(works: Sequence[Work], settings: Settings) -> Done:
    """The counters of several pictures; a mask that cannot be read is told, and its picture left out."""
    done, troubles = [], []
    for work in works:
        try:
            done.append(tally(work, settings))
        except DataError as error:
            troubles.append(str(error))
    return Done(done, troubles)


def counted_in_order(jobs: Iterable[Job], workers: int) -> Iterator[Done]:
    """``count`` on each job, in worker processes.

    Args:
        jobs: read only as far ahead as the workers need.
        workers: processes; 0 counts here.

    Yields:
        What each job gave, in the jobs' order.

    Raises:
        CamlucidaError: the processes could not start or died.
    """
    if not workers:
        yield from (count(*job) for job in jobs)
        return
    waiting: deque[Future[Done]] = deque()
    # Not forked: a copy of a process whose threads run a network may wait for ever on their locks.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_alone)
    try:
        for job in jobs:
            waiting.append(pool.submit(count, *job))
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


def _alone() -> None:
    """A worker is one of several: OpenCV's own threads would only get in their way."""
    import cv2

    cv2.setNumThreads(1)
