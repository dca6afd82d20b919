"""A function of one batch, mapped over many batches at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from camlucida.pytorch.attention_weights import written_out


class _PlainAttention(TorchFunctionMode):
    """Attention by matrix products: the fused kernels cannot be mapped. Local to the thread."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return written_out(*args, **kwargs)[1]
        if func is F.multi_head_attention_forward and kwargs.get("need_weights") is False:
            output, _ = func(*args, **{**kwargs, "need_weights": True})  # which takes the way of matrix products
            return output, None
        return func(*args, **kwargs)


def mapped(function: Callable[[Tensor], Tensor], batches: Tensor) -> Tensor:
    """``function`` of each of ``batches`` (n, B, …), stacked: (n, B, K).

    At once by ``torch.func.vmap``; one after the other where a call in the function cannot be mapped. The function
    keeps seeing batches of B, a size that a recorded head may have in it.

    Example:
        >>> mapped(lambda x: x.sum(1, keepdim=True), torch.ones(2, 3, 4)).shape
        torch.Size([2, 3, 1])
    """
    try:
        with _PlainAttention():
            made: Tensor = torch.func.vmap(function)(batches)
    except RuntimeError:
        made = torch.stack([function(one) for one in batches])
    return made
