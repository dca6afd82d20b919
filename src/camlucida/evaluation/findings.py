"""What an evaluation consists of: numbers with intervals and baselines, what each class scored, pictures to look at."""

from __future__ import annotations

from dataclasses import dataclass, field

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Value:
    """A number and the limits of its 95 % interval; the limits are None without a bootstrap."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Baseline:
    """What needs no network scores, and how much more the maps score: paired, so its interval is narrower."""

    name: str
    value: Value
    gain: Value


@dataclass(frozen=True)
class Figure:
    """One number of the evaluation.

    Attributes:
        key: its name in JSON.
        title: its name for people.
        group: the heading it stands under.
        value: a share in [0, 1].
        pictures: how many it was measured on.
        threshold: where it was taken at the best of all thresholds: that one; None otherwise.
        baselines: beside it.
    """

    key: str
    title: str
    group: str
    value: Value
    pictures: int
    threshold: float | None = None
    baselines: tuple[Baseline, ...] = ()


@dataclass(frozen=True)
class ClassRow:
    """What one class scored; None where nothing of the kind was measured."""

    name: str
    pictures: int
    top1: float | None
    gt_known: float | None
    iou: float | None
    pointing: float | None
    mask_iou: float | None


CLASS_NUMBERS = {
    "top1": "top-1", "gt_known": "GT-known Loc", "iou": "box IoU", "pointing": "pointing", "mask_iou": "mask IoU",
}  # fmt: skip
"""The numbers of a ``ClassRow`` and their titles."""


@dataclass(frozen=True)
class Case:
    """One picture shown on the page.

    Attributes:
        kind: "best", "median" or "worst", by the overlap.
        id: of the record.
        label: its class.
        predicted: the likeliest class.
        overlap: IoU of its box at the operating point (of its mask where there are no boxes).
        boxes: half-open xyxy pixels of the picture, as predicted.
        true_boxes: the true ones.
        size_hw: of the picture.
        jpeg: the picture under its map, without boxes; not in the JSON.
    """

    kind: str
    id: str
    label: str
    predicted: str
    overlap: float
    boxes: tuple[Box, ...]
    true_boxes: tuple[Box, ...]
    size_hw: tuple[int, int]
    jpeg: bytes = field(repr=False)


def share(value: float) -> str:
    """A share with three digits.

    >>> share(0.70649)
    '0.706'
    """
    return f"{value:.3f}"


def limits(value: Value) -> str:
    """The interval's ends; nothing without a bootstrap.

    >>> limits(Value(0.5, 0.41, 0.587))
    '0.410–0.587'
    """
    return "" if value.low is None or value.high is None else f"{share(value.low)}–{share(value.high)}"


def signed(value: float) -> str:
    """A difference with its sign.

    >>> signed(0.1), signed(-0.05), signed(-0.0001)
    ('+0.100', '−0.050', '+0.000')
    """
    text = share(abs(value))
    return f"−{text}" if value < 0 and text != "0.000" else f"+{text}"
