"""Work done ahead in threads, in the order of what is worked on: decoding before the model runs, drawing after it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = min(8, max(2, os.cpu_count() or 1))
"""Threads; decoding, resizing, drawing and encoding release Python's lock."""

HELD = 2**28
"""Bytes of pixels that may wait at one stage, so that large photographs wait in small numbers."""


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], most: Callable[[], int], workers: int = WORKERS
) -> Generator[Future[Result]]:
    """``work`` on each item in threads; the finished or unfinished results in the items' order.

    Args:
        work: called in other threads.
        items: read in the caller's thread, and only as far ahead as ``most`` allows.
        most: how many may be under way; asked anew before each is given out.
        workers: threads.

    Yields:
        One future an item; ``result()`` waits for it and raises what ``work`` raised. When the iteration ends early,
        what is not begun is dropped and what is begun is waited for.

    Example:
        >>> [future.result() for future in ahead(str.upper, "abc", lambda: 2)]
        ['A', 'B', 'C']
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            while len(waiting) >= max(1, most()):
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
