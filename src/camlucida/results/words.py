"""An explanation in words: captions, residuals, what Python prints of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from camlucida.explanation import Explanation

EXACT = 1e-4
"""A map with a residual of at most this is called exact."""

LISTED = 5
"""Inputs, and scores of each, that are listed; more are only counted."""


def likelihood(probability: float | None, score: float) -> str:
    """The probability in percent, or the score itself where there is no probability.

    Example:
        >>> likelihood(0.971, 4.2), likelihood(None, 4.2)
        ('97.1 %', '+4.20')
    """
    return f"{score:+.2f}" if probability is None or np.isnan(probability) else f"{100 * probability:.1f} %"


def residual_in_words(residual: float) -> str:
    """The residual for people.

    Example:
        >>> residual_in_words(2e-7), residual_in_words(0.0312)
        ('exact (residual 2e-07)', 'residual 3.1 %')
    """
    return f"exact (residual {residual:.0e})" if residual <= EXACT else f"residual {100 * residual:.2g} %"


def short_residual(residual: float | None) -> str:
    """The residual in at most 11 signs; "none" where the map is no decomposition.

    Example:
        >>> short_residual(2e-7), short_residual(0.0312), short_residual(None)
        ('2e-07 exact', '3.1 %', 'none')
    """
    if residual is None:
        return "none"
    return f"{residual:.0e} exact" if residual <= EXACT else f"{100 * residual:.2g} %"


def caption(explanation: Explanation, index: int, target: int) -> str:
    """Class, probability, method and residual in a line."""
    probability, score = explanation.probabilities[index, target], explanation.scores[index, target]
    residual = float(explanation.residual[index, target])
    method = explanation.origin.method + ("" if np.isnan(residual) else f", {residual_in_words(residual)}")
    return f"{explanation.names[index][target]} {likelihood(float(probability), float(score))} · {method}"


def description(explanation: Explanation) -> str:
    """A line for the whole, and one for each of the first inputs."""
    grid = "×".join(map(str, explanation.grid))
    origin, count = explanation.origin, len(explanation)
    lines = [f"Explanation of {count} input(s) by {origin.model}, {origin.method}, grid {grid}:"]
    for i in range(min(LISTED, count)):
        source = explanation.pictures[i].source if explanation.pictures else f"input {i}"
        captions = (caption(explanation, i, t) for t in range(min(LISTED, explanation.maps.shape[1])))
        lines.append(f"  {source}: {'; '.join(captions)}")
    return "\n".join([*lines, f"  … {count - LISTED} more"] if count > LISTED else lines)
