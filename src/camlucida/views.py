"""Maps averaged over mirrored and turned inputs: steadier than what a network says of one view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import MethodError
from camlucida.runner import Facts, Maps, Runner
from camlucida.targets import Classes

Views = Literal["one", "flips", "dihedral"]
"""The input as it is; and mirrored left to right; and both turned by 90, 180 and 270 degrees: 1, 2 or 8 inputs."""


def seen_from(runner: Runner, views: Views) -> Runner:
    """A runner whose maps, bias and scores are means over views of each input; its cost is that of so many inputs.

    Every view's maps are turned back before the mean, so where ``map.sum() + bias`` is the score of one view, the mean
    map's sum and the mean bias are the mean score. Classes are chosen, and logits given, by the upright view.

    Args:
        runner: any engine.
        views: see ``Views``; "dihedral" suits pictures without an up and a down, such as those taken from above or
            through a microscope.

    Raises:
        MethodError: there are no such views.
    """
    if views not in get_args(Views):
        raise MethodError(f"views: expected one of {', '.join(get_args(Views))}; got {views!r}")
    return runner if views == "one" else _FromSides(runner, 1 if views == "flips" else 4)


@dataclass(frozen=True)
class _FromSides:
    """See ``seen_from``; ``turns`` quarter turns, each also mirrored."""

    runner: Runner
    turns: int

    def explain(self, batch: Any, classes: Classes, labels: Sequence[str] | None) -> Maps:
        """The upright view's logits; the means of all views' maps, bias and scores."""
        if batch.ndim != 4 or (self.turns > 1 and batch.shape[2] != batch.shape[3]):
            wanted = "square pictures (B, C, S, S)" if self.turns > 1 else "pictures (B, C, H, W)"
            raise MethodError(f"views: expected {wanted}, got {tuple(batch.shape)}; take fewer views")
        upright = self.runner.explain(batch, classes, labels)
        if isinstance(classes, int | np.integer):
            classes = upright.targets.ids
        total = _sums(upright)
        for turn in range(self.turns):
            for mirrored in (False, True):
                if turn or mirrored:
                    made = self.runner.explain(_seen(batch, turn, mirrored), classes, labels)
                    total = [a + b for a, b in zip(total, _sums(made, turn, mirrored), strict=True)]
        maps, bias, scores = ((part / (2 * self.turns)).astype(np.float32) for part in total)
        return replace(upright, maps=maps, bias=bias, scores=scores)

    def predict(self, batch: Any) -> NDArray[np.float32]:
        """Logits (B, K) of the upright view."""
        return self.runner.predict(batch)

    def facts(self, batch: Any) -> Facts:
        """What is known of the model."""
        return self.runner.facts(batch)


def _sums(made: Maps, turn: int = 0, mirrored: bool = False) -> list[NDArray[np.float64]]:
    """What is averaged, the maps as those of the upright view: maps, bias, scores."""
    return [part.astype(np.float64) for part in (_turned_back(made.maps, turn, mirrored), made.bias, made.scores)]


def _seen(batch: Any, turn: int, mirrored: bool) -> Any:
    """A batch (B, C, H, W), array or tensor, turned by quarters and then mirrored."""
    if isinstance(batch, np.ndarray):
        turned = np.rot90(batch, turn, (2, 3))
        return np.ascontiguousarray(turned[..., ::-1] if mirrored else turned)
    turned = batch.rot90(turn, (2, 3))
    return turned.flip(-1) if mirrored else turned


def _turned_back(maps: NDArray[np.float32], turn: int, mirrored: bool) -> NDArray[np.float32]:
    """Maps (B, T, h, w) of inputs so seen, laid as those of the upright ones.

    >>> maps = np.arange(6.0).reshape(1, 1, 2, 3)
    >>> all((_turned_back(_seen(maps, t, m), t, m) == maps).all() for t in range(4) for m in (False, True))
    True
    """
    return np.rot90(maps[..., ::-1] if mirrored else maps, -turn, (2, 3))
