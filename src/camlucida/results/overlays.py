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
    """Draw one picture with a heatmap, boxes and caption; the parameters are those of ``Explanation.overlay``.

    Args:
        explanation: with pictures.
        index: which of them.
        target: which of its scores.
        evidence: what ``explanation.evidence(index, target)`` gives.
        boxes: what to frame, (M, 4); None: nothing.
        colormap: a name, or None.
        signed: draw the heatmap on both sides of 0 instead of the evidence, with a colour bar.
        opacity: of the strongest evidence.
        caption: below the picture.
    """
    seen = explanation.seen(index)
    return draw.overlay(
        explanation.pictures[index].pixels,
        explanation.heatmap(index, target) if signed else evidence,
        colormap=colormap,
        signed=signed,
        opacity=opacity,
        seen=None if seen.all() else seen,
        boxes=boxes,
        caption=explanation.caption(index, target) if caption else None,
        unit=explanation.origin.unit if signed else None,
    )
