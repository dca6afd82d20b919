"""Slow versions of the gradient methods, from their papers: one picture, one class, explicit loops, float64."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nets import BY_NAME, CHANNELS, Call, Case, Net, conv_body, linear

Array = NDArray[np.float64]


def flat(space: int, cells: int) -> Net:
    """A head that reads every cell with weights of its own, and bends: no two methods agree behind it."""
    return Net(conv_body(space, inplace=True), nn.Flatten(), linear(CHANNELS * cells, 8), nn.Tanh(), linear(8))


def signed() -> Net:
    """Features of both signs: the last layer of the body is linear."""
    body = nn.Sequential(conv_body(), nn.Conv2d(CHANNELS, CHANNELS, 1))
    return Net(body, nn.Flatten(), linear(CHANNELS * 24, 8), nn.Tanh(), linear(8))


CURVED = (
    Case("flat", lambda: flat(2, 24), "nonlinear"),
    Case("flat_signal", lambda: flat(1, 12), "nonlinear", "NCL", (3, 48), (12,)),
    Case("flat_volume", lambda: flat(3, 24), "nonlinear", "NCDHW", (3, 8, 12, 16), (2, 3, 4)),
    Case("signed", signed, "nonlinear"),
    BY_NAME["hardswish"],
    BY_NAME["attention_pool"],
    BY_NAME["layer_norm"],
    BY_NAME["nhwc"],
    BY_NAME["class_token"],
    BY_NAME["two_tokens"],
)
"""Networks whose head is not linear, and a few of another layout."""


def known(case: Case, net: Net, x: Tensor, class_id: int) -> tuple[Array, Array]:
    """The features of one input and the gradient of one logit at them, (C, *grid) each, by the parts of the network."""
    features = net.body(x[None]).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net.head(features)[0, class_id], features)
    return case.on_grid(features.detach())[0].numpy(), case.on_grid(gradient)[0].numpy()


def cells(a: Array) -> list[tuple[int, ...]]:
    return list(product(*map(range, a.shape[1:])))


def weighted(weights: list[float], a: Array) -> Array:
    made = np.zeros(a.shape[1:])
    for k, weight in enumerate(weights):
        for place in cells(a):
            made[place] += weight * a[(k, *place)]
    return made


def gradcam(a: Array, g: Array) -> Array:
    return weighted([sum(g[(k, *p)] for p in cells(a)) / len(cells(a)) for k in range(len(a))], a)


def hirescam(a: Array, g: Array) -> Array:
    made = np.zeros(a.shape[1:])
    for k in range(len(a)):
        made += g[k] * a[k]
    return made


def xgradcam(a: Array, g: Array) -> Array:
    weights = []
    for k in range(len(a)):
        total = sum(a[(k, *p)] for p in cells(a))
        weights.append(sum(a[(k, *p)] * g[(k, *p)] for p in cells(a)) / total if total else 0.0)
    return weighted(weights, a)


def alpha(second: Array, third: Array, a: Array, k: int, place: tuple[int, ...]) -> float:
    """Eq. 19: second derivative over twice itself plus the sum of the activations times the third."""
    below = 2 * second[(k, *place)] + sum(a[(k, *p)] for p in cells(a)) * third[(k, *place)]
    return second[(k, *place)] / below if below else 0.0


def gradcam_plus_plus(a: Array, g: Array) -> Array:
    return smooth_plus_plus(a, [g])


def smooth_plus_plus(a: Array, gradients: list[Array]) -> Array:
    """The same with the derivatives averaged; the activations are one input's."""
    first, second, third = (sum(g**power for g in gradients) / len(gradients) for power in (1, 2, 3))
    weights = [sum(alpha(second, third, a, k, p) * max(first[(k, *p)], 0) for p in cells(a)) for k in range(len(a))]
    return weighted(weights, a)


def layercam(a: Array, g: Array) -> Array:
    return sum(np.maximum(g[k], 0) * a[k] for k in range(len(a)))


def gradcam_elementwise(a: Array, g: Array) -> Array:
    return sum(np.maximum(g[k] * a[k], 0) for k in range(len(a)))


def eigengradcam(a: Array, g: Array) -> Array:
    """By power iteration on the channels' covariance."""
    points = np.stack([[g[(k, *p)] * a[(k, *p)] for k in range(len(a))] for p in cells(a)])
    total = points.sum(1)
    points = points - points.mean(0)
    axis = np.linalg.svd(points)[2][0]
    for _ in range(10):
        axis = points.T @ (points @ axis)
        axis /= np.sqrt((axis**2).sum())
    along = points @ axis
    return (along * np.sign((along * total).sum())).reshape(a.shape[1:])


def shapleycam(case: Case, net: Net, x: Tensor, class_id: int) -> Array:
    """The Hessian in full, by differentiating each gradient; tokens before the grid are no players."""
    whole = net.body(x[None]).detach()
    start = whole.shape[1] - int(np.prod(case.grid)) if case.prefix else 0

    def score(players: Tensor) -> Tensor:
        features = torch.cat((whole[:, :start], players), 1) if case.prefix else players
        return net.head(features)[0, class_id]

    players = whole[:, start:]
    size = players.numel()
    attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with attention:
        hessian = torch.autograd.functional.hessian(score, players).reshape(size, size)
        gradient = torch.autograd.functional.jacobian(score, players).reshape(size)
    one_case = Case(case.name, case.make, case.kind, case.layout, case.shape, case.grid)
    both = (gradient - hessian @ players.reshape(size) / 2).reshape(players.shape)
    return gradcam(one_case.on_grid(players)[0].numpy(), one_case.on_grid(both)[0].numpy())


def noisy(x: Tensor, samples: int, noise: float) -> list[Tensor]:
    """One picture (C, *space) with the noise that every picture gets."""
    generator = torch.Generator().manual_seed(0)
    spread = float(x.max() - x.min())
    return [x + noise * spread * torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(samples)]


def integrated_gradcam(case: Case, net: Net, x: Tensor, class_id: int, steps: int, baseline: float = 0.0) -> Array:
    start = torch.full_like(x, baseline)
    nothing, _ = known(case, net, start, class_id)
    made = np.zeros(case.grid)
    for step in range(1, steps + 1):
        a, g = known(case, net, start + step / steps * (x - start), class_id)
        made += np.maximum(gradcam_of(a - nothing, g), 0) / steps
    return made


def gradcam_of(difference: Array, g: Array) -> Array:
    return weighted([g[k].mean() for k in range(len(g))], difference)


def hat(size: int, cells: int) -> Array:
    """Half-pixel linear interpolation from cells to pixels as a matrix (size, cells)."""
    made = np.zeros((size, cells))
    for pixel in range(size):
        at = min(max((pixel + 0.5) * cells / size - 0.5, 0), cells - 1)
        low = min(int(at), cells - 2) if cells > 1 else 0
        made[pixel, low] += 1 - (at - low)
        if cells > 1:
            made[pixel, low + 1] += at - low
    return made


def resized(grid: Array, size: tuple[int, ...]) -> Array:
    for axis, length in enumerate(size):
        grid = np.moveaxis(np.tensordot(hat(length, grid.shape[axis]), grid, (1, axis)), 0, axis)
    return grid


class Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (gradient > 0) * (x > 0)


def guided(net: nn.Module) -> nn.Module:
    """The network (to be a copy) with its ReLU modules replaced."""
    for name, child in net.named_children():
        if isinstance(child, nn.ReLU):
            setattr(net, name, Call(Guided.apply))
        else:
            guided(child)
    return net
