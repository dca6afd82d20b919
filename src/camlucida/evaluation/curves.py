"""Curves of box accuracy against the threshold, as inline SVG that follows the page's colours."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 300, 44, 36, 12, 110


def curves_svg(thresholds: NDArray[np.float64], curves: Mapping[str, NDArray[np.float64]]) -> str:
    """An SVG element of named curves (T,) over thresholds (T,), all in [0, 1]: one line a curve, a dot at each one's
    best threshold, its name at the right.

    >>> curves_svg(np.array([0.0, 0.5]), {"0.5": np.array([0.2, 1.0])}).count("<path")
    1
    """
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return LEFT + across * value

    def y(value: float) -> float:
        return TOP + down * (1 - value)

    parts = [
        f'<svg class="curves" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="box accuracy against the threshold, one line for each overlap">'
    ]
    for tick in np.linspace(0, 1, 6).tolist():
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + across}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.1f}</text>')
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 18}" text-anchor="middle">{tick:.1f}</text>')
    parts.append(f'<text x="{LEFT + across / 2}" y="{HEIGHT - 3}" text-anchor="middle">threshold</text>')
    names = []
    for place, (name, curve) in enumerate(curves.items()):
        kind = "curve baseline" if name.startswith("centre") else f"curve c{place}"
        kept = _corners(curve)
        points = " ".join(f"{x(thresholds[i]):.1f},{y(curve[i]):.1f}" for i in kept)
        parts.append(f'<path class="{kind}" d="M {points.replace(" ", " L ")}"/>')
        best = int(curve.argmax())
        at = f'cx="{x(thresholds[best]):.1f}" cy="{y(curve[best]):.1f}"'
        title = f"{escape(name)}: {curve[best]:.3f} at {thresholds[best]:.3f}"
        parts.append(f'<circle class="{kind}" {at} r="4"><title>{title}</title></circle>')
        names.append((float(y(curve[best])), kind, f"{_label(name)} {curve[best]:.3f}"))
    lowest = TOP + 4.0
    for wished, kind, text in sorted(names):
        lowest = max(lowest + 16, wished + 4)
        parts.append(f'<text class="name {kind}" x="{LEFT + across + 8}" y="{lowest:.1f}">{escape(text)}</text>')
    return "".join([*parts, "</svg>"])


def _label(name: str) -> str:
    return name if name.startswith("centre") else f"≥ {name}"


def _corners(curve: NDArray[np.float64]) -> list[int]:
    """The places that a line needs: both ends of every level stretch."""
    changes = np.flatnonzero(np.diff(curve))
    return sorted({0, curve.size - 1, *changes.tolist(), *(changes + 1).tolist()})
