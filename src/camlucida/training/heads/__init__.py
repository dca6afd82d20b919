"""Heads by name: one visible dict. Add your own: a subclass of ``Head`` and a line here."""

from __future__ import annotations

import importlib
import inspect

from camlucida.errors import TrainingError
from camlucida.training.config import split_spec
from camlucida.training.heads.head import Head, Step, criterion

__all__ = ["HEADS", "Head", "Step", "criterion", "find_head", "make_head"]

HEADS: dict[str, str] = {
    "gap": "camlucida.training.heads.pooling:GAP",
    "gmp": "camlucida.training.heads.pooling:GMP",
    "lse": "camlucida.training.heads.pooling:LSE",
    "gem": "camlucida.training.heads.pooling:GeM",
    "sum": "camlucida.training.heads.pooling:Sum",
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
    name, options = split_spec(spec)
    if name not in HEADS:
        raise TrainingError(f"head: there is no {name!r}; expected one of {', '.join(HEADS)}")
    module, _, attribute = HEADS[name].partition(":")
    kind: type[Head] = getattr(importlib.import_module(module), attribute)
    known = list(inspect.signature(kind).parameters)[3:]
    for option in options:
        if option not in known:
            raise TrainingError(f"head: {name} has no option {option!r}; it has {', '.join(known) or 'none'}")
    return kind, options


def make_head(spec: str, channels: int, classes: int, grid_hw: tuple[int, int]) -> Head:
    """Build a head for features (B, channels, h, w) of which ``grid_hw`` is the usual h, w.

    Raises:
        TrainingError: see ``find_head``; or the head refuses an option's value.
    """
    kind, options = find_head(spec)
    return kind(channels, classes, grid_hw, **options)
