"""Colour tables: a name → 256 colours, and a map of numbers → colours."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.boxes.localize import as_heatmap
from camlucida.errors import CamlucidaError


def _from_opencv(code: int) -> NDArray[np.uint8]:
    """Take a table that OpenCV carries (it orders colours BGR)."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    colours: NDArray[np.uint8] = cv2.applyColorMap(ramp, code)[:, 0, ::-1]
    return colours


def _coolwarm() -> NDArray[np.uint8]:
    """Blue – light grey – red: equally dark ends, and lightness that rises evenly to the middle.

    Moreland, "Diverging Color Maps for Scientific Visualization", ISVC 2009: straight lines in Msh, the polar form of
    CIELAB, from the paper's blue (80, 1.08, -1.1) and red (80, 1.08, 0.5) to its grey (88, 0, hue as far away).
    """
    from_grey = np.abs(np.linspace(-1, 1, 256))
    blue = np.arange(256) < 128
    radius = 88 + (80 - 88) * from_grey
    saturation = 1.08 * from_grey
    hue = np.where(blue, -1.661 + (-1.1 + 1.661) * from_grey, 1.061 + (0.5 - 1.061) * from_grey)
    lab = np.stack(
        [
            radius * np.cos(saturation),
            radius * np.sin(saturation) * np.cos(hue),
            radius * np.sin(saturation) * np.sin(hue),
        ],
        axis=1,
    )
    rgb = cv2.cvtColor(lab[None].astype(np.float32), cv2.COLOR_Lab2RGB)[0]
    colours: NDArray[np.uint8] = np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
    return colours


# Add your own: a name and a function that returns 256 RGB colours, uint8 (256, 3), from low to high.
COLORMAPS: dict[str, Callable[[], NDArray[np.uint8]]] = {
    "inferno": partial(_from_opencv, cv2.COLORMAP_INFERNO),
    "magma": partial(_from_opencv, cv2.COLORMAP_MAGMA),
    "plasma": partial(_from_opencv, cv2.COLORMAP_PLASMA),
    "viridis": partial(_from_opencv, cv2.COLORMAP_VIRIDIS),
    "cividis": partial(_from_opencv, cv2.COLORMAP_CIVIDIS),
    "turbo": partial(_from_opencv, cv2.COLORMAP_TURBO),
    "jet": partial(_from_opencv, cv2.COLORMAP_JET),
    "coolwarm": _coolwarm,
}
DIVERGING = frozenset({"coolwarm"})  # two-sided tables: their middle means zero


@cache
def _built(make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    built = make()
    built.setflags(write=False)
    return built


def table(name: str) -> NDArray[np.uint8]:
    """Return a colour table, built on first use.

    Args:
        name: one of `COLORMAPS`.

    Returns:
        uint8 (256, 3), RGB, from low to high; read-only.

    Raises:
        CamlucidaError: the name is unknown.

    >>> table("viridis")[[0, 255]].tolist()
    [[68, 1, 84], [253, 231, 37]]
    """
    if name not in COLORMAPS:
        raise CamlucidaError(f"colormap: unknown name {name!r}, expected one of: {', '.join(COLORMAPS)}")
    return _built(COLORMAPS[name])


def colorize(
    heatmap: ArrayLike, colormap: str = "inferno", *, low: float | None = None, high: float | None = None
) -> NDArray[np.uint8]:
    """Turn a map into a picture of its values.

    Args:
        heatmap: float H×W, signed, any unit.
        colormap: one of `COLORMAPS`.
        low: the value drawn in the table's first colour; smaller ones too.
        high: the value drawn in the table's last colour; greater ones too.
            Where not given: the map's minimum and maximum; for a diverging table ±max|map|, so that its middle is 0.

    Returns:
        uint8 H×W×3, RGB. A map with low = high is one colour: the table's first, or a diverging table's middle.

    Raises:
        CamlucidaError: a bad heatmap, an unknown name, limits that are not finite or in the wrong order.

    >>> colorize([[0.0, 1.0]], "viridis").tolist()
    [[[68, 1, 84], [253, 231, 37]]]
    """
    array = as_heatmap(heatmap)
    colours = table(colormap)
    reach = max(abs(float(array.min())), abs(float(array.max())))
    bottom, top = (-reach, reach) if colormap in DIVERGING else (float(array.min()), float(array.max()))
    bottom, top = bottom if low is None else float(low), top if high is None else float(high)
    if not (np.isfinite(bottom) and np.isfinite(top) and bottom <= top):
        raise CamlucidaError(f"limits: expected finite low <= high, got low={bottom}, high={top}")
    if bottom == top:
        return np.broadcast_to(colours[128 if colormap in DIVERGING else 0], (*array.shape, 3)).copy()
    half = top / 2 - bottom / 2  # halves, so that the widest float64 range does not overflow
    share = (np.clip(array, bottom, top) / 2 - bottom / 2) / half
    picture: NDArray[np.uint8] = colours[np.rint(share * 255).astype(np.uint8)]
    return picture
