"""What all metrics share: counters that add up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import Any, Self

from numpy.typing import NDArray

from camlucida.errors import CamlucidaError


class Metric(ABC):
    """Counters that add up.

    Attributes:
        counters: name → array of sums. Metrics of the same settings are merged by adding these, as `+` does; where
            lengths differ (classes seen so far), the shorter one is filled with zeros.
    """

    counters: dict[str, NDArray[Any]]

    @abstractmethod
    def _settings(self) -> tuple[object, ...]:
        """What must be equal for two metrics to be merged."""

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            raise CamlucidaError(f"cannot merge {type(self).__name__} with {type(other).__name__}")
        if other._settings() != self._settings():
            raise CamlucidaError(
                f"cannot merge two {type(self).__name__} of different settings: {self._settings()}, {other._settings()}"
            )
        merged = copy(self)
        merged.counters = {name: summed(self.counters[name], other.counters[name]) for name in self.counters}
        return merged


def seen(images: int) -> int:
    """The number of images, above 0; raises CamlucidaError before the first."""
    if not images:
        raise CamlucidaError("no image was counted; call update first")
    return images


def summed(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """Add two counters, the shorter one filled with zeros."""
    if a.shape[-1] < b.shape[-1]:
        a, b = b, a
    total = a.copy()
    total[..., : b.shape[-1]] += b
    return total
