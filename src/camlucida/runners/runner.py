"""What every runner gives back for a batch, the asked maps out of those of every class, and the residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ModelError, TargetError
from camlucida.targets import Activation, Classes, Targets, joined_targets, logit_spread


@dataclass(frozen=True)
class Facts:
    """What an engine knows of its model for inputs of one shape.

    Attributes:
        head: the kind of head, in words.
        features: layout and shape of the features.
        grid: the maps' grid.
        classes: how many logits.
        activation: what turns logits into probabilities, if the model itself says; None if it does not.
        output: which of several outputs of the model is explained, as a path; empty if there is one.
        note: what a reader should know of that output.
    """

    head: str
    features: str
    grid: tuple[int, ...]
    classes: int
    activation: Activation | None
    output: str = ""
    note: str = ""


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

    def first(self, count: int) -> MapBatch:
        """Those of the first inputs."""
        arrays: dict[str, Any] = {name: getattr(self, name)[:count] for name in _ARRAYS}
        return replace(self, targets=self.targets.first(count), **arrays)


_ARRAYS = ("logits", "scores", "maps", "bias")


def joined_maps(parts: Sequence[MapBatch]) -> MapBatch:
    """The answers for parts of a batch as one."""
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    return replace(parts[0], targets=joined_targets([part.targets for part in parts]), **arrays)


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


def with_arguments(
    runner: Runner,
    inputs: Sequence[Any],
    keywords: Mapping[str, Any],
    pictures: str | int | None,
    rows: range,
    count: int,
) -> Runner:
    """A runner for a model that takes more than pictures.

    Args:
        runner: of the model.
        inputs: further positional arguments.
        keywords: further keyword arguments.
        pictures: where the pictures go among them; None finds it.
        rows: the numbers of the pictures to come among all that the arguments are for.
        count: how many those are.

    Raises:
        ModelError: the model takes pictures alone.
    """
    make = getattr(runner, "with_arguments", None)
    if make is None:
        raise ModelError("inputs and forward_kwargs go with PyTorch models; this one takes pictures alone")
    bound: Runner = make(inputs, keywords, pictures, rows, count)
    return bound


def residuals(maps: MapBatch) -> NDArray[np.float32]:
    """|Σ map + bias - score| / (max logit - min logit), (B, T); over |logit| for a single logit. NaN without a bias.

    Example:
        >>> ones, maps = np.ones((1, 1), np.float32), np.full((1, 1, 1, 2), 0.5)
        >>> targets = Targets(np.zeros((1, 1), np.int64), (("a",),))
        >>> facts = Facts("affine", "NCHW", (1, 2), 2, None)
        >>> residuals(MapBatch(np.array([[2.0, 0.0]]), targets, 2 * ones, maps, 0.9 * ones, facts))
        array([[0.05]], dtype=float32)
    """
    total = maps.maps.astype(np.float64).sum(tuple(range(2, maps.maps.ndim))) + maps.bias
    missing = np.abs(total - maps.scores)
    return np.asarray(missing / logit_spread(maps.logits)[:, None], np.float32)


def picked(
    logits: NDArray[np.float32], every: NDArray[np.float32], bias: NDArray[np.float32], targets: Targets, facts: Facts
) -> MapBatch:
    """The asked classes' maps, or linear combinations of them, out of the maps of every class.

    Args:
        logits: (B, K).
        every: maps of every class, (B, K, *grid).
        bias: (K,), the same for every input.
        targets: what was asked; a score must be linear in the logits.
        facts: of the model.

    Raises:
        TargetError: the score is not linear in the logits.
    """
    if targets.everything:
        return MapBatch(logits, targets, logits, every, np.broadcast_to(bias, logits.shape), facts)
    if (targets.ids >= 0).all() and logits.shape[1] > 1:
        maps = np.take_along_axis(every, targets.ids.reshape(*targets.ids.shape, *[1] * (every.ndim - 2)), 1)
        return MapBatch(logits, targets, np.take_along_axis(logits, targets.ids, 1), maps, bias[targets.ids], facts)
    weights, constant = (targets.weights, 0.0) if targets.weights is not None else _coefficients(targets, logits)
    maps = np.einsum("btk,bk...->bt...", weights, every)
    return MapBatch(logits, targets, np.asarray(targets.of(logits)), maps, weights @ bias + constant, facts)


def _coefficients(targets: Targets, logits: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """A score's coefficients on the logits (B, T, K), read off unit vectors, and its constant (B, T)."""
    constant = np.asarray(targets.of(np.zeros_like(logits)))
    units = np.eye(logits.shape[1], dtype=np.float32)
    columns = [np.asarray(targets.of(np.tile(unit, (len(logits), 1)))) - constant for unit in units]
    weights = np.stack(columns, 2).astype(np.float32)
    expected = np.einsum("btk,bk->bt", weights, logits) + constant
    if not np.allclose(expected, np.asarray(targets.of(logits)), rtol=1e-3, atol=1e-4):
        raise TargetError("the score is not linear in the logits; an ONNX model has no gradients, "
                          "so use a PyTorch model for it")  # fmt: skip
    return weights, constant
