"""One type for every labelled picture, with its truth kept apart: training is given examples, which carry none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.errors import DataError, ImageError
from camlucida.images.picture import Picture, read, shown

MaskSource = Path | tuple[Path, ...] | NDArray[np.bool_] | Callable[[], NDArray[np.bool_]] | None
"""Pixels: a file (above 0 is set) or the union of several, an array H×W, or a function that makes one; None: not known.

Functions can be pickled (``functools.partial`` of one at the top of a module), so that records can be sent to other
processes."""


@dataclass(frozen=True)
class Example:
    """A picture with image labels: all that training may see.

    Attributes:
        id: unique within its dataset: a path relative to the dataset with "/" between parts, or the benchmark's own id.
        path: the picture's file; ``Path()`` for a picture made on the fly.
        labels: ids into ``Dataset.classes``; exactly one where every picture has one class.
        made: makes the picture, H×W×3 uint8, where there is no file.
    """

    id: str
    path: Path
    labels: tuple[int, ...]
    made: Callable[[], NDArray[np.uint8]] | None = field(default=None, repr=False, compare=False)

    def read(self) -> Picture:
        """The picture; raises ImageError if its file cannot be read."""
        return read(self.path) if self.made is None else Picture(self.made(), self.id)


@dataclass(frozen=True, eq=False)
class Truth:
    """Where the objects of a picture are: for evaluation alone.

    Attributes:
        boxes: float64 (M, 4), half-open xyxy pixels of ``size_hw``; M may be 0.
        box_labels: int64 (M,), the class of each box.
        mask: the pixels of all objects.
        ignore: pixels that count neither way, where they are no object's.
        size_hw: the size that boxes and masks refer to; None: the picture's own (masks then may have any resolution).
    """

    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    box_labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    mask: MaskSource = None
    ignore: MaskSource = None
    size_hw: tuple[int, int] | None = None

    @property
    def located(self) -> bool:
        """Whether it says where anything is."""
        return bool(len(self.boxes)) or self.mask is not None

    def boxes_at(self, image_hw: tuple[int, int], size_hw: tuple[int, int]) -> NDArray[np.float64]:
        """The boxes of a picture of ``image_hw`` when it is shown at ``size_hw``: float64 (M, 4), not rounded.

        >>> Truth(np.array([[0.0, 10, 20, 30]]), np.array([0])).boxes_at((40, 20), (80, 80)).tolist()
        [[0.0, 20.0, 80.0, 60.0]]
        """
        height, width = self.size_hw or image_hw
        return np.asarray(self.boxes * ([size_hw[1], size_hw[0]] * 2) / ([width, height] * 2), np.float64)

    def masks_at(
        self, size_hw: tuple[int, int], mode: Literal["exact", "protocol"] = "exact"
    ) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_] | None]:
        """Object and ignored pixels, bool H×W at ``size_hw``, disjoint; None where not known.

        Args:
            size_hw: the size to show them at.
            mode: the nearest neighbour of each pixel's centre ("exact"), or of its corner, as the public WSOL
                benchmark takes it (OpenCV's ``INTER_NEAREST``: "protocol").

        Raises:
            DataError: a mask's file cannot be read, or its size is not the one that the annotations state.
        """
        nearest = cv2.INTER_NEAREST_EXACT if mode == "exact" else cv2.INTER_NEAREST
        mask = _mask_at(self.mask, self.size_hw, size_hw, nearest)
        ignore = _mask_at(self.ignore, self.size_hw, size_hw, nearest)
        return mask, ignore & ~mask if mask is not None and ignore is not None else ignore


@dataclass(frozen=True, eq=False)
class Record:
    """An example, its truth, and where it belongs.

    Attributes:
        example: what training may see.
        truth: what only evaluation may see.
        split: "train", "val", "test" or the dataset's own word; "" if it has none.
        group: pictures of one origin (a patient, a board) share it; "" if not known.
    """

    example: Example
    truth: Truth = field(default_factory=Truth)
    split: str = ""
    group: str = ""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled pictures.

    Example:
        >>> examples = [Example("a.png", Path("a.png"), (0,)), Example("b.png", Path("b.png"), (1,))]
        >>> records = tuple(Record(example, split=split) for example, split in zip(examples, ("train", "test")))
        >>> [example.id for example in Dataset("two", ("cat", "dog"), records).split("test").examples]
        ['b.png']
    """

    name: str
    classes: tuple[str, ...]
    records: tuple[Record, ...]

    @property
    def examples(self) -> tuple[Example, ...]:
        """What training is given: no truth is in it."""
        return tuple(record.example for record in self.records)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of its splits, in the order of their first records."""
        return tuple(dict.fromkeys(record.split for record in self.records))

    def split(self, *names: str) -> Dataset:
        """The records of these splits.

        Raises:
            DataError: there is no such split.
        """
        for name in names:
            if name not in self.splits:
                known = ", ".join(one or "(none)" for one in self.splits)
                raise DataError(f"{self.name}: has no split {name!r}; its splits are {known}")
        return replace(self, records=tuple(record for record in self.records if record.split in names))


def _mask_at(
    source: MaskSource, stated_hw: tuple[int, int] | None, size_hw: tuple[int, int], nearest: int
) -> NDArray[np.bool_] | None:
    if source is None:
        return None
    if isinstance(source, Path):
        pixels = _from_file(source)
    elif isinstance(source, tuple):
        shown_masks = [_mask_at(one, stated_hw, size_hw, nearest) for one in source]
        return np.asarray(np.any([one for one in shown_masks if one is not None], axis=0), np.bool_)
    else:
        pixels = source() if callable(source) else source
    if stated_hw is not None and pixels.shape != stated_hw:
        what = f"mask {shown(source)}" if isinstance(source, Path) else "a mask"
        sizes = f"{pixels.shape[1]}×{pixels.shape[0]} pixels, its picture {stated_hw[1]}×{stated_hw[0]}"
        raise DataError(f"{what} has {sizes}; make it again, or leave the record out")
    if pixels.shape == size_hw:
        return pixels
    resized = cv2.resize(pixels.astype(np.uint8), size_hw[::-1], interpolation=nearest)
    return np.asarray(resized, np.bool_)


def _from_file(path: Path) -> NDArray[np.bool_]:
    try:
        above: NDArray[np.bool_] = read(path).pixels.max(2) > 0
    except ImageError as error:
        raise DataError(f"mask {error}") from error
    return above
