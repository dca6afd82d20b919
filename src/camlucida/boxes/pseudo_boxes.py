"""A stand-in for a true box where there is none: the map says which thing, the picture's colours say how far it goes.

Murtaza et al., "A Realistic Protocol for Evaluation of Weakly Supervised Object Localization", WACV 2025, choose
thresholds with noisy boxes of region proposals (Selective Search, CLIP, a region proposal network). Those need weights
or code that are not here; this takes GrabCut (Rother, Kolmogorov and Blake, SIGGRAPH 2004) for the proposal instead.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.errors import CamlucidaError

SIDE = 160  # pixels: larger pictures are scaled down to this longest side first
CLEAR, SEED, SURE = 0.1, 0.5, 0.95  # ranks of the map's values: surely not object below, perhaps above, surely above


def pseudo_box(pixels: NDArray[np.uint8], heatmap: NDArray[Any]) -> NDArray[np.float64] | None:
    """The box that the picture's own colours draw around what the map points at.

    GrabCut learns the colours of two regions and cuts between them along edges. The map names the regions by the ranks
    of its values alone: its highest 5 % are surely object and its upper half perhaps; its lowest 10 % and the picture's
    outermost pixels are surely not. The box is that of the cut-out part with most of the sure pixels. So it depends on
    where the map is high, but neither on its normalization nor on any threshold that is to be judged by it.

    Args:
        pixels: uint8 H×W×3.
        heatmap: real H×W, finite.

    Returns:
        float64 (1, 4), half-open xyxy pixels; None where colours say nothing: the cut-out is empty, all of the picture,
        or the map is constant.

    Raises:
        CamlucidaError: picture and map differ in size.
    """
    if pixels.dtype != np.uint8 or pixels.shape != (*heatmap.shape, 3):
        raise CamlucidaError(
            f"pseudo_box: expected a uint8 picture of the map's size {heatmap.shape}, got {pixels.dtype} {pixels.shape}"
        )
    height, width = heatmap.shape
    scale = min(1.0, SIDE / max(height, width))
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    if min(size_wh) < 8 or heatmap.max() <= heatmap.min():
        return None
    small = cv2.resize(pixels, size_wh, interpolation=cv2.INTER_AREA)
    values = cv2.resize(heatmap.astype(np.float32), size_wh, interpolation=cv2.INTER_AREA)
    clear, seed, sure = np.quantile(values, (CLEAR, SEED, SURE))
    marks = np.full(values.shape, cv2.GC_PR_BGD, np.uint8)
    marks[values > seed] = cv2.GC_PR_FGD
    marks[values <= clear] = cv2.GC_BGD
    marks[[0, -1]] = cv2.GC_BGD
    marks[:, [0, -1]] = cv2.GC_BGD
    core = values >= sure
    marks[core] = cv2.GC_FGD
    cv2.setRNGSeed(0)
    cv2.grabCut(small, marks, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    cut_out = (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)
    count, labels = cv2.connectedComponents(cut_out.view(np.uint8), connectivity=8)
    votes = np.bincount(labels[core], minlength=count)
    votes[0] = 0
    part = labels == int(votes.argmax())
    if count < 2 or not votes.any() or part.mean() > 0.95:
        return None
    x, y, across, down = cv2.boundingRect(part.view(np.uint8))
    scales = np.array([width / size_wh[0], height / size_wh[1]] * 2)
    box: NDArray[np.float64] = np.array([[x, y, x + across, y + down]]) * scales
    return box
