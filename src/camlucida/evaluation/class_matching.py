"""Which of the model's logits each class of the data is, by name; and where a class stands among all logits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import TargetError
from camlucida.metrics.checks import ranks
from camlucida.targets import find_class

_SHOWN = 12


def class_ids(
    classes: Sequence[str], needed: Iterable[int], class_names: Sequence[str] | None, logits: int
) -> dict[int, int]:
    """The model's class of each class of the data that is needed: same name, or same case-blind name, or a synonym.

    The model may know more classes than the data has; they stay rivals in the ranking. Where its ``class_names`` are
    not known, the data's order is taken if the counts agree; a single logit is two classes.

    Raises:
        TargetError: a class is missing, or two are one to the model; the message lists both sides.

    >>> class_ids(("cat", "dog"), [0, 1], ("ant", "Dog", "cat"), 3)
    {0: 2, 1: 1}
    """
    count = max(logits, 2)
    if class_names is None:
        if len(classes) == count:
            return {label: label for label in needed}
        raise TargetError(
            f"the model has {count} classes without names and the data has {len(classes)} ({_listed(classes)}); "
            "give the model's labels, or data with as many classes in the same order"
        )
    ids: dict[int, int] = {}
    missing = []
    for label in dict.fromkeys(needed):
        try:
            ids[label] = find_class(classes[label], logits, class_names)
        except TargetError:
            missing.append(classes[label])
    if missing:
        raise TargetError(
            f"the model does not know the data's {'class' if len(missing) == 1 else 'classes'} {_listed(missing)} "
            f"by one name; the data has {_listed(classes)}; the model has {_listed(class_names)}"
        )
    if len(set(ids.values())) < len(ids):
        twice = [classes[label] for label, own in ids.items() if list(ids.values()).count(own) > 1]
        raise TargetError(f"the data's classes {_listed(twice)} are one class to the model; rename them")
    return ids


def both_logits(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits (K,), where a single one stands for two classes."""
    return np.concatenate([-logits, logits]) if logits.size == 1 else logits


def ranks_of(logits: NDArray[np.float32], ids: Sequence[int]) -> list[int]:
    """The place of classes among all logits (K,) of one picture, 0 the likeliest; equal ones rank by number.

    >>> ranks_of(np.array([0.5, 2.0, 0.5], np.float32), [0, 1, 2])
    [1, 0, 2]
    """
    own = np.array(ids, np.int64)
    places: list[int] = ranks(own, np.tile(both_logits(logits), (len(own), 1)), None).tolist()
    return places


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
