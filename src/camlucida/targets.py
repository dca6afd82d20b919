"""What is to be explained: classes, a contrast of two, or any score on the logits; and probabilities."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import TargetError

if TYPE_CHECKING:
    from torch import Tensor

Score: TypeAlias = "Callable[[Tensor], Tensor]"
"""Logits (B, K) to the scores to explain, (B, T) or (B,). Differentiable."""

Activation = Literal["softmax", "sigmoid", "none"]
"""How logits become probabilities; "none": they do not."""


OutputName: TypeAlias = str | int | None
"""Which of the tensors that a model returns are its logits: a name, a path ("0.logits"), a place; None finds them."""


@dataclass(frozen=True)
class Expected:
    """What is known of a model's logits before it runs.

    Attributes:
        output: what the user says.
        named: how many class names there are; None if there are none.
        declared: how many classes the model's own attributes declare; these may be mere defaults.
    """

    output: OutputName = None
    named: int | None = None
    declared: int | None = None


@dataclass(frozen=True)
class Contrast:
    """Why ``this`` and not ``that``: the difference of two logits, explained by the difference of two maps.

    Args:
        this: a class, by id or name.
        that: the class it is held against.
    """

    this: int | str
    that: int | str


Classes = int | str | Contrast | Sequence[int | str | Contrast] | NDArray[np.integer] | Callable[[Any], Any]
"""A count (the top-k), "all", a name, names, ids, contrasts, an (N, T) array of ids, or a score on the logits."""


@dataclass(frozen=True, eq=False)
class Targets:
    """The scores to explain for one batch: linear in the logits by ``weights``, or any function ``score`` of them.

    Attributes:
        ids: (B, T) class ids; -1 where a score is not one class's.
        names: one tuple of T names for each picture.
        weights: (B, T, K), the scores' coefficients on the logits; None for a general score, and for "all".
        score: the general score: logits (B, K) -> (B,) or (B, T); None otherwise.
        everything: all classes in their order, so that no selection is needed.
    """

    ids: NDArray[np.int64]
    names: tuple[tuple[str, ...], ...]
    weights: NDArray[np.float32] | None = None
    score: Callable[[Any], Any] | None = None
    everything: bool = False

    def first(self, count: int) -> Targets:
        """Those of the first inputs."""
        weights = None if self.weights is None else self.weights[:count]
        return replace(self, ids=self.ids[:count], names=self.names[:count], weights=weights)

    def of(self, logits: Any) -> Any:
        """The scores (B, T) of logits (B, K), a NumPy array or a torch tensor; differentiable."""
        if self.everything:
            return logits
        if self.weights is None:
            assert self.score is not None
            scores = self.score(logits)
            return scores[:, None] if scores.ndim == 1 else scores
        if isinstance(logits, np.ndarray):
            return np.einsum("btk,bk->bt", self.weights, logits)
        import torch

        if (self.ids >= 0).all() and logits.shape[1] > 1:
            return logits.gather(1, torch.from_numpy(self.ids).to(logits.device))
        return torch.einsum("btk,bk->bt", torch.from_numpy(self.weights).to(logits), logits)


def joined_targets(parts: Sequence[Targets]) -> Targets:
    """The targets of parts of a batch as one."""
    weights = [part.weights for part in parts if part.weights is not None]
    return replace(
        parts[0], ids=np.concatenate([part.ids for part in parts]),
        names=tuple(row for part in parts for row in part.names), weights=np.concatenate(weights) if weights else None,
    )  # fmt: skip


def plain_classes(classes: Any) -> Any:
    """Classes with tensors made what NumPy or Python has for them: ids, lists of ids, a row of ids for each input.

    Example:
        >>> plain_classes(np.array([1, 3])), plain_classes(np.array(2))
        ([1, 3], 2)
    """
    if hasattr(classes, "detach"):
        classes = classes.detach().cpu().numpy()
    if isinstance(classes, np.ndarray) and classes.ndim < 2:
        return classes.tolist()
    if isinstance(classes, list | tuple):
        return [each.item() if hasattr(each, "item") and np.ndim(each) == 0 else each for each in classes]
    return classes


def choose(classes: Classes, logits: Any, class_names: Sequence[str] | None) -> Targets:
    """Resolve classes, names or a score against one batch's logits.

    A single logit is two classes: 0 (its negative) and 1.

    Args:
        classes: see ``Classes``. A list of ids or names holds for every picture; an (N, T) array gives each its own.
        logits: (B, K), a NumPy array or a torch tensor; a score gets them as they are.
        class_names: names of the K classes (for a single logit, of both classes or of the positive one), if known.

    Raises:
        TargetError: a class does not exist, a name is unknown or ambiguous, a shape does not fit.

    Example:
        >>> choose(2, np.array([[0.1, 3.0, 2.0]]), ["ant", "bee", "cat"]).names
        (('bee', 'cat'),)
    """
    batch, width = logits.shape
    count = max(width, 2)
    classes = plain_classes(classes)
    if callable(classes):
        scores = np.asarray(_numpy(classes(logits)))
        if scores.shape[:1] != (batch,) or scores.ndim not in (1, 2):
            raise TargetError(
                f"the score gave shape {scores.shape} for logits {tuple(logits.shape)}; "
                f"expected ({batch},) or ({batch}, T)"
            )
        columns = 1 if scores.ndim == 1 else scores.shape[1]
        name = getattr(classes, "__name__", "score")
        names = tuple(f"{name} {t}" for t in range(columns)) if columns > 1 else (name,)
        return Targets(np.full((batch, columns), -1, np.int64), (names,) * batch, score=classes)
    logits = _numpy(logits)
    if isinstance(classes, str) and classes == "all" and width > 1:
        ids = np.tile(np.arange(count), (batch, 1))
        return Targets(
            ids, (tuple(class_name(int(i), class_names, width) for i in range(count)),) * batch, everything=True
        )
    if isinstance(classes, bool) or not isinstance(classes, Iterable | int | np.integer | Contrast):
        raise TargetError(f"classes: expected a count, ids, names, a contrast, 'all' or a score, got {classes}")
    if isinstance(classes, int | np.integer):
        if not 1 <= classes <= count:
            raise TargetError(f"classes={classes} asks for the top {classes}, but the model has {count} classes; "
                              f"for one class give its id in a list: [{classes}]")  # fmt: skip
        both = logits if width > 1 else np.concatenate((-logits, logits), 1)
        return _by_ids(np.argsort(-both, 1, kind="stable")[:, :classes].astype(np.int64), width, class_names)
    if isinstance(classes, np.ndarray) and classes.ndim == 2:
        if classes.shape[0] != batch or classes.dtype.kind not in "iu":
            raise TargetError(f"classes: expected integers of shape ({batch}, T), got {classes.dtype} {classes.shape}")
        return _by_ids(classes.astype(np.int64), width, class_names)
    if isinstance(classes, str):
        wanted: list[Any] = [*range(count)] if classes == "all" else [classes]
    else:
        wanted = [classes] if isinstance(classes, Contrast) else list(classes)
    if not wanted:
        raise TargetError("classes: the list is empty; give at least one class")
    rows = [_linear_score(score, width, class_names) for score in wanted]
    ids = np.tile(np.array([row[0] for row in rows], np.int64), (batch, 1))
    weights = np.tile(np.stack([row[1] for row in rows]), (batch, 1, 1))
    return Targets(ids, (tuple(row[2] for row in rows),) * batch, weights)


def class_name(class_id: int, class_names: Sequence[str] | None, width: int) -> str:
    """The name of a class, or its number where there are no names."""
    if width == 1 and class_names is not None and len(class_names) == 1:
        return (f"not {class_names[0]}", class_names[0])[class_id]
    if class_names is not None and class_id < len(class_names):
        return class_names[class_id]
    return ("negative", "positive")[class_id] if width == 1 else f"class {class_id}"


def default_activation(width: int) -> Activation:
    """What turns logits into probabilities where nobody says: sigmoid for a single logit, softmax for more."""
    return "sigmoid" if width == 1 else "softmax"


def settled_activation(asked: Activation | None, found: Activation | None, width: int) -> Activation:
    """What turns logits into probabilities: as asked, else as the model does it, else as usual.

    What are probabilities already (``found`` is "none") are never activated again.

    Example:
        >>> settled_activation(None, None, 1), settled_activation("softmax", "none", 5)
        ('sigmoid', 'none')
    """
    return "none" if found == "none" else asked or found or default_activation(width)


def logit_spread(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """What differences of logits (B, K) are measured by, (B,): maximum - minimum; for a single logit its size.

    1 where that is 0: logits that are all the same have no spread to compare with.

    Example:
        >>> logit_spread(np.array([[2.0, -1.0, 0.0], [4.0, 4.0, 4.0]]))
        array([3., 1.])
    """
    wide = logits.astype(np.float64)
    spread = np.ptp(wide, 1) if wide.shape[1] > 1 else np.abs(wide[:, 0])
    return np.where(spread > 0, spread, 1.0)


def probabilities(logits: NDArray[np.floating[Any]], activation: Activation) -> NDArray[np.float32]:
    """Probabilities of every class: (N, K) for (N, K) logits, and (N, 2) for a single logit.

    Example:
        >>> probabilities(np.array([[0.0]]), "sigmoid")
        array([[0.5, 0.5]], dtype=float32)
    """
    wide = logits.astype(np.float64)
    if activation == "none":
        return np.full((len(wide), max(2, wide.shape[1])), np.nan, np.float32)
    if wide.shape[1] == 1:
        wide = np.concatenate((-wide, wide), 1)
    if activation == "sigmoid" or logits.shape[1] == 1:
        return (0.5 * (1 + np.tanh(0.5 * wide))).astype(np.float32)
    shifted = np.exp(wide - wide.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True), np.float32)


def probability(class_id: int, activation: Activation = "softmax") -> Score:
    """The probability of a class, as a score.

    It saturates: near 0 and 1 its gradient, and so its map, vanishes; ``log_odds`` do not.

    Args:
        class_id: of K classes; 0 or 1 for a single logit, which is always a sigmoid's.
        activation: "sigmoid" for models with several labels at once.

    Returns:
        A differentiable function of logits (B, K), a torch tensor, to (B,) in [0, 1].

    Raises:
        TargetError: there is no such activation; from the score, that there is no such class or no torch tensor.

    Example:
        >>> import torch
        >>> probability(1)(torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
        tensor([0.5000, 0.8808])
    """
    if activation not in ("softmax", "sigmoid"):
        raise TargetError(f"probability: expected activation 'softmax' or 'sigmoid', got {activation!r}")

    def score(logits: Tensor) -> Tensor:
        wide = _two_logits(logits, class_id)
        several = activation == "sigmoid" and wide is logits
        return wide[:, class_id].sigmoid() if several else wide.softmax(1)[:, class_id]

    return _with_name(score, f"probability of class {class_id}")


def log_odds(class_id: int) -> Score:
    """The log-odds of a class, as a score: its logit against all the others at once.

    log p / (1 - p) = S_c - log Σ_{d≠c} exp S_d for the softmax probability p, exact also where p rounds to 1. For
    models with several labels at once (sigmoid) the logit is the log-odds already.

    Args:
        class_id: of K classes; 0 or 1 for a single logit.

    Returns:
        A differentiable function of logits (B, K), a torch tensor, to (B,).

    Raises:
        TargetError: from the score, there is no such class, or no torch tensor.

    Example:
        >>> import torch
        >>> log_odds(0)(torch.tensor([[3.0, 1.0]])), log_odds(1)(torch.tensor([[3.0]]))
        (tensor([2.]), tensor([3.]))
    """

    def score(logits: Tensor) -> Tensor:
        import torch

        wide = _two_logits(logits, class_id)
        others = torch.arange(wide.shape[1], device=wide.device) != class_id
        return wide[:, class_id] - wide[:, others].logsumexp(1)

    return _with_name(score, f"log-odds of class {class_id}")


def _with_name(score: Score, name: str) -> Score:
    score.__name__ = name
    return score


def _two_logits(logits: Any, class_id: int) -> Tensor:
    """Logits of all classes, (B, K): a single logit z as the two whose softmax is its sigmoid, -z/2 and z/2."""
    import torch

    if not isinstance(logits, torch.Tensor):
        raise TargetError("the score is not linear in the logits, so it needs gradients; use a PyTorch model for it")
    wide = torch.cat((-logits / 2, logits / 2), 1) if logits.shape[1] == 1 else logits
    if isinstance(class_id, bool) or not isinstance(class_id, int) or not 0 <= class_id < wide.shape[1]:
        raise TargetError(f"class {class_id!r} does not exist; the model has classes 0 to {wide.shape[1] - 1}")
    return wide


def _by_ids(ids: NDArray[np.int64], width: int, class_names: Sequence[str] | None) -> Targets:
    for class_id in np.unique(ids):
        _check_id(int(class_id), width)
    names = tuple(tuple(class_name(int(i), class_names, width) for i in row) for row in ids)
    weights = np.zeros((*ids.shape, width), np.float32)
    if width == 1:
        weights[..., 0] = np.where(ids == 1, 1, -1)
    else:
        np.put_along_axis(weights, ids[..., None], 1, 2)
    return Targets(ids, names, weights)


def _linear_score(score: Any, width: int, class_names: Sequence[str] | None) -> tuple[int, NDArray[np.float32], str]:
    """Id (or -1), coefficients on the logits, and name of one score."""
    if isinstance(score, Contrast):
        _, this, this_name = _linear_score(score.this, width, class_names)
        _, that, that_name = _linear_score(score.that, width, class_names)
        return -1, this - that, f"{this_name} - {that_name}"
    class_id = find_class(score, width, class_names) if isinstance(score, str) else score
    if isinstance(class_id, bool) or not isinstance(class_id, int | np.integer):
        raise TargetError(f"classes: expected ids (whole numbers), names or contrasts, got {score!r}")
    _check_id(int(class_id), width)
    weights = np.zeros(width, np.float32)
    weights[int(class_id) if width > 1 else 0] = 1 if width > 1 or class_id == 1 else -1
    return int(class_id), weights, class_name(int(class_id), class_names, width)


def find_class(name: str, width: int, class_names: Sequence[str] | None) -> int:
    """Find a class by its name: exactly, else ignoring case, else as one of a label's comma-separated synonyms.

    Raises:
        TargetError: no such name, or more than one.
    """
    known = [class_name(i, class_names, width) for i in range(max(width, 2))]
    for same in (
        lambda known_name: known_name == name,
        lambda known_name: known_name.casefold() == name.casefold(),
        lambda known_name: name.casefold() in (part.strip().casefold() for part in known_name.split(",")),
    ):
        ids = [i for i, known_name in enumerate(known) if same(known_name)]
        if len(ids) == 1:
            return ids[0]
        if ids:
            raise TargetError(f"class {name!r} is ambiguous: ids {ids[:5]} carry that name; give the id")
    near = difflib.get_close_matches(name, known, 3, 0.4)
    hint = f"did you mean {', '.join(map(repr, near))}?" if near else f"the first are {', '.join(known[:5])}"
    raise TargetError(f"the model has no class {name!r} among its {len(known)}; {hint}")


def _check_id(class_id: int, width: int) -> None:
    if not 0 <= class_id < max(width, 2):
        raise TargetError(f"class {class_id} does not exist; the model has classes 0 to {max(width, 2) - 1}")


def _numpy(values: Any) -> Any:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values
