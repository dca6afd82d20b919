"""Counters that only an evaluation needs: classification, and what each class scored."""

from __future__ import annotations

import numpy as np

from camlucida.metrics.metric import Metric


class Accuracy(Metric):
    """Classification: the shares of pictures whose class is the likeliest, and among the five likeliest.

    >>> metric = Accuracy()
    >>> metric.update([0, 3, 7])
    >>> metric.compute()
    (0.333, 0.667)
    """

    def __init__(self) -> None:
        self.counters = {"right": np.zeros(2, np.int64), "images": np.zeros(1, np.int64)}

    def update(self, ranks: list[int]) -> None:
        """Count some pictures by the place of their class among all logits, 0 the likeliest."""
        self.counters["right"] += [sum(rank < 1 for rank in ranks), sum(rank < 5 for rank in ranks)]
        self.counters["images"] += len(ranks)

    def compute(self) -> tuple[float, float]:
        """Top-1 and top-5; raises CamlucidaError before the first picture."""
        top1, top5 = (self.counters["right"] / self.images).tolist()
        return top1, top5


class PerClass(Metric):
    """Sums of some numbers, by their names, for each of so many classes, over the pictures where a number is known.

    >>> metric = PerClass(("top1", "iou"), 3)
    >>> metric.update(2, top1=1.0, iou=0.4)
    >>> metric.update(2, top1=0.0)
    >>> metric.compute()["top1"], metric.compute()["iou"].tolist()
    (array([nan, nan, 0.5]), [nan, nan, 0.4])
    """

    def __init__(self, names: tuple[str, ...], classes: int) -> None:
        self.names = names
        shape = (len(names), classes)
        self.counters = {"sums": np.zeros(shape), "counts": np.zeros(shape, np.int64)}

    def update(self, label: int, **numbers: float) -> None:
        """Count one picture of a class."""
        for name, number in numbers.items():
            row = self.names.index(name)
            self.counters["sums"][row, label] += number
            self.counters["counts"][row, label] += 1

    def compute(self) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
        """The mean of each number for each class (NaN where no picture has one), and under "pictures" the counts."""
        counts = self.counters["counts"]
        means = np.where(counts > 0, self.counters["sums"] / np.maximum(counts, 1), np.nan)
        return {**dict(zip(self.names, means, strict=True)), "pictures": counts.max(axis=0).astype(np.float64)}
