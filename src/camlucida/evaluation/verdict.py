"""What a reader must not miss, in words: where the maps do no better than what needs no network."""

from __future__ import annotations

from collections.abc import Sequence

from camlucida.evaluation.findings import Baseline, Figure

_READS = "the network probably reads something other than the object"
CLAIMS = {
    "pointing_strict": ("The maps point {} the picture's centre", _READS),
    "max_box_acc": ("At their best threshold the boxes are {} {}", _READS),
    "gt_known": ("At the operating point the boxes are {} {}", "the threshold may not suit: calibrate it"),
    "found_gt_known": ("The localizer's boxes are {} {}", "it has not learned where objects are"),
    "pxap": ("Pixel by pixel the maps find the object {} {}", _READS),
    "best_mask_iou": ("At their best threshold the masks are {} {}", _READS),
    "energy": ("The maps put {} of their positive evidence on the object than {}", _READS),
    "grid_pointing": ("In mosaics the maps point at their class {} chance", "evidence of one class lies on the others"),
}  # fmt: skip
"""What is said of each figure: what it compares, and what a sure loss means. The first two are said of a gain too that
may be chance. Pointing is that on the object itself: in a small picture 15 pixels are too large a part of it."""

_NAMES = {
    "whole image": "a box around the whole picture",
    "centre box": "a box of one size around its centre",
    "centre map": "a map of its centre",
    "centre point": "",
    "chance": "",
}
_PIXELS = {"whole image": "marking the whole picture"}
_ENERGY = {"whole image": "an even map would", "centre map": "a map of its centre would"}


def warnings(figures: Sequence[Figure]) -> tuple[str, ...]:
    """One sentence for each figure that is below a baseline, or not clearly above it; its best baseline counts.

    "WORSE" where the paired 95 % interval of the difference lies below 0 (without intervals: where it is below 0); "no
    better" where it is not above 0; "not clearly better", for pointing and boxes, where its interval reaches to 0. The
    sure ones come first.

    >>> from camlucida.evaluation.findings import Value
    >>> beside = Baseline("centre point", Value(0.15), Value(-0.05, -0.08, -0.02))
    >>> figure = Figure("pointing_strict", "pointing game", "pointing", Value(0.1), 600, None, (beside,))
    >>> print(warnings([figure])[0])
    The maps point WORSE than the picture's centre (0.10 < 0.15): the network probably reads something other than the
    object.
    """
    known = {figure.key: figure for figure in figures if figure.baselines}
    found: list[tuple[int, str]] = []
    for key in CLAIMS:
        if key not in known or known[key].value.value == 1:  # nothing is above a perfect score
            continue
        beside = max(known[key].baselines, key=lambda one: one.value.value)
        grade = _grade(beside)
        if grade < 2 or (grade == 2 and key in ("pointing_strict", "max_box_acc")):
            found.append((grade, _sentence(known[key], beside, grade)))
    return tuple(sentence for _, sentence in sorted(found, key=lambda one: one[0]))


def _grade(beside: Baseline) -> int:
    """0 surely worse, 1 no better, 2 better by what may be chance, 3 better."""
    gain = beside.gain
    if gain.value < 0 and (gain.high is None or gain.high < 0):
        return 0
    if gain.value <= 0:
        return 1
    return 2 if gain.low is not None and gain.low <= 0 else 3


def _sentence(figure: Figure, beside: Baseline, grade: int) -> str:
    claim, reason = CLAIMS[figure.key]
    if figure.key == "energy":
        name, words = _ENERGY[beside.name], ("LESS", "no more", "not clearly more")
    else:
        name = (_PIXELS if figure.key in ("pxap", "best_mask_iou") else _NAMES).get(beside.name, _NAMES[beside.name])
        words = ("WORSE than", "no better than", "not clearly better than")
    own, other = figure.value.value, beside.value.value
    digits = 2 if f"{own:.2f}" != f"{other:.2f}" else 3
    said = claim.format(words[grade], name)
    if grade == 0:
        return f"{said} ({own:.{digits}f} < {other:.{digits}f}): {reason}."
    return f"{said} ({own:.{digits}f} against {other:.{digits}f}); chance alone may explain the difference."
