"""Does a map point at the object: its maximum, or its energy; or at its tile of a mosaic.

Heatmaps are real arrays H×W, signed, in any unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camlucida.errors import CamlucidaError
from camlucida.metrics.checks import as_classes, as_heatmaps, as_region, check_count
from camlucida.metrics.metric import NOTHING_COUNTED, Heatmaps, Metric, summed


class PointingGame(Metric):
    """The pointing game (Zhang et al., ECCV 2016) as TorchRay plays it: the mean over classes of the share of hits.

    A hit: the map's maximum (of equal ones, the first in reading order) is less than `tolerance` pixels from the
    object.

    Args:
        tolerance: pixels, above 0.

    >>> metric = PointingGame()
    >>> metric.update(np.eye(40)[None, :1] * [[0.0], [1.0]], [[[14, 0, 20, 2]]], [3])
    >>> metric.compute()
    1.0
    """

    def __init__(self, tolerance: float = 15) -> None:
        if not tolerance > 0:
            raise CamlucidaError(f"tolerance: expected pixels above 0, got {tolerance}")
        self.tolerance = tolerance
        self.counters = {"hits": np.zeros(0, np.int64), "images": np.zeros(0, np.int64)}

    def update(self, heatmaps: Heatmaps, truth: Sequence[ArrayLike], classes: ArrayLike) -> None:
        """Count some maps: heatmaps (N, H, W); truth a bool H×W mask or boxes (M, 4) for each; int classes (N,)."""
        maps, true = as_heatmaps(heatmaps), as_classes(classes)
        check_count("truth", truth, len(maps))
        check_count("classes", true, len(maps))
        hits = np.zeros(len(maps), np.int64)
        for i, heatmap in enumerate(maps):
            y, x = np.nonzero(as_region(truth[i], heatmap.shape, i))
            row, column = divmod(int(heatmap.argmax()), heatmap.shape[1])
            hits[i] = np.any((y - row) ** 2 + (x - column) ** 2 < self.tolerance**2)
        size = int(true.max(initial=-1)) + 1
        self.counters["hits"] = summed(self.counters["hits"], np.bincount(true, hits, size).astype(np.int64))
        self.counters["images"] = summed(self.counters["images"], np.bincount(true, minlength=size))

    def compute(self) -> float:
        """The mean over the classes seen so far; raises CamlucidaError before the first map."""
        known = self.counters["images"] > 0
        if not known.any():
            raise CamlucidaError(NOTHING_COUNTED)
        return float((self.counters["hits"][known] / self.counters["images"][known]).mean())


class EnergyPointing(Metric):
    """Energy-based pointing game (Wang et al., Score-CAM, 2020): Σ M⁺ in the object over Σ M⁺ of the map M.

    The mean over maps; a map without positive values scores 0.

    >>> metric = EnergyPointing()
    >>> metric.update(np.array([[[3.0, 1.0, -5.0]]]), [[[0, 0, 1, 1]]])
    >>> metric.compute()
    0.75
    """

    def __init__(self) -> None:
        self.counters = {"share": np.zeros(1), "images": np.zeros(1, np.int64)}

    def update(self, heatmaps: Heatmaps, truth: Sequence[ArrayLike]) -> None:
        """Count some maps: heatmaps (N, H, W); truth one bool H×W mask or one (M, 4) array of boxes a map."""
        maps = as_heatmaps(heatmaps)
        check_count("truth", truth, len(maps))
        shares = np.zeros(len(maps))
        for i, heatmap in enumerate(maps):
            region = as_region(truth[i], heatmap.shape, i)
            energy = np.maximum(heatmap.astype(np.float64), 0.0)
            total = energy.sum()
            shares[i] = energy[region].sum() / total if total > 0 else 0.0
        self.counters["share"] += shares.sum()
        self.counters["images"] += len(maps)

    def compute(self) -> float:
        """The mean share so far; raises CamlucidaError before the first map."""
        return float(self.counters["share"].item() / self.images)


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

    def update(self, maps: Heatmaps, tiles: Sequence[int] | NDArray[np.int64]) -> None:
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
