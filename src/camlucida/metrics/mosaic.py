"""The grid pointing game: which tile of a mosaic of pictures the map of one tile's class points at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.errors import CamlucidaError
from camlucida.metrics.checks import as_heatmaps, check_count
from camlucida.metrics.metric import Metric


class GridPointing(Metric):
    """Grid pointing game (Böhle, Fritz and Schiele, "Convolutional Dynamic Alignment Networks", CVPR 2021).

    Pictures of different classes are laid out in a square mosaic; the map of one tile's class should lie on that tile:
    Σ M⁺ on the tile over Σ M⁺ of the map M. The mean over maps; a map without positive values scores 0, an even one
    1 / tiles².

    Args:
        tiles: in a row and in a column of the mosaic, at least 2.

    >>> metric = GridPointing()
    >>> metric.update([[[3.0, 1.0], [0.0, -5.0]]], [0])
    >>> metric.compute()
    0.75
    """

    def __init__(self, tiles: int = 2) -> None:
        if tiles < 2:
            raise CamlucidaError(f"tiles: expected at least 2 in a row, got {tiles}")
        self.tiles = tiles
        self.counters = {"share": np.zeros(1), "images": np.zeros(1, np.int64)}

    def update(self, maps: ArrayLike | Sequence[ArrayLike], tiles: Sequence[int] | NDArray[np.int64]) -> None:
        """Count some maps.

        Args:
            maps: real (N, h, w), or a list of h×w, over the whole mosaic: at the network's own grid, or laid over it.
                Cells on the border of two tiles count for both, each by the area that lies on it.
            tiles: int (N,), the tile of each map's class, in reading order from 0.
        """
        checked = as_heatmaps(maps)
        check_count("tiles", tiles, len(checked))
        shares = np.zeros(len(checked))
        for i, heatmap in enumerate(checked):
            if not 0 <= tiles[i] < self.tiles**2:
                raise CamlucidaError(f"tiles: image {i}: expected 0 to {self.tiles**2 - 1}, got {tiles[i]}")
            energy = np.maximum(heatmap.astype(np.float64), 0.0)
            total = energy.sum()
            if total > 0:
                row, column = divmod(int(tiles[i]), self.tiles)
                down, across = (
                    _covered(cells, at, self.tiles) for cells, at in zip(heatmap.shape, (row, column), strict=True)
                )
                shares[i] = down @ energy @ across / total
        self.counters["share"] += shares.sum()
        self.counters["images"] += len(checked)

    def compute(self) -> float:
        """The mean share so far; raises CamlucidaError before the first map."""
        return float(self.counters["share"].item() / self.images)


def _covered(cells: int, at: int, tiles: int) -> NDArray[np.float64]:
    """Which share of each cell along an axis lies in the tile."""
    edges = np.arange(cells + 1) * (tiles / cells)
    share: NDArray[np.float64] = np.clip(edges[1:], at, at + 1) - np.clip(edges[:-1], at, at + 1)
    return share * (cells / tiles)
