"""Maps from gradients at the features of several inputs: noisy ones, or those on a path from a baseline.

Notation as in ``gradient``: A the last features of the input itself, g = ∂S/∂A. The backward passes go through the head
alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from camlucida.methods.forward_pass import ForwardPass, Maps
from camlucida.methods.gradient import divided, weighted
from camlucida.methods.noisy_inputs import at_least, noisy
from camlucida.targets import Targets


def smoothgradcam_plus_plus(
    forward_pass: ForwardPass, targets: Targets, *, samples: int = 16, noise: float = 0.15, seed: int = 0
) -> Maps:
    """Smooth Grad-CAM++: weights Σ α relu(D1), α = D2 / (2 D2 + Σ A · D3), Dn the mean of gⁿ over the noise.

    The features A, also those weighted, are the clean input's. Derivatives are of exp(S) with its factor exp(S) left
    out in every sample, as in ``gradcam++``, so that samples count alike. α = 0 where its denominator is.

    Cost: 1 + ``samples`` forward passes, each with T backward passes through the head; memory for three means of the
    gradients, (B, T, C, *grid).

    Options:
        samples: noisy inputs.
        noise: standard deviation of the noise, as a share of each picture's range.
        seed: of the noise, the same for every picture.

    Returns:
        maps (B, T, *grid); no bias.

    Raises:
        MethodError: no samples, or negative noise.
    """
    total = forward_pass.features.flatten(2).sum(2)[:, None, :, None]
    scale: Tensor | None = None
    first = second = third = torch.zeros((), dtype=total.dtype, device=total.device)
    for inputs in noisy(forward_pass.inputs, samples, noise, seed):
        gradient = forward_pass.again(inputs).gradients(targets.of)[0].flatten(3)
        if scale is None:  # each map's own, so that cubes of small numbers do not vanish
            scale = gradient.abs().amax((2, 3), keepdim=True)
            scale = scale.masked_fill(scale == 0, 1)
        gradient = gradient / scale
        first = first + gradient / samples
        second = second + gradient**2 / samples
        third = third + gradient**3 / samples
    assert scale is not None
    alpha = divided(second, 2 * second + scale * total * third)
    weights = (scale * alpha * first.relu()).sum(3)
    return Maps(weighted(weights, forward_pass.features), None)


def integrated_gradcam(forward_pass: ForwardPass, targets: Targets, *, steps: int = 50, baseline: float = 0.0) -> Maps:
    """Integrated Grad-CAM: Grad-CAM's terms along a straight path of inputs, by a Riemann sum up to the input.

    x_t = x_0 + t / steps (x - x_0) for t = 1 … steps; each step's map is rectified before it is added, as the authors
    do. The baseline is in preprocessed units: 0 is the data set's mean colour where the preprocessing subtracts it
    (the paper's is black).

    Cost: 1 + ``steps`` forward passes, all but one with T backward passes through the head.

    Options:
        steps: of the Riemann sum.
        baseline: x_0, one value for all of its pixels.

    Returns:
        maps (B, T, *grid), nowhere negative; no bias.

    Raises:
        MethodError: no steps.
    """
    at_least("steps", steps)
    start = torch.full_like(forward_pass.inputs, baseline)
    nothing = forward_pass.again(start).features
    maps = torch.zeros((), dtype=nothing.dtype, device=nothing.device)
    for step in range(1, steps + 1):
        way = step / steps
        at = forward_pass if step == steps else forward_pass.again(start + way * (forward_pass.inputs - start))
        weights = torch.stack([gradient.flatten(2).mean(2) for gradient, _ in at.each_gradient(targets.of)], 1)
        maps = maps + weighted(weights, at.features - nothing).relu() / steps
    return Maps(maps, None)
