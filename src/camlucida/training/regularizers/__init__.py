"""Regularizers by name: one visible dict. Add your own: a subclass of ``Regularizer`` and a line here."""

from __future__ import annotations

from collections.abc import Sequence

from camlucida.errors import TrainingError
from camlucida.training.config import find_registered
from camlucida.training.regularizers.adl import ADL
from camlucida.training.regularizers.cutmix import CutMix
from camlucida.training.regularizers.has import HaS
from camlucida.training.regularizers.regularizer import Regularizer

__all__ = ["REGULARIZERS", "Regularizer", "make_regularizers"]

REGULARIZERS: dict[str, type[Regularizer]] = {"has": HaS, "adl": ADL, "cutmix": CutMix}


def make_regularizers(specs: Sequence[str]) -> tuple[Regularizer, ...]:
    """Build the regularizers that ``name`` or ``name:option=number,…`` mean, in the order in which they are applied.

    Raises:
        TrainingError: there is no such regularizer or option, it is named twice, or it refuses a value.

    >>> make_regularizers(["has:rate=0.25", "adl"])
    (HaS(rate=0.25, parts=0), ADL(rate=0.75, threshold=0.9))
    """
    found: dict[type[Regularizer], Regularizer] = {}
    for spec in specs:
        kind, options = find_registered("regularizer", REGULARIZERS, spec)
        if kind in found:
            name = spec.partition(":")[0]
            raise TrainingError(f"regularizer: {name} is named twice; give its options once, as {name}:option=number")
        found[kind] = kind(**options)
    return tuple(found.values())
