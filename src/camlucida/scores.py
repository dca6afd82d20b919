"""Scores on the logits beyond the classes' own: give them as ``classes``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from camlucida.errors import TargetError
from camlucida.targets import Activation

if TYPE_CHECKING:
    from torch import Tensor

    Score = Callable[[Tensor], Tensor]


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
        wide = _both(logits, class_id)
        several = activation == "sigmoid" and wide is logits
        return wide[:, class_id].sigmoid() if several else wide.softmax(1)[:, class_id]

    return _named(score, f"probability of class {class_id}")


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

        wide = _both(logits, class_id)
        others = torch.arange(wide.shape[1], device=wide.device) != class_id
        return wide[:, class_id] - wide[:, others].logsumexp(1)

    return _named(score, f"log-odds of class {class_id}")


def _named(score: Score, name: str) -> Score:
    score.__name__ = name
    return score


def _both(logits: Any, class_id: int) -> Tensor:
    """Logits of all classes, (B, K): a single logit z as the two whose softmax is its sigmoid, -z/2 and z/2."""
    import torch

    if not isinstance(logits, torch.Tensor):
        raise TargetError("the score is not linear in the logits, so it needs gradients; use a PyTorch model for it")
    wide = torch.cat((-logits / 2, logits / 2), 1) if logits.shape[1] == 1 else logits
    if isinstance(class_id, bool) or not isinstance(class_id, int) or not 0 <= class_id < wide.shape[1]:
        raise TargetError(f"class {class_id!r} does not exist; the model has classes 0 to {wide.shape[1] - 1}")
    return wide
