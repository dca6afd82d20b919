"""Heads by name: one visible dict. Add your own: a subclass of ``Head`` and a line here."""

from __future__ import annotations

from camlucida.training.config import find_registered
from camlucida.training.heads.base_head import Criterion, Head

__all__ = ["HEADS", "Criterion", "Head", "find_head", "make_head"]

HEADS: dict[str, str] = {
    "gap": "camlucida.training.heads.pooling:GAP",
    "gmp": "camlucida.training.heads.pooling:GMP",
    "lse": "camlucida.training.heads.pooling:LSE",
    "gem": "camlucida.training.heads.pooling:GeM",
    "sum": "camlucida.training.heads.pooling:SumPooling",
    "fc": "camlucida.training.heads.pooling:FullyConnected",
    "acol": "camlucida.training.heads.acol:ACoL",
    "spg": "camlucida.training.heads.spg:SPG",
    "tscam": "camlucida.training.heads.tscam:TSCAM",
}
"""Name -> ``module:class``."""


def find_head(spec: str) -> tuple[type[Head], dict[str, float]]:
    """The class and the options that ``name:option=number,…`` means.

    Raises:
        TrainingError: there is no such head, or it has no such option.

    >>> find_head("lse:r=10")[1]
    {'r': 10.0}
    """
    return find_registered("head", HEADS, spec, positional=3)


def make_head(spec: str, channels: int, classes: int, grid_hw: tuple[int, int]) -> Head:
    """Build a head for features (B, channels, h, w) of which ``grid_hw`` is the usual h, w.

    Raises:
        TrainingError: see ``find_head``; or the head refuses an option's value.
    """
    kind, options = find_head(spec)
    return kind(channels, classes, grid_hw, **options)
