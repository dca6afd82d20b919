"""Batch normalization over all processes, on any device: torch's own refuses the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class SyncedNormalization(TorchFunctionMode):
    """While it is on, every batch normalization in training takes its statistics over the batches of all processes.

    It meets the call, not the module, so that networks, their parameters and their names stay what they are.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the call; a batch normalization in training by ``synced_batch_norm``."""
        kwargs = kwargs or {}
        if func is F.batch_norm and (kwargs.get("training", args[5] if len(args) > 5 else False)):
            return synced_batch_norm(*args, **kwargs)
        return func(*args, **kwargs)


class _Summed(torch.autograd.Function):
    """The sum over all processes; so is its gradient, for each process's loss depends on every process's batch."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        """(…,) to the same."""
        summed = values.clone()
        torch.distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        """(…,) to the same."""
        summed = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(summed)
        return summed


def synced_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """What ``F.batch_norm`` gives in training for the batches of all processes put together; parameters as there."""
    axes = (0, *range(2, input.ndim))
    shape = (1, -1) + (1,) * (input.ndim - 2)
    x = input if input.dtype == torch.float64 else input.float()
    count = torch.tensor(float(x.numel() // x.shape[1]), dtype=x.dtype, device=x.device)
    sums: Tensor = _Summed.apply(torch.cat([x.sum(axes), count[None]]))  # type: ignore[no-untyped-call]
    total = sums[-1].detach()
    mean = sums[:-1] / total
    centred = x - mean.reshape(shape)
    squares: Tensor = _Summed.apply(centred.square().sum(axes))  # type: ignore[no-untyped-call]
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((squares / (total - 1)).to(running_var.dtype), momentum)
    normal = centred * (squares / total + eps).rsqrt().reshape(shape)
    if weight is not None:
        normal = normal * weight.reshape(shape)
    if bias is not None:
        normal = normal + bias.reshape(shape)
    result: Tensor = normal.to(input.dtype)
    return result
