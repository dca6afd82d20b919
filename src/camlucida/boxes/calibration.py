"""From map to box, calibrated: how a map is normalized, and the one threshold that serves all pictures.

Normalizations: min–max; max (negative values cut off); PaS, "percentile as a standard for thresholding" (Bae, Noh and
Kim, "Rethinking Class Activation Mapping for Weakly Supervised Object Localization", ECCV 2020): the threshold is a
share of a high percentile instead of the maximum, so that one hot spot does not set it; IVR (Kim, Yoon, Hong and Kim,
"Normalization Matters in Weakly Supervised Object Localization", ICCV 2021): a percentile is subtracted, what is below
it cut off. Details are those of the IVR authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.boxes.localize import as_boxes, as_heatmap, components, iou, largest_part
from camlucida.boxes.overlaps import THRESHOLD_LEVELS, THRESHOLDS, Mode, Parts, box_overlaps
from camlucida.errors import CamlucidaError

Normalization = Literal["minmax", "max", "pas", "ivr"]
How = Literal["given", "boxes", "pseudo"]

CANDIDATES: tuple[tuple[Normalization, float | None], ...] = (
    ("max", None),
    ("minmax", None),
    *(("pas", float(percentile)) for percentile in (80, 85, 90, 95, 99)),
    *(("ivr", float(percentile)) for percentile in (10, 20, 30, 40, 50, 60, 70, 80, 90)),
)  # fmt: skip
"""The normalizations (and percentiles) tried, in the order in which equal ones are preferred."""

_FIRST = np.searchsorted(THRESHOLD_LEVELS, np.arange(1, 256))  # the first threshold that asks for each 8-bit level


def normalized(
    heatmap: ArrayLike, how: Normalization = "minmax", percentile: float | None = None
) -> NDArray[np.float64]:
    """Scale maps to [0, 1], each by its own values.

    Args:
        heatmap: real (..., H, W), finite, any unit.
        how: "minmax"; "max": cut at 0, divided by the maximum; "pas": the minimum subtracted, divided by the
            percentile's distance from it, cut at 1; "ivr": the percentile subtracted, cut at 0, divided by the maximum.
        percentile: of "pas" (90 if not given) and "ivr" (30 if not given), in [0, 100): the value at that share of the
            map's sorted values.

    Returns:
        float64 (..., H, W). All 0 where there is nothing to scale: a constant map, or under "max" one without positive
        values. Where the percentile of "pas" is the minimum itself, the maximum takes its place.

    Raises:
        CamlucidaError: an unknown normalization, a percentile out of range or not asked for, no map.

    >>> normalized([[0.0, 1.0], [2.0, 5.0]], "ivr", 30).tolist()
    [[0.0, 0.0], [0.25, 1.0]]
    """
    values = np.asarray(heatmap)
    if values.ndim < 2 or 0 in values.shape[-2:] or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise CamlucidaError(f"heatmap: expected finite real numbers (..., H, W), got {values.dtype} {values.shape}")
    percentile = _percentile(how, percentile)
    values = values.astype(np.float64)
    flat = np.sort(values.reshape(*values.shape[:-2], -1), axis=-1)
    low, high = (limit[..., None, None] for limit in _limits(flat, how, percentile))
    spread = high - low
    scaled = np.divide(values - low, spread, out=np.zeros_like(values), where=spread > 0)
    shares: NDArray[np.float64] = scaled.clip(0, 1)
    return shares


@dataclass(frozen=True)
class Calibration:
    """How masks and boxes are made of maps: travels with a trained model.

    A pixel belongs to the object where its normalized value is strictly above the threshold. The values that are not
    given are the paper's rule (Zhou et al., CVPR 2016, section 3.2): above 20 % of the maximum, the largest part.

    Attributes:
        normalization: see ``normalized``.
        percentile: of "pas" and "ivr"; None for the others.
        threshold: in [0, 1).
        parts: "largest", one box; "all", a box for every connected part.
        how: where this comes from: "given" by a person or a paper, chosen with true "boxes" or with "pseudo" ones.
        iou: the overlap that was asked for when it was chosen.
        score: the share of pictures that reached it then; None where nothing was measured.
        pictures: how many they were.

    >>> Calibration(threshold=0.5).boxes([[0.0, 3.0, 4.0, 1.0]]).tolist()
    [[1, 0, 3, 1]]
    """

    normalization: Normalization = "max"
    percentile: float | None = None
    threshold: float = 0.2
    parts: Parts = "largest"
    how: How = "given"
    iou: float = 0.5
    score: float | None = None
    pictures: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "percentile", _percentile(self.normalization, self.percentile))
        for name, kinds in (("parts", get_args(Parts)), ("how", get_args(How))):
            if getattr(self, name) not in kinds:
                raise CamlucidaError(f"calibration: {name}: expected {' or '.join(kinds)}, got {getattr(self, name)!r}")
        if not (_is_number(self.threshold) and 0 <= self.threshold < 1):
            raise CamlucidaError(f"calibration: threshold: expected a number in [0, 1), got {self.threshold!r}")
        if not (_is_number(self.iou) and 0 < self.iou <= 1):
            raise CamlucidaError(f"calibration: iou: expected a number in (0, 1], got {self.iou!r}")
        if self.score is not None and not (_is_number(self.score) and 0 <= self.score <= 1):
            raise CamlucidaError(f"calibration: score: expected a share in [0, 1] or nothing, got {self.score!r}")
        if not isinstance(self.pictures, int) or isinstance(self.pictures, bool) or self.pictures < 0:
            raise CamlucidaError(f"calibration: pictures: expected a count, got {self.pictures!r}")

    def mask(self, heatmap: ArrayLike) -> NDArray[np.bool_]:
        """The object's pixels of a map laid over its picture: bool H×W for real H×W; empty for a constant map."""
        return normalized(as_heatmap(heatmap), self.normalization, self.percentile) > self.threshold

    def boxes(self, heatmap: ArrayLike) -> NDArray[np.int64]:
        """Half-open xyxy boxes (M, 4) of a map laid over its picture; M ≤ 1 for the largest part, else largest first.

        Args:
            heatmap: real H×W, finite, any unit; what the network did not see filled (see ``filled``).
        """
        marked = self.mask(heatmap)
        if self.parts == "all":
            return components(heatmap, marked).boxes
        box, area = largest_part(marked)
        return np.array([box] if area else [], np.int64).reshape(-1, 4)

    def __str__(self) -> str:
        names = {
            "max": "the maximum",
            "minmax": "the range",
            "pas": "the {}th percentile",
            "ivr": "what is above the {}th percentile",
        }
        text = names[self.normalization].format("" if self.percentile is None else f"{self.percentile:g}")
        origin = {"given": "as given", "boxes": "chosen with true boxes", "pseudo": "chosen with pseudo-boxes"}[
            self.how
        ]
        return f"above {100 * self.threshold:.3g} % of {text}, {self.parts} part{'s' * (self.parts == 'all')}, {origin}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; see ``from_dict``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """What ``to_dict`` gave; raises CamlucidaError where it is none.

        >>> Calibration.from_dict({"normalization": "ivr", "percentile": 40, "threshold": 0.25}).threshold
        0.25
        """
        if not isinstance(values, Mapping):
            raise CamlucidaError(f"calibration: expected an object of its fields, got {type(values).__name__}")
        known = {field.name for field in fields(cls)}
        unknown = sorted(map(str, set(values) - known))
        if unknown:
            raise CamlucidaError(f"calibration: unknown field {unknown[0]!r}; expected {', '.join(sorted(known))}")
        return cls(**values)


def filled(heatmap: NDArray[Any], seen: NDArray[np.bool_]) -> NDArray[Any]:
    """A laid map whose unseen pixels carry its lowest seen value, so that no threshold marks them as the object.

    ``View.project`` leaves 0 there, which is more than the negative evidence of what was seen.

    Args:
        heatmap: real H×W.
        seen: bool H×W.

    >>> filled(np.array([[0.0, -2.0, 1.0]]), np.array([[False, True, True]])).tolist()
    [[-2.0, -2.0, 1.0]]
    """
    if seen.all() or not seen.any():
        return heatmap
    return np.where(seen, heatmap, heatmap[seen].min())


def calibrate(
    pairs: Iterable[tuple[ArrayLike, ArrayLike | None]],
    *,
    how: How = "boxes",
    parts: Parts = "largest",
    iou_at_least: float = 0.5,
    mode: Mode = "exact",
    candidates: Iterable[tuple[Normalization, float | None]] = CANDIDATES,
) -> Calibration:
    """Choose normalization, percentile and the one threshold that put most pictures' boxes right.

    All thresholds and normalizations of a map come from one component tree of its 8-bit levels: a normalization only
    moves where on those levels a threshold lies. Of equally good thresholds the middle of the longest run is taken, of
    equally good normalizations the first in ``CANDIDATES``.

    Args:
        pairs: of each picture of a validation split the map laid over it, real H×W, and its boxes, (M, 4) half-open
            xyxy pixels; read once, one at a time. Pictures without a box (None) are left out.
        how: where the boxes come from: "boxes", true ones; "pseudo", ``pseudo_boxes.pseudo_box``, where no true box may
            be looked at (the setting of Murtaza et al., "A Realistic Protocol for Evaluation of Weakly Supervised
            Object Localization", WACV 2025, who take pseudo-boxes from region proposals).
        parts: "largest" or "all", as the calibration will box.
        iou_at_least: the overlap that makes a box right.
        mode: how overlaps are counted, see ``metrics.box_overlaps``.
        candidates: normalizations to try, with their percentiles.

    Returns:
        The calibration; its score is the share of pictures right at it, as measured on the 8-bit levels.

    Raises:
        CamlucidaError: no picture that could be used, a bad map or box.

    >>> heatmap = np.zeros((20, 20)); heatmap[5:15, 5:15] = 0.3; heatmap[9:11, 9:11] = 1
    >>> chosen = calibrate([(heatmap, [[5, 5, 15, 15]])])
    >>> chosen.normalization, round(chosen.threshold, 2), chosen.score
    ('max', 0.15, 1.0)
    """
    tried = [(normalization, _percentile(normalization, percentile)) for normalization, percentile in candidates]
    right = np.zeros((len(tried), THRESHOLDS.size), np.int64)
    used = 0
    for heatmap, boxes in pairs:
        values, truth = as_heatmap(heatmap), as_boxes([] if boxes is None else boxes)
        if len(truth):
            right += candidate_overlaps(values, truth, tried, mode, parts) >= iou_at_least
            used += 1
    if not used:
        raise CamlucidaError("calibrate: no picture with a box; name a split that has boxes, or pass more pictures")
    best = int(right.max(axis=1).argmax())
    normalization, percentile = tried[best]
    at = _middle_of_longest(right[best] == right[best].max())
    return Calibration(
        normalization, percentile, float(THRESHOLDS[at]), parts, how, float(iou_at_least),
        float(right[best, at] / used), used,
    )  # fmt: skip


def candidate_overlaps(
    heatmap: NDArray[Any],
    truth: NDArray[np.float64],
    tried: Sequence[tuple[Normalization, float | None]],
    mode: Mode,
    parts: Parts,
) -> NDArray[np.float64]:
    """The best IoU of each normalization at each threshold: float64 (C, 1000), from one component tree."""
    height, width = heatmap.shape
    at_level = np.zeros(257)  # pixels of at least this 8-bit level; at 0 the whole picture, at 256 nothing
    at_level[0] = float(iou([[0, 0, width, height]], truth).max())
    at_level[1:256] = box_overlaps(heatmap, truth, mode=mode, parts=parts)[_FIRST]
    flat = np.sort(heatmap.astype(np.float64), axis=None)
    low, high = flat[0], flat[-1]
    if low == high:
        return np.zeros((len(tried), THRESHOLDS.size))
    limits = np.array([_limits(flat, how, percentile) for how, percentile in tried])
    cuts = limits[:, :1] + THRESHOLDS * (limits[:, 1:] - limits[:, :1])
    levels = np.clip(np.floor((cuts - low) / (high - low) * 255).astype(np.int64) + 1, 0, 256)
    levels[limits[:, 1] <= limits[:, 0]] = 256
    overlaps: NDArray[np.float64] = at_level[levels]
    return overlaps


def _limits(flat: NDArray[np.float64], how: Normalization, percentile: float | None) -> tuple[Any, Any]:
    """The values that become 0 and 1, of sorted values (..., P); equal ones where there is nothing to scale."""
    low, high = flat[..., 0], flat[..., -1]
    if how == "max":
        return np.zeros_like(low), np.maximum(high, 0)
    if percentile is None:
        return low, high
    value = flat[..., min(int(flat.shape[-1] * percentile / 100), flat.shape[-1] - 1)]
    return (value, high) if how == "ivr" else (low, np.where(value > low, value, high))


def _percentile(how: Normalization, percentile: float | None) -> float | None:
    if how not in get_args(Normalization):
        raise CamlucidaError(f"normalization: expected {', '.join(get_args(Normalization))}, got {how!r}")
    if how in ("minmax", "max"):
        if percentile is not None:
            raise CamlucidaError(f"percentile: {how} has none, got {percentile!r}; leave it out")
        return None
    if percentile is None:
        return 90.0 if how == "pas" else 30.0
    if not (_is_number(percentile) and 0 <= percentile < 100):
        raise CamlucidaError(f"percentile: expected a number in [0, 100), got {percentile!r}")
    return float(percentile)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _middle_of_longest(flags: NDArray[np.bool_]) -> int:
    """The middle of the longest run of True; of equal ones, the first."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    longest = int((stops - starts).argmax())
    return int(starts[longest] + stops[longest] - 1) // 2
