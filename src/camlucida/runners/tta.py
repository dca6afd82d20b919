"""MapBatch averaged over mirrored and turned inputs: steadier than what a network says of one view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import MethodError
from camlucida.images.symmetries import SIDES, TTA, transformed, undone
from camlucida.runners.runner import Facts, MapBatch, Runner, with_arguments
from camlucida.targets import Classes


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

    def with_arguments(self, *arguments: Any) -> Runner:
        """For a model that takes more than pictures."""
        return _Averaged(with_arguments(self.runner, *arguments), self.tta)

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
            other = self.runner.explain(transformed(batch, turns, mirrored), classes, class_names)
            total = [a + b for a, b in zip(total, _sums(other, turns, mirrored), strict=True)]
        maps, bias, scores = ((part / len(sides)).astype(np.float32) for part in total)
        return replace(upright, maps=maps, bias=bias, scores=scores)

    def predict(self, batch: Any) -> NDArray[np.float32]:
        """Logits (B, K) of the upright view."""
        return self.runner.predict(batch)

    def facts(self, batch: Any) -> Facts:
        """What is known of the model."""
        return self.runner.facts(batch)


def _sums(maps: MapBatch, turns: int = 0, mirrored: bool = False) -> list[NDArray[np.float64]]:
    """What is averaged, the maps as those of the upright view: maps, bias, scores."""
    return [part.astype(np.float64) for part in (undone(maps.maps, turns, mirrored), maps.bias, maps.scores)]
