"""Shapes on clutter with exactly known masks, made on the fly: the same in every process, from (seed, split, index).

The class is the object's shape alone: its place, area, turn and colours are drawn at random, whatever the class, and so
are a cluttered background and distractors, whose shapes belong to no class. A context cue can be switched on: a marker
in the top left corner whose colour tells the class, so that a network can answer without looking at the object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.data.reading import ErrorCollector
from camlucida.data.record import Dataset, Example, Record, Truth
from camlucida.data.shapes import ALL_SHAPES, DISTRACTORS, SHAPES, Placed
from camlucida.data.values import boxes_array, quoted
from camlucida.errors import DataError

CLASSES = tuple(SHAPES)

SPLITS = ("train", "val", "test")
"""The splits; a fifth of the pictures each for val and test, the rest for train."""

CUE_COLOURS = ((230, 25, 75), (60, 180, 75), (0, 100, 230), (255, 225, 25), (145, 30, 180), (70, 240, 240))
"""The marker's colour for each class, RGB."""

AREAS = 0.05, 0.16
"""The least and the largest part of a picture that an object fills."""

_LIMITS = {"count": (10, 100_000), "seed": (0, 2**31 - 1), "size": (32, 1024), "distractors": (0, 6), "cue": (0, 1)}
_CUES_IN_TEST = ("agree", "disagree", "none")


@dataclass(frozen=True)
class SyntheticOptions:
    """What a set is like; each field is an option of its name, as in ``synthetic:shapes?count=600&size=96``.

    Attributes:
        count: pictures in all splits together, 10 to 100,000.
        seed: of everything random, at least 0.
        size: their side, in pixels, 32 to 1024.
        distractors: shapes of no class in each, 0 to 6; fewer where there is no room.
        cue: the probability, 0 to 1, that a picture has a marker.
        cue_test: what the markers tell in the test split: "agree", the class; "disagree", another class; "none": there
            are no markers.
    """

    count: int = 4000
    seed: int = 0
    size: int = 64
    distractors: int = 2
    cue: float = 0.0
    cue_test: str = "agree"


@dataclass(frozen=True)
class Scene:
    """One picture of a set, which it draws when called. It holds no truth, only what to draw from.

    Attributes:
        options: of the set.
        split: "train", "val" or "test".
        index: its place in the split, from 0; the classes take turns.
    """

    options: SyntheticOptions
    split: str
    index: int

    def __call__(self) -> NDArray[np.uint8]:
        """The picture, size×size×3 uint8, RGB."""
        rng = self._random(1)
        ground = rng.uniform(40, 215, 3)
        pixels = _clutter(rng, self.options.size, ground)
        thing, *distractors = self.placed()
        for placed in (*distractors, thing):
            pixels[placed.mask(self.options.size)] = _apart(rng, ground)
        pixels += rng.normal(0, 8, pixels.shape)
        cue = self.cue()
        if cue is not None:
            pixels[self.cue_mask()] = CUE_COLOURS[cue]
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)

    def object(self) -> Placed:
        """The shape that is its class, clear of the marker's corner."""
        return self._object(self._random(0))

    def placed(self) -> tuple[Placed, ...]:
        """The object, then the distractors: of no class, apart from the object and from each other."""
        rng = self._random(0)
        placed = [self._object(rng)]
        for _ in range(20 * self.options.distractors):  # tries
            if len(placed) <= self.options.distractors:
                name = str(rng.choice(list(DISTRACTORS)))
                other = _proposed(rng, name, (AREAS[0] / 2, AREAS[1] / 3), self.options.size)
                placed += [other] * _clear(other, self.options.size, placed)
        return tuple(placed)

    def cue(self) -> int | None:
        """The class that the marker tells; None where there is no marker. Only this depends on the cue's options."""
        rng, label, told = self._random(2), self.index % len(CLASSES), self.options.cue_test
        shown, other = rng.random() < self.options.cue, (label + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)
        if not shown or (self.split == "test" and told == "none"):
            return None
        return other if self.split == "test" and told == "disagree" else label

    def cue_mask(self) -> NDArray[np.bool_]:
        """The marker's pixels, bool size×size; none is set where there is no marker."""
        size = self.options.size
        mask = np.zeros((size, size), np.bool_)
        if self.cue() is not None:
            mask[: _marker(size), : _marker(size)] = True
        return mask

    def _object(self, rng: np.random.Generator) -> Placed:
        while True:
            placed = _proposed(rng, CLASSES[self.index % len(CLASSES)], AREAS, self.options.size)
            if _clear(placed, self.options.size, ()):
                return placed

    def _random(self, stream: int) -> np.random.Generator:
        """Random numbers: stream 0 for what is placed, 1 for colours and clutter, 2 for the marker."""
        return np.random.default_rng([self.options.seed, SPLITS.index(self.split), self.index, stream])


def read_synthetic(place: str, errors: ErrorCollector) -> Dataset:
    """A synthetic set, by name and options: ``shapes?count=4000&seed=0&size=64&distractors=2&cue=0.0&cue_test=agree``.

    Nothing in it can be broken; it is called like the other readers.
    """
    name, _, query = place.partition("?")
    if name != "shapes":
        raise DataError(f"synthetic:{place}: no such set; expected synthetic:shapes")
    options = parse_options(query)
    records = []
    fifth = options.count // 5
    for split, count in zip(SPLITS, (options.count - 2 * fifth, fifth, fifth), strict=True):
        for index in range(count):
            scene = Scene(options, split, index)
            thing = scene.object()
            label = CLASSES.index(thing.shape)
            example = Example(f"{split}/{index:06d}", Path(), (label,), scene)
            x, y, width, height = cv2.boundingRect(thing.mask(options.size).view(np.uint8))
            box, mask = boxes_array([(x, y, x + width, y + height)]), partial(thing.mask, options.size)
            truth = Truth(box, np.array([label]), mask, size_hw=(options.size, options.size))
            records.append(Record(example, truth, split))
    return Dataset(f"synthetic:{place}", CLASSES, tuple(records))


def parse_options(query: str) -> SyntheticOptions:
    """SyntheticOptions from the part after the question mark.

    Raises:
        DataError: there is no such option, or it has no such value.

    >>> parse_options("size=96&cue=1")
    SyntheticOptions(count=4000, seed=0, size=96, distractors=2, cue=1.0, cue_test='agree')
    """
    values: dict[str, int | float | str] = {}
    kinds = {name: type(value) for name, value in asdict(SyntheticOptions()).items()}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in kinds or name in values:
            known = ", ".join(kinds)
            raise DataError(f"synthetic: {quoted(name)} is no option or there twice; expected each once of {known}")
        least, most = _LIMITS.get(name, (0, 0))
        try:
            values[name] = kinds[name](text)
            fits = text in _CUES_IN_TEST if name == "cue_test" else least <= float(text) <= most
        except ValueError:
            fits = False
        if not fits:
            wanted = ", ".join(_CUES_IN_TEST) if name == "cue_test" else f"{least} to {most}"
            raise DataError(f"synthetic: {name} is {quoted(text)}, expected {wanted}")
    return SyntheticOptions(**values)  # type: ignore[arg-type]


def cue_mask(example: Example) -> NDArray[np.bool_]:
    """Where the context cue is in a picture of a synthetic set, bool H×W; none is set where it has no marker.

    Raises:
        DataError: it is no example of a synthetic set.

    >>> from camlucida.data import open_dataset
    >>> example = open_dataset("synthetic:shapes?count=10&size=32&cue=1").examples[0]
    >>> int(cue_mask(example).sum())
    16
    """
    if not isinstance(example.made, Scene):
        raise DataError(f"{example.id}: not made by a synthetic set, so nothing is known of its scene")
    return example.made.cue_mask()


def _marker(size: int) -> int:
    """The marker's side, in pixels."""
    return size // 8


def _proposed(rng: np.random.Generator, name: str, areas: tuple[float, float], size: int) -> Placed:
    """A shape of random area (a part of the picture's, in the log), place and turn, inside of the picture."""
    radius = size * math.sqrt(math.exp(rng.uniform(*np.log(areas))) / ALL_SHAPES[name].area)
    x, y = rng.uniform(radius + 1, size - radius - 1, 2).tolist()
    return Placed(name, x, y, radius, rng.uniform(0, 2 * math.pi))


def _clear(placed: Placed, size: int, others: Sequence[Placed]) -> bool:
    """Whether a shape comes near neither the marker's corner nor others."""
    corner = math.hypot(max(placed.x - _marker(size), 0), max(placed.y - _marker(size), 0))
    return corner > placed.radius + 1 and not any(placed.near(other) for other in others)


def _clutter(rng: np.random.Generator, size: int, ground: NDArray[np.float64]) -> NDArray[np.float32]:
    """A background of a mean colour: soft patches in two sizes, and strokes."""
    pixels = np.broadcast_to(ground, (size, size, 3)).astype(np.float32)
    for cells, spread in ((4, 22), (12, 14)):
        patches = rng.normal(0, spread, (cells, cells, 3)).astype(np.float32)
        pixels = pixels + np.asarray(cv2.resize(patches, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)
    for _ in range(8):
        start, end = rng.integers(0, size, (2, 2)).tolist()
        colour = (ground + rng.uniform(-70, 70, 3)).tolist()
        cv2.line(pixels, start, end, colour, thickness=max(1, size // 64))
    return pixels


def _apart(rng: np.random.Generator, ground: NDArray[np.float64]) -> NDArray[np.float64]:
    """A random colour that stands out from the background's."""
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.linalg.norm(colour - ground) > 90:
            return colour
