"""What every engine gives back for a batch, and how a residual is measured: shared by PyTorch and ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from camlucida.targets import Activation, Classes, Targets


@dataclass(frozen=True)
class Facts:
    """What an engine knows of its model for inputs of one shape.

    Attributes:
        head: the kind of head, in words.
        features: layout and shape of the features.
        grid: the maps' grid.
        classes: how many logits.
        activation: what turns logits into probabilities, if the model itself says; None if it does not.
    """

    head: str
    features: str
    grid: tuple[int, ...]
    classes: int
    activation: Activation | None


@dataclass(frozen=True, eq=False)
class MapBatch:
    """An engine's answer for one batch, as arrays (see ``Explanation`` for shapes and units).

    ``unit`` is the maps' where it is not the method's own.
    """

    logits: NDArray[np.float32]
    targets: Targets
    scores: NDArray[np.float32]
    maps: NDArray[np.float32]
    bias: NDArray[np.float32]
    facts: Facts
    unit: str = ""


class Runner(Protocol):
    """A model that can explain batches of preprocessed inputs. Safe to call from several threads."""

    def explain(self, batch: Any, classes: Classes, class_names: Sequence[str] | None) -> MapBatch:
        """MapBatch of the asked classes for a batch (B, C, *space): a float32 array, or a tensor where torch runs."""
        ...

    def predict(self, batch: Any) -> NDArray[np.float32]:
        """Logits (B, K) alone."""
        ...

    def facts(self, batch: Any) -> Facts:
        """What is known of the model for inputs shaped like this batch."""
        ...


def residuals(maps: MapBatch) -> NDArray[np.float32]:
    """|Σ map + bias - score| / (max logit - min logit), (B, T); over |logit| for a single logit. NaN without a bias.

    Example:
        >>> one = np.ones((1, 1), np.float32)
        >>> targets = Targets(np.zeros((1, 1), np.int64), (("a",),))
        >>> facts = Facts("affine", "NCHW", (1, 2), 2, None)
        >>> residuals(MapBatch(np.array([[2.0, 0.0]]), targets, 2 * one, np.full((1, 1, 1, 2), 0.5), 0.9 * one, facts))
        array([[0.05]], dtype=float32)
    """
    total = maps.maps.astype(np.float64).sum(tuple(range(2, maps.maps.ndim))) + maps.bias
    wide = maps.logits.astype(np.float64)
    spread = wide.max(1) - wide.min(1) if wide.shape[1] > 1 else np.abs(wide[:, 0])
    missing = np.abs(total - maps.scores)
    # A network whose logits are all the same has no spread to compare with: then the residual is absolute.
    return np.asarray(missing / np.where(spread > 0, spread, 1.0)[:, None], np.float32)
