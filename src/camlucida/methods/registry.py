"""The one registry of methods. A family's file declares its methods with ``@method(...)``; nothing else lists them."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from camlucida.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor

    from camlucida.pytorch.engine import Pass
    from camlucida.targets import Targets

FAMILIES = (
    "linear",
    "gradient",
    "path",
    "inputs",
    "perturbation",
    "blackbox",
    "features",
    "decomposition",
    "attention",
    "baselines",
)
"""The modules of this package that declare methods. They import torch only inside their functions."""


class Maps(NamedTuple):
    """What a method makes of a pass.

    Attributes:
        maps: (B, T, *grid), signed.
        bias: (B, T), for decompositions of the score: ``maps.sum() + bias`` is meant to be it. None for other maps.
        scores: (B, T), what the maps explain where that is not the targets' own score.
    """

    maps: Tensor
    bias: Tensor | None
    scores: Tensor | None = None


Compute: TypeAlias = "Callable[[Pass, Targets], Maps]"
"""A method: what it makes of a pass for the targets. Options beyond these have defaults; set them with ``partial``."""


@dataclass(frozen=True)
class Method:
    """A published method.

    Attributes:
        name: what users type.
        summary: the formula in a line.
        paper: where it comes from.
        unit: of the map's values; "logits per cell" where ``map.sum() + bias`` is the score.
        compute: the method itself.
    """

    name: str
    summary: str
    paper: str
    unit: str
    compute: Compute


METHODS: dict[str, Method] = {}


def method(name: str, *, summary: str, paper: str, unit: str = "logits per cell") -> Callable[[Compute], Compute]:
    """Register a function ``(pass, targets) -> Maps`` as a method."""

    def declare(compute: Compute) -> Compute:
        METHODS[name] = Method(name, summary, paper, unit, compute)
        return compute

    return declare


def all_methods() -> dict[str, Method]:
    """Every method by name."""
    for family in FAMILIES:
        if importlib.util.find_spec(f"camlucida.methods.{family}") is not None:
            importlib.import_module(f"camlucida.methods.{family}")
    return METHODS


def find_method(name: str | Compute) -> Method:
    """The method of this name, or the one that a function (also inside ``partial``) is; a function of the user's own
    is a method of its own name, whose maps have no unit.

    Raises:
        MethodError: there is none; the message lists near names.

    Example:
        >>> find_method("cam").unit
        'logits per cell'
    """
    known = all_methods()
    if callable(name):
        bare = getattr(name, "func", name)
        for one in known.values():
            if one.compute is bare:
                return replace(one, compute=name)
        return Method(
            getattr(bare, "__name__", "own"), "a function of the user's own", "", getattr(bare, "unit", "its own"), name
        )
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, 3, 0.4) or sorted(known)
    raise MethodError(f"there is no method {name!r}; did you mean {', '.join(near)}? See: camlucida methods")
