"""Shapes on clutter with exactly known masks, made on the fly: the same in every process, from (seed, split, index).

The class is the object's shape alone: its place, area, turn and colours are drawn at random, whatever the class, and so
are a cluttered background and distractors, whose shapes belong to no class. A context cue can be switched on: a marker
in the top left corner whose colour tells the class, so that a network can answer without looking at the object.
"""

from __future__ import annotations

import math
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
    """One picture before it is drawn.

    Attributes:
        size: its side, in pixels.
        object: the shape that is its class.
        distractors: others, of no class, apart from the object and from each other.
        cue: the class that the marker tells; None where there is no marker.
        seed: of its colours and clutter.
    """

    size: int
    object: Placed
    distractors: tuple[Placed, ...]
    cue: int | None
    seed: tuple[int, ...]

    def mask(self) -> NDArray[np.bool_]:
        """The object's pixels, bool size×size."""
        return self.object.mask(self.size)

    def cue_mask(self) -> NDArray[np.bool_]:
        """The marker's pixels, bool size×size; none is set where there is no marker."""
        mask = np.zeros((self.size, self.size), np.bool_)
        if self.cue is not None:
            mask[: _marker(self.size), : _marker(self.size)] = True
        return mask

    def draw(self) -> NDArray[np.uint8]:
        """The picture, size×size×3 uint8, RGB."""
        rng = np.random.default_rng([*self.seed, 1])
        ground = rng.uniform(40, 215, 3)
        pixels = _clutter(rng, self.size, ground)
        for placed in (*self.distractors, self.object):
            pixels[placed.mask(self.size)] = _apart(rng, ground)
        pixels += rng.normal(0, 8, pixels.shape)
        if self.cue is not None:
            pixels[self.cue_mask()] = CUE_COLOURS[self.cue]
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Drawn:
    """Makes one picture of a set when called. It holds no truth, only what to draw from."""

    options: SyntheticOptions
    split: str
    index: int

    def __call__(self) -> NDArray[np.uint8]:
        """The picture, size×size×3 uint8, RGB."""
        return scene(self.options, self.split, self.index).draw()


def read_synthetic(place: str, errors: ErrorCollector) -> Dataset:
    """A synthetic set, by name and options: ``shapes?count=4000&seed=0&size=64&distractors=2&cue=0.0&cue_test=agree``.

    Args:
        place: the name and options.
        errors: not called: nothing can be broken; readers are called alike.

    Raises:
        DataError: there is no such name or option, or an option has no such value.
    """
    name, _, query = place.partition("?")
    if name != "shapes":
        raise DataError(f"synthetic:{place}: no such set; expected synthetic:shapes")
    options = parse_options(query)
    records = []
    fifth = options.count // 5
    for split, count in zip(SPLITS, (options.count - 2 * fifth, fifth, fifth), strict=True):
        for index in range(count):
            thing = _object(_random(options, split, index, 0), options, index)
            label = CLASSES.index(thing.shape)
            example = Example(f"{split}/{index:06d}", Path(), (label,), Drawn(options, split, index))
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


def scene(options: SyntheticOptions, split: str, index: int) -> Scene:
    """The scene of one picture. Only its marker depends on the options of the cue.

    Args:
        options: of the set.
        split: "train", "val" or "test".
        index: its place in the split, from 0; the classes take turns.
    """
    rng = _random(options, split, index, 0)
    thing = _object(rng, options, index)
    distractors: list[Placed] = []
    for _ in range(20 * options.distractors):  # tries
        if len(distractors) < options.distractors:
            name = str(rng.choice(list(DISTRACTORS)))
            other = _proposed(rng, name, (AREAS[0] / 2, AREAS[1] / 3), options.size)
            distractors += [other] * _clear(other, options.size, (thing, *distractors))
    cue = _cue(_random(options, split, index, 2), options, split, CLASSES.index(thing.shape))
    return Scene(options.size, thing, tuple(distractors), cue, (options.seed, SPLITS.index(split), index))


def scene_of(example: Example) -> Scene:
    """The scene behind an example of a synthetic set.

    Raises:
        DataError: it is no such example.
    """
    if not isinstance(example.made, Drawn):
        raise DataError(f"{example.id}: not made by a synthetic set, so nothing is known of its scene")
    return scene(example.made.options, example.made.split, example.made.index)


def cue_mask(example: Example) -> NDArray[np.bool_]:
    """Where the context cue is in a picture of a synthetic set, bool H×W; none is set where it has no marker.

    Raises:
        DataError: it is no example of a synthetic set.

    >>> from camlucida.data import open_dataset
    >>> example = open_dataset("synthetic:shapes?count=10&size=32&cue=1").examples[0]
    >>> int(cue_mask(example).sum())
    16
    """
    return scene_of(example).cue_mask()


def _marker(size: int) -> int:
    """The marker's side, in pixels."""
    return size // 8


def _random(options: SyntheticOptions, split: str, index: int, stream: int) -> np.random.Generator:
    """Random numbers of one picture: stream 0 for the scene, 1 for its colours and clutter, 2 for its marker."""
    return np.random.default_rng([options.seed, SPLITS.index(split), index, stream])


def _object(rng: np.random.Generator, options: SyntheticOptions, index: int) -> Placed:
    """The object of a picture, clear of the marker's corner."""
    while True:
        placed = _proposed(rng, CLASSES[index % len(CLASSES)], AREAS, options.size)
        if _clear(placed, options.size, ()):
            return placed


def _proposed(rng: np.random.Generator, name: str, areas: tuple[float, float], size: int) -> Placed:
    """A shape of random area (a part of the picture's, in the log), place and turn, inside of the picture."""
    radius = size * math.sqrt(math.exp(rng.uniform(*np.log(areas))) / ALL_SHAPES[name].area)
    x, y = rng.uniform(radius + 1, size - radius - 1, 2).tolist()
    return Placed(name, x, y, radius, rng.uniform(0, 2 * math.pi))


def _clear(placed: Placed, size: int, others: tuple[Placed, ...]) -> bool:
    """Whether a shape comes near neither the marker's corner nor others."""
    corner = math.hypot(max(placed.x - _marker(size), 0), max(placed.y - _marker(size), 0))
    return corner > placed.radius + 1 and not any(placed.near(other) for other in others)


def _cue(rng: np.random.Generator, options: SyntheticOptions, split: str, label: int) -> int | None:
    """The class that the marker tells, or None."""
    shown, other = rng.random() < options.cue, (label + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)
    if not shown or (split == "test" and options.cue_test == "none"):
        return None
    return other if split == "test" and options.cue_test == "disagree" else label


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
