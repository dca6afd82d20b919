"""Metrics: each one validates, counts in `update(...)` as often as you like, merges with `+`, ends in `compute()`.

Their counters are plain arrays in `metric.counters`, so one metric serves a loop, several processes, or a cluster.
"""

from camlucida.boxes.overlaps import box_overlaps, part_overlaps
from camlucida.metrics.localization import BoxAccuracy, Localization, LocalizationScores, MaxBoxAcc, PxAP
from camlucida.metrics.metric import Metric
from camlucida.metrics.overlap import BestLocalization, BoxExtents, Extents, MaskIoU, MaxLocalization, MaxMaskIoU
from camlucida.metrics.pointing import EnergyPointing, GridPointing, PointingGame

__all__ = ["BestLocalization", "BoxAccuracy", "BoxExtents", "EnergyPointing", "Extents", "GridPointing", "Localization",
           "LocalizationScores", "MaskIoU", "MaxBoxAcc", "MaxLocalization", "MaxMaskIoU", "Metric", "PointingGame",
           "PxAP", "box_overlaps", "part_overlaps"]  # fmt: skip
