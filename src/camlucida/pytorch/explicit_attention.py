"""Attention written out in plain matrix products, for what fused kernels cannot do: be seen, mapped, derived twice."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from camlucida.pytorch.tape import name_of


class ExplicitAttention(TorchFunctionMode):
    """Runs every fused attention as softmax and products. Local to the thread; leaves nothing on the model.

    Args:
        on_weights: called with every softmax over the last axis that gives square matrices (B, heads, L, L) or
            (B·heads, L, L), whatever call made it.
    """

    def __init__(self, on_weights: Callable[[Tensor], None] | None = None) -> None:
        super().__init__()
        self._on_weights = on_weights

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the call; fused attention in its explicit form."""
        kwargs = kwargs or {}
        name = name_of(func)
        if name == "multi_head_attention_forward":
            return self._multi_head(func, args, kwargs)
        if name == "scaled_dot_product_attention":
            weights, output = explicit_attention(*args, **kwargs)
            self._show(weights)
            return output
        result = func(*args, **kwargs)
        if name == "softmax" and isinstance(result, Tensor):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if dim in (-1, result.ndim - 1):
                self._show(result)
        return result

    def _show(self, weights: Tensor) -> None:
        if self._on_weights is not None and weights.ndim in (3, 4) and weights.shape[-1] == weights.shape[-2]:
            self._on_weights(weights)

    def _multi_head(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Asked for the weights of each head, torch takes the way of matrix products."""
        call = inspect.signature(func).bind(*args, **kwargs)
        call.apply_defaults()
        wanted, averaged = call.arguments["need_weights"], call.arguments["average_attn_weights"]
        call.arguments.update(need_weights=True, average_attn_weights=False)
        output, weights = func(*call.args, **call.kwargs)
        # The weights are a view that nothing reads; gradients run through the tensor that it is a view of.
        self._show(weights if weights._base is None else weights._base)
        return output, (weights.mean(-3) if averaged else weights) if wanted else None


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """``F.scaled_dot_product_attention`` in its parts: softmax(q kᵀ · scale + mask), and that times v.

    Dropout is left out: maps are of networks in evaluation.

    Returns:
        The weights (..., L, S) and the output (..., L, E).

    Example:
        >>> q, k, v = torch.rand(3, 1, 2, 4, 8)
        >>> weights, output = explicit_attention(q, k, v)
        >>> torch.allclose(output, torch.nn.functional.scaled_dot_product_attention(q, k, v), atol=1e-6)
        True
    """
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    logits = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
    weights = logits.softmax(-1)
    return weights, weights @ value


def map_over_batches(function: Callable[[Tensor], Tensor], batches: Tensor) -> Tensor:
    """``function`` of each of ``batches`` (n, B, …), stacked: (n, B, K).

    At once by ``torch.func.vmap``; one after the other where a call in the function cannot be mapped. The function
    keeps seeing batches of B, a size that a recorded head may have in it.

    Example:
        >>> map_over_batches(lambda x: x.sum(1, keepdim=True), torch.ones(2, 3, 4)).shape
        torch.Size([2, 3, 1])
    """
    try:
        with ExplicitAttention():
            stacked: Tensor = torch.func.vmap(function)(batches)
    except RuntimeError:
        stacked = torch.stack([function(batch) for batch in batches])
    return stacked
