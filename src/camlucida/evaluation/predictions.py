"""Who says where the object is: the maps, a two-stage localizer, and baselines that need no network.

Each offers what it has for one class of one picture: a heatmap, its energy, a mask, boxes, or how well the boxes of its
heatmap fit at each threshold. Everything is at the size of evaluation and made when first asked for.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from camlucida.boxes.overlaps import THRESHOLDS, Parts, part_overlaps
from camlucida.evaluation.centre_baselines import centre_map, centre_overlaps
from camlucida.evaluation.labelled_map import LabelledMap, laid

Predictor = Literal["maps", "localizer", "whole", "centre"]


class MapPrediction:
    """The map, and its mask and boxes at the operating point."""

    def __init__(self, target: LabelledMap) -> None:
        self._target = target
        self.heatmap = laid(target.grid, target.picture.view, target.settings.mode)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Bool H×W."""
        return self._target.settings.calibration.mask(self.heatmap)

    @cached_property
    def boxes(self) -> NDArray[np.int64]:
        """(M, 4), half-open."""
        return self._target.settings.calibration.boxes(self.heatmap)

    @cached_property
    def _overlaps(self) -> list[NDArray[np.float64]]:
        return part_overlaps(self.heatmap, self._target.boxes, ("all", "largest"), mode=self._target.settings.mode)

    def overlaps(self, parts: Parts) -> NDArray[np.float64]:
        """Of the boxes of all parts, or of the largest, at each threshold: float64 (1000,)."""
        return self._overlaps[0 if parts == "all" else 1]

    @property
    def energy(self) -> NDArray[np.float32]:
        """The heatmap; in exact mode 0 where the network did not see the picture: there is no energy."""
        if self._target.settings.mode == "protocol":
            return self.heatmap
        return self._target.picture.view.project(self._target.grid)


class LocalizerPrediction:
    """The boxes of a two-stage localizer."""

    def __init__(self, target: LabelledMap, boxes: NDArray[np.float64]) -> None:
        image_hw = target.picture.view.image_hw
        self.boxes = boxes * np.tile([target.size_hw[1] / image_hw[1], target.size_hw[0] / image_hw[0]], 2)


class WholePrediction:
    """The whole picture: everything is the object."""

    def __init__(self, target: LabelledMap) -> None:
        self._target = target
        self.heatmap = np.zeros(target.size_hw, np.float32)
        self.boxes = np.array([[0, 0, target.size_hw[1], target.size_hw[0]]])

    @property
    def mask(self) -> NDArray[np.bool_]:
        """All of it."""
        return np.ones(self._target.size_hw, np.bool_)

    @property
    def energy(self) -> NDArray[np.float64]:
        """The same everywhere."""
        return np.ones(self._target.size_hw)

    def overlaps(self, parts: Parts) -> NDArray[np.float64]:
        """The same at every threshold: float64 (1000,)."""
        return np.full(THRESHOLDS.size, self._target.overlap(self.boxes))


class CentrePrediction:
    """The picture's centre (see ``centre_baselines``); its parts are one at any threshold."""

    def __init__(self, target: LabelledMap) -> None:
        self._target = target
        self.heatmap = self.energy = centre_map(target.size_hw)

    @cached_property
    def _overlaps(self) -> NDArray[np.float64]:
        return centre_overlaps(self._target.size_hw, self._target.boxes, self._target.settings.mode)

    def overlaps(self, parts: Parts) -> NDArray[np.float64]:
        """Of the centred box at each threshold: float64 (1000,)."""
        return self._overlaps


def predictions(target: LabelledMap) -> dict[Predictor, Any]:
    """All that are judged on one class of one picture; each has what the measures that name it ask for."""
    some: dict[Predictor, Any] = {
        "maps": MapPrediction(target),
        "whole": WholePrediction(target),
        "centre": CentrePrediction(target),
    }
    boxes = target.picture.localizer_boxes
    return some if boxes is None else some | {"localizer": LocalizerPrediction(target, boxes)}
