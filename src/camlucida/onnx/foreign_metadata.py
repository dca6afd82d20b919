"""What other tools write into an ONNX file's metadata of its pictures and classes, and what the graph itself says."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from camlucida.errors import ModelError
from camlucida.images.picture import shown
from camlucida.images.preprocess import ChannelOrder, Preprocess

NAME_KEYS = ("labels", "names", "class_names", "classes", "character", "id2label")
"""Under which class names are found: this package's own, ultralytics', and what else was seen."""

_ZEROS, _ONES, _HALVES = (0.0,), (1.0,), (0.5,)
_RANGES = {
    "NominalRange_0_255": (_ZEROS, _ONES, 255.0), "Normalized_0_1": (_ZEROS, _ONES, 1.0),
    "Normalized_1_1": (_HALVES, _HALVES, 1.0), "NominalRange_16_235": ((-16.0,), _ONES, 219.0),
}  # fmt: skip
_FORMATS: dict[str, tuple[int, ChannelOrder]] = {"Rgb8": (3, "rgb"), "Bgr8": (3, "bgr"), "Gray8": (1, "rgb")}


@dataclass(frozen=True)
class PictureInput:
    """What a graph says of the pictures that it takes.

    Attributes:
        channels: how many; None where it takes any.
        height: pixels; None where it takes any.
        width: as height.
        whole_numbers: whether it takes pixels of 0 to 255 as whole numbers.
    """

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    whole_numbers: bool = False

    def checked(self, preprocess: Preprocess, name: str) -> Preprocess:
        """A preprocessing that a user gave.

        Raises:
            ModelError: the graph cannot take it.
        """
        if self.channels not in (None, preprocess.channels):
            raise ModelError(f"{name}: takes pictures of {self.channels} channels; give as many means and deviations")
        height, width = preprocess.size_hw
        if self.height not in (None, height) or self.width not in (None, width):
            own = "×".join(str(side or "any") for side in (self.height, self.width))
            raise ModelError(f"{name}: takes pictures of {own} pixels, not {height}×{width}")
        return preprocess


ANY = PictureInput()


def assumed_preprocess(takes: PictureInput) -> Preprocess:
    """What is taken where nobody says how pictures are prepared: ImageNet's usual for colour, 0 to 1 for other numbers
    of channels, and pixels as they are for whole numbers.

    >>> assumed_preprocess(PictureInput(1, 28, 28)).mean
    (0.0,)
    """
    size_hw, channels = (takes.height or 224, takes.width or 224), takes.channels or 3
    usual = Preprocess(size_hw, crop_fraction=0.875)
    if channels == 3 and not takes.whole_numbers:
        return usual
    scale = 255.0 if takes.whole_numbers else 1.0
    return replace(usual, mean=_ZEROS * channels, std=_ONES * channels, scale=scale)


def foreign_preprocess(entries: Mapping[str, str], takes: PictureInput, notes: list[str]) -> Preprocess | None:
    """How ultralytics or Custom Vision (and coremltools) say that pictures are prepared; None if neither does."""
    if "Image.BitmapPixelFormat" in entries or "Image.NominalPixelRange" in entries:
        return _custom_vision(entries, takes, notes)
    if "Ultralytics" in entries.get("author", "") + entries.get("description", ""):
        return _ultralytics(entries, takes, notes)
    return None


def _custom_vision(entries: Mapping[str, str], takes: PictureInput, notes: list[str]) -> Preprocess | None:
    kind = entries.get("Image.BitmapPixelFormat", "Rgb8")
    spread = entries.get("Image.NominalPixelRange")
    if kind not in _FORMATS or spread not in (*_RANGES, None):
        key, said = ("Image.BitmapPixelFormat", kind) if kind not in _FORMATS else ("Image.NominalPixelRange", spread)
        notes.append(f"its metadata {key!r} says {shown(str(said))[:40]!r}, which is not known, and was passed over")
        return None
    if spread is None:
        notes.append("its metadata do not state a range of pixels: 0 to 255 is assumed, as for such files")
    channels, order = _FORMATS[kind]
    mean, std, scale = _RANGES[spread or "NominalRange_0_255"]
    size_hw = (takes.height or 224, takes.width or 224)
    return Preprocess(size_hw, mean=mean * channels, std=std * channels, scale=scale, order=order)


def _ultralytics(entries: Mapping[str, str], takes: PictureInput, notes: list[str]) -> Preprocess | None:
    if entries.get("task", "classify") != "classify":
        return None
    sides = _value(entries.get("imgsz", ""))
    sides = [sides, sides] if isinstance(sides, int) else sides
    fits = isinstance(sides, list | tuple) and len(sides) == 2 and all(isinstance(side, int) for side in sides)
    height, width = takes.height or (sides[0] if fits else 224), takes.width or (sides[1] if fits else 224)
    if not fits or (height, width) != tuple(sides):
        said = shown(entries.get("imgsz", "nothing"))[:40]
        notes.append(f"its metadata 'imgsz' says {said}, and {height}×{width} pixels are taken")
    channels = takes.channels or 3
    try:
        return Preprocess((height, width), mean=_ZEROS * channels, std=_ONES * channels)
    except ModelError:
        return None


def fitted(preprocess: Preprocess, takes: PictureInput, notes: list[str]) -> Preprocess | None:
    """A stated preprocessing as the graph can take it; None where it has other channels. What was changed is noted."""
    if takes.channels not in (None, preprocess.channels):
        notes.append(
            f"its metadata prepare pictures of {preprocess.channels} channels, its graph takes {takes.channels}, "
            "and they were passed over"
        )
        return None
    size_hw = (takes.height or preprocess.size_hw[0], takes.width or preprocess.size_hw[1])
    if size_hw != preprocess.size_hw:
        said, taken = ("×".join(map(str, size)) for size in (preprocess.size_hw, size_hw))
        notes.append(f"its metadata 'preprocess' says {said} pixels, and its graph takes {taken}")
        preprocess = replace(preprocess, size_hw=size_hw)
    channels = preprocess.channels
    whole = replace(preprocess, mean=_ZEROS * channels, std=_ONES * channels, scale=255.0)
    if takes.whole_numbers and preprocess != whole:
        notes.append("its metadata 'preprocess' normalizes pictures, and its graph takes whole numbers of 0 to 255, "
                     "which it is given")  # fmt: skip
        return whole
    return preprocess


def names_in(text: str) -> tuple[str, ...] | None:
    """Names of classes as they are written: a JSON list, a dictionary by number (JSON or Python), lines, or commas.

    >>> names_in("{0: 'ant', 1: 'bee'}"), names_in("ant, bee"), names_in("ant")
    (('ant', 'bee'), ('ant', 'bee'), None)
    """
    text = text.strip()
    if text[:1] in ("[", "{"):
        value = _value(text)
        if isinstance(value, dict):
            try:
                numbered = {int(key): name for key, name in value.items()}
            except (TypeError, ValueError):
                return None
            value = [numbered[number] for number in range(len(numbered))] if _counts(numbered) else None
        if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
            return None
        return tuple(value) or None
    lines = text.splitlines() if "\n" in text else text.split(",")
    names = tuple(line.strip() for line in lines)
    return names if len(names) > 1 and all(names) else None


def _counts(numbered: Mapping[int, Any]) -> bool:
    return sorted(numbered) == list(range(len(numbered)))


def _value(text: str) -> Any:
    """A value of JSON or a Python literal; None if it is neither. Nothing is run."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None
