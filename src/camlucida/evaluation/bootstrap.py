"""Confidence intervals for any metric made of counters: pictures are resampled, memory does not grow with their number.

The Poisson bootstrap: in each resample a picture counts as often as a Poisson number of mean 1 says, drawn from the
seed and the picture's own index, so that batches, their order and their number change nothing. Counters add up, so each
resample needs only its own sums, and every metric (a threshold's choice included) is computed anew from them.
Comparisons are paired: all metrics see the same resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import CamlucidaError
from camlucida.metrics.metric import Metric, summed

LEVEL = 95
"""Percent of resamples inside an interval."""

TOGETHER = 64
"""Pictures whose counters wait to be summed at once, which is faster."""

Pick = Callable[[Any], float]
"""From what a metric computes to one number."""


class Bootstrap:
    """Sums of counters over all pictures, and over resamples of them.

    Args:
        resamples: how many; 0 for none.
        seed: of the random numbers.

    >>> from camlucida.metrics import MaskIoU
    >>> pictures = []
    >>> for covered in range(11):
    ...     metric = MaskIoU()
    ...     metric.update([np.arange(10)[None] < covered], [np.ones((1, 10), bool)])
    ...     pictures.append({"mask": metric.counters})
    >>> sums = Bootstrap(1000, seed=0)
    >>> sums.add(range(11), pictures)
    >>> values = sums.values("mask", MaskIoU(), [float])[0]
    >>> float(values[0]), [round(limit, 1) for limit in interval(values)]
    (0.5, [0.3, 0.7])
    """

    def __init__(self, resamples: int, seed: int) -> None:
        if resamples < 0 or seed < 0:
            raise CamlucidaError(f"bootstrap: expected resamples and a seed of at least 0, got {resamples} and {seed}")
        self.resamples, self._seed = resamples, seed
        self._totals: dict[str, dict[str, NDArray[Any]]] = {}
        self._sums: dict[str, dict[str, NDArray[np.float32]]] = {}
        self._waiting: list[tuple[int, dict[str, dict[str, NDArray[Any]]]]] = []
        self.pictures: dict[str, int] = {}

    def add(self, indices: Sequence[int], counters: Sequence[dict[str, dict[str, NDArray[Any]]]]) -> None:
        """Add pictures by their indices and their counters (metric → counter → sums); a picture may lack metrics."""
        self._waiting += zip(indices, counters, strict=True)
        for metrics in counters:
            for name in metrics:
                self.pictures[name] = self.pictures.get(name, 0) + 1
        if len(self._waiting) >= TOGETHER:
            self._sum_up()

    def _sum_up(self) -> None:
        """Sum what waits: a matrix product of weights and counters, metric by metric."""
        if not self._waiting:
            return
        indices, counters = zip(*self._waiting, strict=True)
        self._waiting = []
        weights = np.stack([self._weights(index) for index in indices], axis=1)
        for name in {name: None for metrics in counters for name in metrics}:
            rows = [i for i, metrics in enumerate(counters) if name in metrics]
            totals, sums = self._totals.setdefault(name, {}), self._sums.setdefault(name, {})
            for counter in counters[rows[0]][name]:
                some = [counters[i][name][counter] for i in rows]
                longest = np.zeros_like(max(some, key=lambda values: values.shape[-1]))
                stacked = np.stack([summed(values, longest) for values in some])
                _grow(totals, counter, stacked.sum(axis=0))
                if self.resamples:
                    flat = stacked.reshape(len(rows), -1).astype(np.float32)
                    _grow(sums, counter, (weights[:, rows] @ flat).reshape(-1, *longest.shape))

    def metric(self, name: str, empty: Metric) -> Metric:
        """The metric over all pictures."""
        self._sum_up()
        return empty.with_counters(self._totals[name])

    def values(self, name: str, empty: Metric, picks: Sequence[Pick]) -> NDArray[np.float64]:
        """Numbers, each picked from what the metric computes, over all pictures, then over each resample.

        Returns:
            float64 (picks, 1 + resamples); NaN where one cannot be had.
        """
        self._sum_up()
        values = np.full((len(picks), 1 + self.resamples), np.nan)
        if name not in self._totals:
            return values
        for i in range(1 + self.resamples):
            counters = {counter: sums[i - 1] for counter, sums in self._sums[name].items()} if i else self._totals[name]
            try:
                computed = empty.with_counters(counters).compute()
            except CamlucidaError:  # no picture of the kind was drawn
                if not i:
                    raise
                continue
            values[:, i] = [pick(computed) for pick in picks]
        return values

    def _weights(self, index: int) -> NDArray[np.float32]:
        """How often a picture counts in each resample."""
        return np.random.default_rng([self._seed, index]).poisson(1.0, self.resamples).astype(np.float32)


def interval(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """The middle 95 % of a number's resamples (its first value is the number itself); None without resamples.

    >>> interval(np.append(0.5, np.linspace(0, 1, 101)))
    (0.025, 0.975)
    """
    known = values[1:][np.isfinite(values[1:])]
    if not known.size:
        return None
    low, high = np.percentile(known, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def _grow(sums: dict[str, NDArray[Any]], counter: str, part: NDArray[Any]) -> None:
    """Add to a sum that is ours: in its place where the shapes allow."""
    if counter in sums and sums[counter].shape == part.shape:
        sums[counter] += part
    else:
        sums[counter] = summed(sums[counter], part) if counter in sums else part
