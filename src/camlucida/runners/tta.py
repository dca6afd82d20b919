"""MapBatch averaged over mirrored and turned inputs: steadier than what a network says of one view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import MethodError
from camlucida.runners.runner import Facts, MapBatch, Runner
from camlucida.targets import Classes

TTA = Literal["one", "flips", "dihedral"]
"""The input as it is; and mirrored left to right; and both turned by 90, 180 and 270 degrees: 1, 2 or 8 inputs."""

SIDES: dict[TTA, tuple[tuple[int, bool], ...]] = {
    "one": ((0, False),),
    "flips": ((0, False), (0, True)),
    "dihedral": tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}
"""Quarter turns, and whether mirrored after them, of each view; the upright one comes first."""


def averaged(runner: Runner, tta: TTA) -> Runner:
    """A runner whose maps, bias and scores are means over views of each input; its cost is that of so many inputs.

    Every view's maps are turned back before the mean, so where ``map.sum() + bias`` is the score of one view, the mean
    map's sum and the mean bias are the mean score. Classes are chosen, and logits given, by the upright view.

    Args:
        runner: any engine.
        tta: see ``TTA``; "dihedral" suits pictures without an up and a down, such as those taken from above or
            through a microscope.

    Raises:
        MethodError: there is no such augmentation.
    """
    if tta not in get_args(TTA):
        raise MethodError(f"tta: expected one of {', '.join(get_args(TTA))}; got {tta!r}")
    return runner if tta == "one" else _Averaged(runner, tta)


@dataclass(frozen=True)
class _Averaged:
    """See ``averaged``."""

    runner: Runner
    tta: TTA

    def explain(self, batch: Any, classes: Classes, class_names: Sequence[str] | None) -> MapBatch:
        """The upright view's logits; the means of all views' maps, bias and scores."""
        turned = self.tta == "dihedral"
        if batch.ndim != 4 or (turned and batch.shape[2] != batch.shape[3]):
            wanted = "square pictures (B, C, S, S)" if turned else "pictures (B, C, H, W)"
            raise MethodError(f"tta: expected {wanted}, got {tuple(batch.shape)}; take fewer views")
        upright = self.runner.explain(batch, classes, class_names)
        if isinstance(classes, int | np.integer):
            classes = upright.targets.ids
        total, sides = _sums(upright), SIDES[self.tta]
        for turns, mirrored in sides[1:]:
            made = self.runner.explain(transformed(batch, turns, mirrored), classes, class_names)
            total = [a + b for a, b in zip(total, _sums(made, turns, mirrored), strict=True)]
        maps, bias, scores = ((part / len(sides)).astype(np.float32) for part in total)
        return replace(upright, maps=maps, bias=bias, scores=scores)

    def predict(self, batch: Any) -> NDArray[np.float32]:
        """Logits (B, K) of the upright view."""
        return self.runner.predict(batch)

    def facts(self, batch: Any) -> Facts:
        """What is known of the model."""
        return self.runner.facts(batch)


def _sums(made: MapBatch, turns: int = 0, mirrored: bool = False) -> list[NDArray[np.float64]]:
    """What is averaged, the maps as those of the upright view: maps, bias, scores."""
    return [part.astype(np.float64) for part in (undone(made.maps, turns, mirrored), made.bias, made.scores)]


def transformed(batch: Any, turns: int, mirrored: bool) -> Any:
    """A batch (B, C, H, W), array or tensor, turned by quarters and then mirrored."""
    view = _mirrored(_turned(batch, turns), mirrored)
    return np.ascontiguousarray(view) if isinstance(view, np.ndarray) else view


def undone(maps: Any, turns: int, mirrored: bool) -> Any:
    """MapBatch (B, T, h, w), array or tensor, of inputs so seen, laid as those of the upright ones.

    >>> maps = np.arange(6.0).reshape(1, 1, 2, 3)
    >>> all((undone(transformed(maps, *side), *side) == maps).all() for side in SIDES["dihedral"])
    True
    """
    return _turned(_mirrored(maps, mirrored), -turns)


def _turned(values: Any, turns: int) -> Any:
    return np.rot90(values, turns, (2, 3)) if isinstance(values, np.ndarray) else values.rot90(turns, (2, 3))


def _mirrored(values: Any, mirrored: bool) -> Any:
    if not mirrored:
        return values
    return values[..., ::-1] if isinstance(values, np.ndarray) else values.flip(-1)
