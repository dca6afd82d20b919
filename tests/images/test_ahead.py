"""Work done ahead: order, errors, how much is under way, and what happens when it is cut short."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from camlucida.images.ahead import ahead


def test_results_come_in_order_however_long_each_takes() -> None:
    def slow(number: int) -> int:
        time.sleep(0.02 * (number % 3 == 0))
        return number

    assert [one.result() for one in ahead(slow, range(30), lambda: 5, workers=4)] == list(range(30))
    assert list(ahead(slow, [], lambda: 5)) == []


@pytest.mark.parametrize("most", [-1, 1, 2, 7])
def test_no_more_than_asked_are_under_way(most: int) -> None:
    taken, given = [0], 0

    def items() -> Iterator[int]:
        for number in range(40):
            taken[0] += 1
            yield number

    for future in ahead(abs, items(), lambda: most, workers=3):
        given += 1
        assert taken[0] - given < max(1, most)
        future.result()
    assert given == 40


def test_an_error_comes_where_its_item_stands() -> None:
    futures = list(ahead(lambda number: 1 / number, [1, 0, 2], lambda: 2))
    assert [futures[0].result(), futures[2].result()] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        futures[1].result()


@pytest.mark.parametrize("end", ["close", "drop", "items fail"])
def test_a_cut_short_iteration_ends_its_threads(end: str) -> None:
    before, begun = threading.active_count(), []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        return number

    def items() -> Iterator[int]:
        for number in range(1000):
            if end == "items fail" and number == 20:
                raise LookupError("no more")
            yield number

    results = ahead(work, items(), lambda: 10, workers=2)
    next(results)
    if end == "close":
        results.close()
    elif end == "drop":
        del results
    else:
        with pytest.raises(LookupError, match="no more"):
            list(results)
    assert threading.active_count() == before
    assert len(begun) <= 20
