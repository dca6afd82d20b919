"""Colour tables: a name → 256 colours."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import cv2
import numpy as np
from numpy.typing import NDArray

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
    chroma = radius * np.sin(saturation)
    lab = np.stack([radius * np.cos(saturation), chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
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


@cache
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
    colours = COLORMAPS[name]()
    colours.setflags(write=False)
    return colours
