"""One class of one picture: its map, and its truth at the size of evaluation; what all counting goes by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.boxes.calibration import Calibration, filled
from camlucida.boxes.localize import iou
from camlucida.boxes.overlaps import Mode
from camlucida.data.record import Truth
from camlucida.evaluation.centre_baselines import counted
from camlucida.images.preprocess import View

PROTOCOL_HW = (224, 224)
"""The public benchmark looks at pictures, maps and truth at this size."""

Need = Literal["boxes", "mask", "region"]


def size_for(view: View, mode: Mode) -> tuple[int, int]:
    """The size at which a picture is evaluated: its own in exact mode, 224×224 in protocol mode."""
    return view.image_hw if mode == "exact" else PROTOCOL_HW


def laid(grid: NDArray[np.float32], view: View, mode: Mode) -> NDArray[np.float32]:
    """A map over its picture at the size it is evaluated at: half-pixel bilinear in exact mode, what was not seen
    carrying the lowest value; the benchmark's bicubic resize in protocol mode.

    Args:
        grid: float32 h×w.
        view: what the network saw.
        mode: "exact" or "protocol".

    Returns:
        float32 H×W.
    """
    if mode == "protocol":
        resized: NDArray[np.float32] = cv2.resize(grid, PROTOCOL_HW[::-1], interpolation=cv2.INTER_CUBIC)
        return resized
    return filled(view.project(grid), view.seen())


@dataclass(frozen=True)
class CountingSettings:
    """What is the same for all pictures.

    Attributes:
        mode: "protocol" or "exact".
        calibration: how the boxes at the operating point are made.
        classes: how many classes the data has.
    """

    mode: Mode
    calibration: Calibration
    classes: int


@dataclass(frozen=True, eq=False)
class MappedPicture:
    """One picture without its pixels: all that its counters are made of, small enough for another process.

    Attributes:
        index: its place in the dataset.
        view: what the network saw of it.
        labels: its classes.
        ranks: the place of each among all logits.
        maps: float32 (L, h, w), one for each.
        truth: boxes and masks.
        localizer_boxes: (P, 4) boxes of a two-stage localizer, half-open pixels of the picture; None without one.
    """

    index: int
    view: View
    labels: tuple[int, ...]
    ranks: tuple[int, ...]
    maps: NDArray[np.float32]
    truth: Truth
    localizer_boxes: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class LabelledMap:
    """One class of one picture.

    Attributes:
        picture: where it comes from.
        settings: of the evaluation.
        label: the class.
        rank: its place among all logits, 0 the likeliest.
        grid: float32 h×w, its map at the network's grid.
        size_hw: the size of evaluation.
        boxes: float64 (M, 4), its true boxes at that size, none of them empty; M may be 0.
        mask: bool H×W, the pixels of all objects; None where not known, or of a picture of several classes.
        ignore: bool H×W, pixels that count neither way; None where there are none.
    """

    picture: MappedPicture
    settings: CountingSettings
    label: int
    rank: int
    grid: NDArray[np.float32]
    size_hw: tuple[int, int]
    boxes: NDArray[np.float64]
    mask: NDArray[np.bool_] | None
    ignore: NDArray[np.bool_] | None

    def has(self, need: Need) -> bool:
        """Whether its truth has boxes, a mask that is not empty, or a region (boxes, else a mask) that has a pixel."""
        if need == "boxes":
            return bool(len(self.boxes))
        if need == "mask":
            return self.mask is not None and bool(self.mask.any())
        return self._has_region

    @cached_property
    def _has_region(self) -> bool:
        if not len(self.boxes):
            return self.has("mask")
        x1, y1, x2, y2 = np.ceil(self.boxes - 0.5).clip(0, [*self.size_hw[::-1]] * 2).T  # the pixels' centres
        return bool(((x2 > x1) & (y2 > y1)).any())

    @property
    def region(self) -> NDArray[Any]:
        """The object's boxes, or else its mask."""
        return self.boxes if len(self.boxes) or self.mask is None else self.mask

    @property
    def ignored(self) -> list[NDArray[np.bool_]] | None:
        """The ignored pixels as metrics take them."""
        return None if self.ignore is None else [self.ignore]

    @property
    def top(self) -> list[int]:
        """Five likeliest classes among which class 0 stands at this rank, if at all."""
        return [0 if place == self.rank else 1 for place in range(5)]

    def pair(self, boxes: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Boxes and the true ones as the mode counts them (see ``counted``)."""
        return counted(boxes, self.boxes, self.size_hw, self.settings.mode)

    def overlap(self, boxes: NDArray[Any]) -> float:
        """The best IoU of boxes with the true ones, as the mode counts them; 0 without any."""
        return float(iou(*self.pair(boxes)).max(initial=0.0))


def labelled_maps(picture: MappedPicture, settings: CountingSettings) -> Iterator[LabelledMap]:
    """Every class of a picture.

    Raises:
        DataError: its mask cannot be read.
    """
    size_hw = size_for(picture.view, settings.mode)
    all_boxes = picture.truth.boxes_at(picture.view.image_hw, size_hw).clip(0)
    mask, ignore = picture.truth.masks_at(size_hw, settings.mode) if len(picture.labels) == 1 else (None, None)
    for label, rank, grid in zip(picture.labels, picture.ranks, picture.maps, strict=True):
        boxes = all_boxes[picture.truth.box_labels == label]
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
        yield LabelledMap(picture, settings, label, rank, grid, size_hw, boxes, mask, ignore)
