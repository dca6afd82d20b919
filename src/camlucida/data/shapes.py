"""Shapes as inequalities: which points of the plane lie in them, and which pixels of a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Inside = Callable[[Floats, Floats], NDArray[np.bool_]]


def _sides(count: int, reach: float, u: Floats, v: Floats) -> NDArray[np.int_]:
    """Of how many sides of a regular polygon with inner radius ``reach`` the points lie outside."""
    turns = [2 * math.pi * side / count for side in range(count)]
    beyond = [u * math.sin(turn) + v * math.cos(turn) > reach for turn in turns]
    return np.asarray(np.sum(beyond, axis=0))


@dataclass(frozen=True)
class Shape:
    """A shape in the unit circle.

    Attributes:
        area: its area, where the circle's radius is 1.
        inside: tells which points u, v (any shape, u to the right, v down) lie in it, bool of that shape.
    """

    area: float
    inside: Inside


SHAPES = {
    "cross": Shape(1.92, lambda u, v: (np.maximum(abs(u), abs(v)) <= 0.95) & (np.minimum(abs(u), abs(v)) <= 0.3)),
    "disc": Shape(math.pi, lambda u, v: u * u + v * v <= 1),
    "ring": Shape(math.pi * 0.7, lambda u, v: (u * u + v * v <= 1) & (u * u + v * v >= 0.3)),
    "square": Shape(1.96, lambda u, v: np.maximum(abs(u), abs(v)) <= 0.7),
    "star": Shape(1.1225699, lambda u, v: _sides(5, math.cos(2 * math.pi / 5), u, v) <= 1),
    "triangle": Shape(1.2990381, lambda u, v: _sides(3, 0.5, u, v) == 0),
}
"""The shapes that are classes. A star is where at most one of its five lines is crossed."""

DISTRACTORS = {
    "bar": Shape(0.8536, lambda u, v: (abs(u) <= 0.97) & (abs(v) <= 0.22)),
    "crescent": Shape(1.5297, lambda u, v: (u * u + v * v <= 1) & ((u - 0.5) ** 2 + v * v >= 0.64)),
    "half": Shape(math.pi / 2, lambda u, v: (u * u + v * v <= 1) & (v >= 0)),
    "ell": Shape(0.96, lambda u, v: (abs(u) <= 0.65) & (abs(v) <= 0.75) & ((u <= -0.25) | (v >= 0.35))),
}  # fmt: skip
"""Shapes of no class."""

ALL_SHAPES = SHAPES | DISTRACTORS


@dataclass(frozen=True)
class Placed:
    """A shape in a picture: its name in ``ALL_SHAPES``, centre and radius in pixels, and turn in radians, clockwise."""

    shape: str
    x: float
    y: float
    radius: float
    turn: float

    def mask(self, size: int) -> NDArray[np.bool_]:
        """Its pixels, bool size×size: set where the pixel's centre (column + 0.5, row + 0.5) lies in the shape.

        >>> Placed("square", 2, 2, 2, 0).mask(4).astype(int).tolist()
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
        """
        right = (np.arange(size) + 0.5 - self.x)[None, :] / self.radius
        down = (np.arange(size) + 0.5 - self.y)[:, None] / self.radius
        cosine, sine = math.cos(self.turn), math.sin(self.turn)
        return ALL_SHAPES[self.shape].inside(right * cosine + down * sine, down * cosine - right * sine)

    def near(self, other: Placed) -> bool:
        """Whether the circles of two shapes come closer than a pixel."""
        return math.hypot(self.x - other.x, self.y - other.y) < self.radius + other.radius + 1
