"""Mirror images and quarter turns of a batch, and maps of them laid back: for test-time augmentation (TTA)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

TTA = Literal["one", "flips", "dihedral"]
"""The input as it is; and mirrored left to right; and both turned by 90, 180 and 270 degrees: 1, 2 or 8 inputs."""

SIDES: dict[TTA, tuple[tuple[int, bool], ...]] = {
    "one": ((0, False),),
    "flips": ((0, False), (0, True)),
    "dihedral": tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True)),
}
"""Quarter turns, and whether mirrored after them, of each augmentation's inputs; the upright one comes first."""


def transformed(batch: Any, turns: int, mirrored: bool) -> Any:
    """A batch (B, C, *space), array or tensor, turned by quarters (pictures alone), then mirrored left to right.

    An array is contiguous.
    """
    changed = _mirrored(_turned(batch, turns), mirrored)
    return np.ascontiguousarray(changed) if isinstance(changed, np.ndarray) else changed


def undone(maps: Any, turns: int, mirrored: bool) -> Any:
    """Maps (B, T, *grid), array or tensor, of inputs so transformed, laid as those of the upright ones.

    >>> maps = np.arange(6.0).reshape(1, 1, 2, 3)
    >>> all((undone(transformed(maps, *side), *side) == maps).all() for side in SIDES["dihedral"])
    True
    """
    return _turned(_mirrored(maps, mirrored), -turns)


def _turned(values: Any, turns: int) -> Any:
    if not turns:
        return values
    return np.rot90(values, turns, (2, 3)) if isinstance(values, np.ndarray) else values.rot90(turns, (2, 3))


def _mirrored(values: Any, mirrored: bool) -> Any:
    if not mirrored:
        return values
    return values[..., ::-1] if isinstance(values, np.ndarray) else values.flip(-1)
