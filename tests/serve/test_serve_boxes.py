"""Boxes by runs are those by pixels."""

from __future__ import annotations

import numpy as np
import pytest

from camlucida.boxes import localize
from camlucida.images.preprocess import View
from camlucida.serve import largest_boxes as boxes
from camlucida.serve.largest_boxes import largest_boxes


def by_pixels(maps, view, threshold):
    found = [localize.boxes(one, threshold) for one in view.project(maps)]
    return [tuple(one[0].tolist()) if len(one) else None for one in found]


def some_view(rng, height, width):
    x0, x1 = rng.uniform(-20, width / 3), rng.uniform(width / 3 + 1, width + 30)
    y0, y1 = rng.uniform(-20, height / 3), rng.uniform(height / 3 + 1, height + 30)
    return View((height, width), (x0, y0, x1, y1))


@pytest.mark.parametrize("kind", ["whole", "seen", "steps", "smooth"])
def test_as_by_pixels(kind, rng):
    for _ in range(120):
        height, width = (int(n) for n in rng.integers(1, 120, 2))
        maps = rng.normal(size=(3, *rng.integers(1, 12, 2))).astype(np.float32)
        if kind == "steps":
            maps = np.round(maps)  # many equal values, and values at the threshold
        if kind == "smooth":
            maps = np.cumsum(np.cumsum(maps, 1), 2)
        view = some_view(rng, height, width) if kind == "seen" else View.whole((height, width))
        threshold = float(rng.choice([0, 0.2, 0.5, 0.9, 1.0]))
        assert largest_boxes(maps, view, threshold) == by_pixels(maps, view, threshold), (maps, view, threshold)


def test_corners_join():
    """Two squares that touch at a corner are one part, in either direction; not those a pixel apart."""
    touching = np.array([[[1, -1], [-1, 1]], [[-1, 1], [1, -1]]], np.float32)
    assert largest_boxes(touching, View.whole((2, 2)), 0.2) == [(0, 0, 2, 2), (0, 0, 2, 2)]
    apart = np.array([[[1, -1, -1], [-1, -1, 1]]], np.float32)
    assert largest_boxes(apart, View.whole((2, 3)), 0.2) == [(0, 0, 1, 1)]


def test_nothing_seen_or_positive():
    maps = np.array([[[-1.0, -2.0]], [[0.0, 0.0]]], np.float32)
    assert largest_boxes(maps, View.whole((4, 4)), 0.2) == [None, None]
    assert largest_boxes(np.ones((1, 2, 2), np.float32), View((4, 4), (10, 10, 20, 20)), 0.2) == [None]


def test_in_portions(monkeypatch, rng):
    maps, view = rng.normal(size=(7, 5, 4)).astype(np.float32), View.whole((30, 40))
    whole = largest_boxes(maps, view)
    monkeypatch.setattr(boxes, "_AT_ONCE", 250)
    assert largest_boxes(maps, view) == whole
