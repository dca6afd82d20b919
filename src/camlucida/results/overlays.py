"""A map of an explanation drawn over its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.drawing import overlay as draw

if TYPE_CHECKING:
    from camlucida.explanation import Explanation


def drawn(
    explanation: Explanation,
    index: int,
    target: int,
    evidence: NDArray[np.float32],
    boxes: ArrayLike | None,
    *,
    colormap: str | None = None,
    signed: bool = False,
    opacity: float = 0.7,
    caption: bool = True,
) -> draw.Pixels:
    """Draw evidence and boxes already computed over one picture; for the rest see ``Explanation.overlay``."""
    seen = explanation.seen(index)
    return draw.overlay(
        explanation.pictures[index].pixels, explanation.heatmap(index, target) if signed else evidence,
        colormap=colormap, signed=signed, opacity=opacity, seen=None if seen.all() else seen, boxes=boxes,
        caption=explanation.caption(index, target) if caption else None,
        unit=explanation.origin.unit if signed else None,
    )  # fmt: skip
