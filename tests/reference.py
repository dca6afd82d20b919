"""Slow independent versions, in float64 and with explicit loops; nothing here uses the library."""

from __future__ import annotations

import copy
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]


class Known(NamedTuple):
    """A network's features and the weights that, for this very input, take their mean or sum to the logits."""

    features: Array  # (B, C, *grid)
    weights: Array  # (B, K, C)
    bias: Array  # (K,)
    divisor: int  # how many cells a mean shares; 1 for a sum


def known(case, net: nn.Module, x: Tensor) -> Known:
    """The features of an exact case's network, by running its body, and its head folded by hand into one matrix."""
    with torch.no_grad():
        features = case.on_grid(net.body(x)).numpy().astype(np.float64)
    cells = int(np.prod(features.shape[2:]))
    divisor = 1 if case.name in ("sum_pool", "attended_sum") else cells
    pooled = features.reshape(*features.shape[:2], -1).sum(2) / divisor
    channels = pooled.shape[1]
    same, zero = np.eye(channels), np.zeros(channels)
    layers = [(np.stack([same] * len(pooled)), zero)]
    for module in net.head if isinstance(net.head, nn.Sequential) else [net.head]:
        layers += _folded(module, pooled)
    weights, bias = layers[0][0], zero
    for matrix, shift in layers[1:]:
        weights = np.stack([matrix[b] @ weights[b] for b in range(len(pooled))])
        bias = matrix[0] @ bias + shift if np.any(bias) else shift
    return Known(features, weights, bias, divisor)


def _folded(module: nn.Module, pooled: Array) -> list[tuple[Array, Array]]:
    """One layer as a matrix for each input, with the scale statistics of ``pooled`` held, and a shift."""
    kind = type(module).__name__
    batch, channels = pooled.shape
    weight = _array(getattr(module, "weight", None))
    bias = _array(getattr(module, "bias", None))
    if kind == "TwoHeads":
        first, second = module.first, module.second
        matrix = (_array(first.weight) + _array(second.weight)) / 2
        return [(np.stack([matrix] * batch), (_array(first.bias) + _array(second.bias)) / 2)]
    if kind in ("Linear", "Conv2d"):
        matrix = weight.reshape(len(weight), -1)
        return [(np.stack([matrix] * batch), bias)]
    if kind == "BatchNorm1d":
        scale = weight / np.sqrt(_array(module.running_var) + module.eps)
        return [(np.stack([np.diag(scale)] * batch), bias - scale * _array(module.running_mean))]
    if kind in ("LayerNorm", "GroupNorm"):
        centre = np.eye(channels) - 1 / channels
        scales = [1 / np.sqrt(np.mean((row - row.mean()) ** 2) + module.eps) for row in pooled]
        return [(np.stack([np.diag(weight * scale) @ centre for scale in scales]), bias)]
    if kind == "RMSNorm":
        scales = [1 / np.sqrt(np.mean(row**2) + module.eps) for row in pooled]
        return [(np.stack([np.diag(weight * scale) for scale in scales]), np.zeros(channels))]
    if kind == "Cosine":
        unit = np.stack([row / np.sqrt((row**2).sum()) for row in weight])
        return [(np.stack([16 * unit / np.sqrt((row**2).sum()) for row in pooled]), np.zeros(len(unit)))]
    return []


def _array(tensor: Tensor | None) -> Array:
    return np.zeros(0) if tensor is None else tensor.detach().double().numpy()


def cam(known: Known) -> Array:
    """M_c(y, x) = Σ_k w_k^c A_k(y, x), shared among the cells of a mean: (B, K, *grid). Zhou et al. 2016, eq. 2."""
    batch, channels, *grid = known.features.shape
    classes = len(known.bias)
    maps = np.zeros((batch, classes, *grid))
    for b, c, k in product(range(batch), range(classes), range(channels)):
        for place in product(*map(range, grid)):
            maps[(b, c, *place)] += known.weights[b, c, k] * known.features[(b, k, *place)] / known.divisor
    return maps


def gradient_times_features(case, net: nn.Module, x: Tensor, class_id: int) -> tuple[Array, Array, Array]:
    """Σ_k ∂S/∂A_k(y, x) A_k(y, x) by running the head itself: maps (B, *grid), bias (B,) and the logit (B,).

    The scales of LayerNorms in the head are held. The bias is the logit of zero features, whose scales are their own.
    """
    features = net.body(x).detach().requires_grad_()
    head = _held(net.head, features)
    logit = head(features)[:, class_id]
    (gradient,) = torch.autograd.grad(logit.sum(), features)
    product_ = gradient * features.detach()
    with torch.no_grad():
        bias = net.head(torch.zeros_like(features))[:, class_id]
    return case.on_grid(product_).sum(1).numpy(), bias.numpy(), logit.detach().numpy()


class _HeldLayerNorm(nn.Module):
    """A LayerNorm whose scale is that of one given input."""

    def __init__(self, norm: nn.LayerNorm, at: Tensor) -> None:
        super().__init__()
        self.norm = norm
        self.scale = 1 / torch.sqrt(((at - at.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True) + norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) * self.scale * self.norm.weight + self.norm.bias


def _held(head: nn.Module, features: Tensor) -> nn.Module:
    """A copy of the head with every LayerNorm's scale held at what it is for these features."""
    copied = copy.deepcopy(head)
    norms = [(module, name, norm) for module in copied.modules() for name, norm in module.named_children()
             if isinstance(norm, nn.LayerNorm)]  # fmt: skip
    inputs: dict[nn.Module, Tensor] = {}
    for _, _, norm in norms:
        norm.register_forward_pre_hook(lambda norm, args: inputs.update({norm: args[0].detach()}))
    copied(features.detach())
    for parent, name, norm in norms:
        setattr(parent, name, _HeldLayerNorm(norm, inputs[norm]))
    return copied


def softmax(logits: Array) -> Array:
    """Row by row."""
    return np.stack([np.exp(row - row.max()) / np.exp(row - row.max()).sum() for row in logits.astype(np.float64)])
