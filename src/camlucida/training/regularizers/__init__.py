"""Regularizers by name: one visible dict. Add your own: a subclass of ``Regularizer`` and a line here."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import fields

from camlucida.errors import TrainingError
from camlucida.training.config import split_spec
from camlucida.training.regularizers.regularizer import Regularizer

__all__ = ["REGULARIZERS", "Regularizer", "make_regularizers"]

REGULARIZERS: dict[str, str] = {
    "has": "camlucida.training.regularizers.has:HaS",
    "adl": "camlucida.training.regularizers.adl:ADL",
    "cutmix": "camlucida.training.regularizers.cutmix:CutMix",
}
"""Name -> ``module:class``."""


def make_regularizers(specs: Sequence[str]) -> tuple[Regularizer, ...]:
    """Build the regularizers that names with options mean, in the order in which they are to be applied.

    Args:
        specs: each ``name`` or ``name:option=number,…``.

    Raises:
        TrainingError: there is no such regularizer or option, it is named twice, or it refuses a value.

    >>> make_regularizers(["has:rate=0.25", "adl"])
    (HaS(rate=0.25, parts=0), ADL(rate=0.75, threshold=0.9))
    """
    made: dict[str, Regularizer] = {}
    for spec in specs:
        name, options = split_spec(spec)
        if name not in REGULARIZERS:
            raise TrainingError(f"regularizer: there is no {name!r}; expected one of {', '.join(REGULARIZERS)}")
        if name in made:
            raise TrainingError(f"regularizer: {name} is named twice; give its options once, as {name}:option=number")
        module, _, attribute = REGULARIZERS[name].partition(":")
        kind = getattr(importlib.import_module(module), attribute)
        known = [field.name for field in fields(kind)]
        for option in options:
            if option not in known:
                raise TrainingError(f"regularizer: {name} has no option {option!r}; it has {', '.join(known)}")
        made[name] = kind(**options)
    return tuple(made.values())
