"""One class of one picture at the size of evaluation: its truth, and what map, localizer and baselines say of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.boxes.calibration import Calibration, filled
from camlucida.boxes.localize import iou
from camlucida.boxes.overlaps import THRESHOLDS, Mode, Parts, part_overlaps
from camlucida.data.record import Truth
from camlucida.evaluation.centre_baselines import centre_map, centre_overlaps, counted
from camlucida.images.preprocess import View

PROTOCOL_HW = (224, 224)
"""The public benchmark looks at pictures, maps and truth at this size."""

Need = Literal["boxes", "mask", "region"]
Predictor = Literal["maps", "localizer", "whole", "centre"]


def size_for(view: View, mode: Mode) -> tuple[int, int]:
    """The size at which a picture is evaluated: its own in exact mode, 224×224 in protocol mode."""
    return view.image_hw if mode == "exact" else PROTOCOL_HW


def laid(grid: NDArray[np.float32], view: View, mode: Mode) -> NDArray[np.float32]:
    """A map h×w over its picture, float32 H×W at the size it is evaluated at: half-pixel bilinear in exact mode, what
    was not seen carrying the lowest value; the benchmark's bicubic resize in protocol mode.
    """
    if mode == "protocol":
        resized: NDArray[np.float32] = cv2.resize(grid, PROTOCOL_HW[::-1], interpolation=cv2.INTER_CUBIC)
        return resized
    return filled(view.project(grid), view.seen())


@dataclass(frozen=True)
class CountingSettings:
    """What is the same for all pictures; the calibration makes the boxes at the operating point, ``classes`` says how
    many the data has.
    """

    mode: Mode
    calibration: Calibration
    classes: int


@dataclass(frozen=True, eq=False)
class MappedPicture:
    """One picture without its pixels: all that its counters are made of, small enough for another process.

    Attributes:
        index: its place in the dataset, from 0.
        view: what the network's input covers of it.
        labels: its classes, ids of the data.
        ranks: the place of each among all logits, 0 the likeliest.
        maps: float32 (L, h, w), the map of each, at the network's own grid, in the method's unit.
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
        rank: its place among all logits, 0 the likeliest.
        grid: float32 h×w, its map at the network's grid.
        size_hw: the size of evaluation.
        boxes: float64 (M, 4), its true boxes at that size, none of them empty; M may be 0.
        mask: bool H×W, the pixels of all objects; None where not known, or of a picture of several classes.
        ignore: as a list for metrics, bool H×W, pixels that count neither way; None where there are none.
    """

    picture: MappedPicture
    settings: CountingSettings
    label: int
    rank: int
    grid: NDArray[np.float32]
    size_hw: tuple[int, int]
    boxes: NDArray[np.float64]
    mask: NDArray[np.bool_] | None
    ignore: list[NDArray[np.bool_]] | None

    @cached_property
    def truths(self) -> frozenset[Need]:
        """Which truth there is: boxes, a mask that is not empty, a region (boxes, or else a mask) that has a pixel."""
        has_boxes, has_mask = bool(len(self.boxes)), self.mask is not None and bool(self.mask.any())
        x1, y1, x2, y2 = np.ceil(self.boxes - 0.5).clip(0, [*self.size_hw[::-1]] * 2).T  # the pixels' centres
        has_region = bool(((x2 > x1) & (y2 > y1)).any()) if has_boxes else has_mask
        truths: dict[Need, bool] = {"boxes": has_boxes, "mask": has_mask, "region": has_region}
        return frozenset(need for need, there in truths.items() if there)

    @property
    def region(self) -> NDArray[Any]:
        """The object's boxes, or else its mask."""
        return self.boxes if len(self.boxes) or self.mask is None else self.mask

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
        ignored = None if ignore is None else [ignore]
        yield LabelledMap(picture, settings, label, rank, grid, size_hw, boxes, mask, ignored)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Where the object of a ``LabelledMap`` is said to be, at the size of evaluation; each predictor gives what it has.

    Attributes:
        heatmap: real H×W.
        energy: the heatmap that energy is counted of: 0 where the network did not see the picture.
        mask: bool H×W, at the operating point.
        boxes: (M, 4), half-open, at the operating point.
        overlaps: float64 (1000,), how well boxes of the heatmap fit at each threshold: of all parts, or the largest.
    """

    heatmap: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 0)))
    energy: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 0)))
    mask: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), np.bool_))
    boxes: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 4)))
    overlaps: dict[Parts, NDArray[np.float64]] = field(default_factory=dict)


def predictions(target: LabelledMap) -> dict[Predictor, Prediction]:
    """What the map says, the localizer if there is one, and what needs no network: the whole picture and its centre."""
    view, size_hw, settings = target.picture.view, target.size_hw, target.settings
    heatmap = laid(target.grid, view, settings.mode)
    energy = heatmap if settings.mode == "protocol" else view.project(target.grid)
    mask, boxes = settings.calibration.mask(heatmap), np.zeros((0, 4), np.int64)
    cone, whole = centre_map(size_hw), np.array([[0, 0, size_hw[1], size_hw[0]]])
    of_map: dict[Parts, NDArray[np.float64]] = {}
    of_whole, of_centre = of_map, of_map
    if "boxes" in target.truths:
        boxes = settings.calibration.boxes(heatmap)
        every, largest = part_overlaps(heatmap, target.boxes, ("all", "largest"), mode=settings.mode)
        centre = centre_overlaps(size_hw, target.boxes, settings.mode)
        of_map, of_centre = {"all": every, "largest": largest}, {"all": centre, "largest": centre}
        of_whole = {"all": np.full(THRESHOLDS.size, target.overlap(whole))}
    said: dict[Predictor, Prediction] = {
        "maps": Prediction(heatmap, energy, mask, boxes, of_map),
        "whole": Prediction(np.zeros(size_hw), np.ones(size_hw), np.ones(size_hw, np.bool_), whole, of_whole),
        "centre": Prediction(cone, cone, overlaps=of_centre),
    }
    if target.picture.localizer_boxes is not None:
        scales = np.tile([size_hw[1] / view.image_hw[1], size_hw[0] / view.image_hw[0]], 2)
        said["localizer"] = Prediction(boxes=target.picture.localizer_boxes * scales)
    return said
