"""What all metrics share: counters that add up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.errors import CamlucidaError

Heatmaps = ArrayLike | Sequence[ArrayLike]
"""Real numbers (N, H, W), or a list of maps H×W, each of its own size."""

Masks = Sequence[ArrayLike] | NDArray[np.bool_]
"""One bool H×W an image."""

NOTHING_COUNTED = "no image was counted; call update first"


class Metric(ABC):
    """Counters that add up: `update` counts, `+` merges, `compute` gives the numbers.

    Attributes:
        counters: name → array of sums. Metrics of the same settings are merged by adding these, as `+` does; where
            lengths differ (classes seen so far), the shorter one is filled with zeros.
    """

    counters: dict[str, NDArray[Any]]

    @abstractmethod
    def update(self, *args: Any, **kwargs: Any) -> None:
        """Count some images."""

    @abstractmethod
    def compute(self) -> Any:
        """The numbers so far; raises CamlucidaError before the first image."""

    @property
    def settings(self) -> tuple[object, ...]:
        """What must be equal for two metrics to be merged: all attributes but the counters."""
        return tuple(value for name, value in vars(self).items() if name != "counters")

    @property
    def images(self) -> float:
        """How many images were counted, above 0 (a resample may weigh them); raises CamlucidaError before the first."""
        images: float = self.counters["images"].sum().item()
        if not images:
            raise CamlucidaError(NOTHING_COUNTED)
        return images

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            raise CamlucidaError(f"cannot merge {type(self).__name__} with {type(other).__name__}")
        if other.settings != self.settings:
            raise CamlucidaError(
                f"cannot merge two {type(self).__name__} of different settings: {self.settings}, {other.settings}"
            )
        return self.with_counters({name: summed(self.counters[name], other.counters[name]) for name in self.counters})

    def with_counters(self, counters: dict[str, NDArray[Any]]) -> Self:
        """A metric of the same settings that has counted something else."""
        metric = copy(self)
        metric.counters = counters
        return metric


def summed(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Add two counters, the shorter one filled with zeros."""
    if a.shape[-1] < b.shape[-1]:
        a, b = b, a
    total = a.copy()
    total[..., : b.shape[-1]] += b
    return total
