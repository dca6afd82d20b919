"""Maps at the inputs' own resolution, from gradients through the whole network: what people compare with.

x is the preprocessed input (B, C, *space), S a score, and the grid of the maps is the input's space: a cell is a pixel.
No gradient is left on the parameters.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from camlucida.errors import MethodError
from camlucida.methods.forward_pass import ForwardPass, Maps
from camlucida.methods.gradient import gradcam
from camlucida.methods.masked_inputs import unit_range, upsampled
from camlucida.methods.noisy_inputs import at_least, noisy
from camlucida.methods.torch_modes import Biases, GuidedReLU
from camlucida.pytorch.model_pass import input_gradients_of
from camlucida.targets import Targets


def gradient(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """Saliency: how strongly a pixel's values move the score, the strongest of its channels.

    Cost: two forward passes; T backward passes through the whole network.

    Returns:
        maps (B, T, *space), nowhere negative; no bias.
    """
    return Maps(_strongest(_gradients(forward_pass, targets)), None)


def smoothgrad(
    forward_pass: ForwardPass, targets: Targets, *, samples: int = 50, noise: float = 0.15, seed: int = 0
) -> Maps:
    """SmoothGrad: the signed gradients of noisy inputs, averaged, then reduced as those of ``gradient``.

    Cost: 1 + ``samples`` forward passes; T ``samples`` backward passes through the whole network.

    Options:
        samples: noisy inputs.
        noise: standard deviation of the noise, as a share of each picture's range (the paper: 0.1 to 0.2).
        seed: of the noise, the same for every picture.

    Returns:
        maps (B, T, *space), nowhere negative; no bias.

    Raises:
        MethodError: no samples, or negative noise.
    """
    copies = noisy(forward_pass.inputs, samples, noise, seed)
    return Maps(_strongest(_total(_gradients(forward_pass, targets, inputs) / samples for inputs in copies)), None)


def gradient_x_input(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """Gradient times input, summed over channels.

    Σ map + bias is the score of networks that are linear or, without biases, piecewise linear (ReLU, max pooling). What
    other networks' biases and curvature carry shows as the residual; ``fullgrad`` adds the biases.

    Cost: three forward passes; T backward passes through the whole network.

    Returns:
        maps (B, T, *space) and bias (B, T), the score of the zero input (the mean colour, after usual preprocessing).
    """
    maps = (_gradients(forward_pass, targets) * _precise(forward_pass.inputs, forward_pass)[:, None]).sum(2)
    return Maps(maps, targets.of(forward_pass.predict(torch.zeros_like(forward_pass.inputs))))


def integrated_gradients(
    forward_pass: ForwardPass, targets: Targets, *, steps: int = 50, baseline: float = 0.0
) -> Maps:
    """Integrated Gradients along the line from a baseline, by the midpoint rule.

    Σ map + bias is the score in the limit of many steps; the residual is the completeness gap. The baseline is in
    preprocessed units: 0 is the data set's mean colour where the preprocessing subtracts it (the paper's is black).

    Cost: 2 + ``steps`` forward passes; T ``steps`` backward passes through the whole network.

    Options:
        steps: of the midpoint rule.
        baseline: x_0, one value for all of its pixels.

    Returns:
        maps (B, T, *space) and bias (B, T), the baseline's score.

    Raises:
        MethodError: no steps.
    """
    at_least("steps", steps)
    start = torch.full_like(forward_pass.inputs, baseline)
    way = forward_pass.inputs - start
    mean = _total(
        _gradients(forward_pass, targets, start + (step + 0.5) / steps * way) / steps for step in range(steps)
    )
    return Maps((mean * _precise(way, forward_pass)[:, None]).sum(2), targets.of(forward_pass.predict(start)))


def guided_backprop(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """Guided backpropagation: at each ReLU a gradient passes back where it and the ReLU's input are positive.

    The model's calls of ReLU (also in place, as function or module; ReLU6 too) are watched, not replaced.

    Cost: two forward passes; T backward passes through the whole network.

    Returns:
        maps (B, T, *space), nowhere negative; no bias.

    Raises:
        MethodError: the model has no ReLU.
    """
    return Maps(_strongest(_guided(forward_pass, targets)), None)


def guided_gradcam(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """Guided Grad-CAM: guided backpropagation where Grad-CAM is positive, half-pixel linear in between its cells.

    Cost: two forward passes; T backward passes through the whole network, and T through the head.

    Returns:
        maps (B, T, *space), nowhere negative; no bias.

    Raises:
        MethodError: the model has no ReLU.
    """
    guided = _strongest(_guided(forward_pass, targets))
    return Maps(guided * upsampled(gradcam(forward_pass, targets).maps.relu(), guided.shape[2:]), None)


def fullgrad(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """The full-gradient decomposition, signed and complete: input-gradient and every layer's bias-gradient.

    Biases are those of convolutions, linear layers and batch normalizations (β - μ γ / σ), constants that are added,
    and the implicit ones of activations, σ(z) - σ'(z) z, and of products (gates). Bias-gradients on a grid are resized
    to the input with their sum kept; those without places (behind the pooling) are in ``bias``. Σ map + bias is the
    score of convolutional networks; what normalizations by the input's own statistics and attention carry shows as the
    residual. ``fullgrad-saliency`` is the paper's picture of it.

    Cost: two forward passes; T backward passes through the whole network.

    Returns:
        maps (B, T, *space) and bias (B, T).
    """
    maps, bias = [], []
    for parts, rest in _full_gradients(forward_pass, targets):
        maps.append(torch.stack([_spread(part.sum(1), forward_pass.inputs.shape[2:]) for part in parts]).sum(0))
        bias.append(rest)
    return Maps(torch.stack(maps, 1), torch.stack(bias, 1))


def fullgrad_saliency(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """FullGrad saliency: every layer of ``fullgrad`` that has places, its absolute values scaled to [0, 1] and resized.

    A layer is scaled as a whole: by the minimum and maximum over all of its channels, for each picture. Half-pixel
    linear resizing.

    Cost: two forward passes; T backward passes through the whole network.

    Returns:
        maps (B, T, *space), nowhere negative; no bias.
    """
    maps = []
    for parts, _ in _full_gradients(forward_pass, targets):
        layers = [upsampled(unit_range(part.abs()).sum(1)[:, None], forward_pass.inputs.shape[2:]) for part in parts]
        maps.append(torch.stack(layers).sum(0)[:, 0])
    return Maps(torch.stack(maps, 1), None)


def _full_gradients(forward_pass: ForwardPass, targets: Targets) -> Iterator[tuple[list[Tensor], Tensor]]:
    """For each score the products of input and biases with their gradients, (B, C, *grid) each, and the rest, (B,)."""
    leaf = forward_pass.inputs.detach().clone().requires_grad_()
    with torch.enable_grad(), Biases(leaf) as biases:
        logits = forward_pass.forward(leaf)
        scores = targets.of(logits)
    for gradient_of_input in input_gradients_of(logits, scores, leaf):
        parts, rest = biases.take()
        yield [(gradient_of_input * forward_pass.inputs).to(scores.dtype), *parts], rest


def _gradients(forward_pass: ForwardPass, targets: Targets, inputs: Tensor | None = None) -> Tensor:
    """Gradients at the inputs, (B, T, C, *space)."""
    return _precise(forward_pass.input_gradients(targets.of, inputs), forward_pass)


def _guided(forward_pass: ForwardPass, targets: Targets) -> Tensor:
    with GuidedReLU() as mode:
        gradients = _gradients(forward_pass, targets)
    if not mode.seen:
        raise MethodError(
            "guided backpropagation needs a model with ReLUs, and this one calls none (there is no rule for GELU or "
            "SiLU); try smoothgrad or integrated-gradients"
        )
    return gradients


def _precise(tensor: Tensor, forward_pass: ForwardPass) -> Tensor:
    return tensor.to(forward_pass.logits.dtype)


def _total(terms: Iterator[Tensor]) -> Tensor:
    """Their sum, of which there is at least one, without holding them all."""
    return functools.reduce(operator.add, terms)


def _strongest(gradients: Tensor) -> Tensor:
    """The largest absolute value of the channels: (B, T, C, *space) to (B, T, *space)."""
    return gradients.abs().amax(2)


def _spread(grid: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, *grid) resized to (B, *size), each cell's value shared among its pixels: every map's sum is kept."""
    share = grid[0].numel() / math.prod(size)
    large = upsampled(grid[:, None], size)[:, 0] * share
    missing = (grid.flatten(1).sum(1) - large.flatten(1).sum(1)) / large[0].numel()
    return large + missing.reshape(-1, *([1] * len(size)))
