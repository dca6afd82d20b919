"""Heads by name: one visible dict. Add your own: a subclass of ``Head`` and a line here."""

from __future__ import annotations

from camlucida.training.config import find_registered
from camlucida.training.heads.base_head import Criterion, Head
from camlucida.training.heads.pooling import GAP, GMP, LSE, FullyConnected, GeM, SumPooling
from camlucida.training.heads.wsol_heads import SPG, TSCAM, ACoL

__all__ = ["HEADS", "Criterion", "Head", "find_head", "make_head"]

HEADS: dict[str, type[Head]] = {
    "gap": GAP, "gmp": GMP, "lse": LSE, "gem": GeM, "sum": SumPooling, "fc": FullyConnected, "acol": ACoL, "spg": SPG,
    "tscam": TSCAM,
}  # fmt: skip


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
