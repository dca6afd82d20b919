"""Maps from inputs masked by features: the whole network sees each picture many times, a part of it hidden.

No gradient is taken (but Group-CAM's, through the head alone), and memory is set by ``batch``, the number of masked
inputs in the network at once. Masks are half-pixel linear (``align_corners=False``) and scaled after upsampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from camlucida.errors import MethodError
from camlucida.methods.forward_pass import ForwardPass, Maps
from camlucida.methods.masked_inputs import (
    activation_of,
    blurred,
    confidences,
    positive,
    scores_of,
    unit_range,
    upsampled,
    varying,
)
from camlucida.targets import Activation, Targets

Variant = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A masked input from inputs (n, C, *space), masks (n, 1, *space) in [0, 1] and the masks' channels (n,)."""


def scorecam(forward_pass: ForwardPass, targets: Targets, *, batch: int = 32, activation: Activation = "none") -> Maps:
    """Score-CAM: channels weighted by how much of the score they keep when they mask the input.

    C_k = f(X ∘ H_k) - f(0) with f the score, weights softmax over all channels, as algorithm 1 has it; the authors' own
    code weights by class probabilities and takes no softmax over channels. A constant channel masks everything: its
    C_k is 0, and it costs no pass. All targets share the passes.

    Cost: a forward pass for each channel that is not constant, and one for the empty input.

    Options:
        batch: masked inputs in the network at once.
        activation: "softmax" or "sigmoid" takes f on probabilities, "none" on logits.

    Returns:
        maps (B, T, *grid), no bias.
    """
    increase = _increases(forward_pass, targets, varying(forward_pass.features), [_masked], 1, batch, activation)
    return _weighted(forward_pass, increase)


def faster_scorecam(
    forward_pass: ForwardPass, targets: Targets, *, channels: int = 10, batch: int = 32, activation: Activation = "none"
) -> Maps:
    """Score-CAM with the ``channels`` maps of largest variance alone; the softmax is over these.

    Cost: at most ``channels`` + 1 forward passes. Other arguments and the result are those of ``scorecam``.
    """
    positive("faster-scorecam", channels=channels)
    spread = forward_pass.features.flatten(2).var(2, unbiased=False)
    top = spread.topk(min(channels, spread.shape[1]), 1).indices
    among = torch.zeros_like(spread, dtype=torch.bool).scatter(1, top, True)
    increase = _increases(
        forward_pass, targets, among & varying(forward_pass.features), [_masked], 1, batch, activation
    )
    return _weighted(forward_pass, increase.masked_fill(~among[:, :, None], -math.inf))


def sscam(
    forward_pass: ForwardPass,
    targets: Targets,
    *,
    on: Literal["masks", "inputs"] = "masks",
    samples: int = 10,
    deviation: float = 2.0,
    seed: int = 0,
    batch: int = 32,
    activation: Activation = "none",
) -> Maps:
    """SS-CAM: the mean over noise ε of f(X ∘ (H_k + ε)) - f(0), or of f(X ∘ H_k + ε) - f(0).

    The noise of a channel depends on ``seed``, channel and sample, not on the picture or its place in the batch.

    Cost: ``samples`` times Score-CAM's.

    Options:
        on: where the noise goes: "masks" is the paper's type 1, "inputs" its type 2.
        samples: N.
        deviation: σ of the noise.
        seed: of the noise.
        batch: masked inputs in the network at once.
        activation: as for ``scorecam``.

    Returns:
        maps (B, T, *grid), no bias.

    Raises:
        MethodError: ``on`` is neither.
    """
    positive("sscam", samples=samples)
    if on not in ("masks", "inputs"):
        raise MethodError(f"sscam: expected on='masks' or 'inputs', got {on!r}")
    noisy = [partial(_noisy, on == "masks", deviation, seed, sample) for sample in range(samples)]
    increase = _increases(forward_pass, targets, varying(forward_pass.features), noisy, samples, batch, activation)
    return _weighted(forward_pass, increase)


def iscam(
    forward_pass: ForwardPass, targets: Targets, *, steps: int = 10, batch: int = 32, activation: Activation = "none"
) -> Maps:
    """IS-CAM: C_k = 1/N Σ_i f(X ∘ c_i H_k) - f(0), i = 1 … N.

    The published sum adds up the steps, c_i = i (i - 1) / 2N, so that the last masks are above 1 (4.5 for N = 10).
    The first is 0 and costs no pass.

    Cost: ``steps`` - 1 times Score-CAM's. Other arguments and the result are those of ``scorecam``.
    """
    if steps < 2:
        raise MethodError(f"iscam: expected steps above 1, got {steps}")
    scaled = [partial(_scaled, i * (i - 1) / (2 * steps)) for i in range(2, steps + 1)]
    increase = _increases(forward_pass, targets, varying(forward_pass.features), scaled, steps, batch, activation)
    return _weighted(forward_pass, increase)


def groupcam(
    forward_pass: ForwardPass,
    targets: Targets,
    *,
    groups: int = 32,
    percentile: float = 70.0,
    deviation: float = 50.0,
    radius: int = 25,
    batch: int = 32,
    activation: Activation | None = None,
) -> Maps:
    """Group-CAM: consecutive channels, weighted by their mean gradient, are summed into ``groups`` masks.

    Each sum is rectified, values up to its ``percentile`` are set to 0, and it is upsampled and scaled to [0, 1]. The
    map is stored at the features' grid; its half-pixel upsampling is the paper's map at the input.

    Cost: one backward pass through the head, and at most ``groups`` forward passes, for each target; and one more.

    Args:
        forward_pass: the forward pass.
        targets: the scores to explain; the gradients are theirs, the masks' weights their probabilities'.
        groups: G.
        percentile: θ, below which a mask is noise.
        deviation: of the blur, in pixels.
        radius: where the blur's Gaussian is cut off, in pixels.
        batch: masked inputs in the network at once.
        activation: what makes probabilities; None: the model's own, else softmax.

    Returns:
        maps (B, T, *grid), no bias.
    """
    positive("groupcam", groups=groups, deviation=deviation)
    activation = activation_of(forward_pass, activation)
    cells = forward_pass.features.flatten(2)
    weights = torch.stack([gradient.flatten(2).mean(2) for gradient, _ in forward_pass.each_gradient(targets.of)], 1)
    parts = zip(weights.chunk(groups, 2), cells.chunk(groups, 1), strict=True)
    sums = torch.stack([torch.bmm(*part) for part in parts], 2).relu()  # (B, T, G, cells)
    noise = sums <= sums.quantile(percentile / 100, 3, keepdim=True)
    grouped = sums.masked_fill(noise, 0).reshape(*sums.shape[:3], *forward_pass.features.shape[2:])
    masks = _unit_once_upsampled(grouped, forward_pass, batch)
    pictures, target, group = masks.flatten(3).any(3).nonzero(as_tuple=True)
    blur = blurred(forward_pass.inputs, deviation, radius)
    baseline = confidences(targets, forward_pass.predict(blur, batch), activation)

    def make(part: Tensor) -> Tensor:
        rows = pictures[part]
        laid = upsampled(masks[rows, target[part], group[part]][:, None], forward_pass.inputs.shape[2:]).to(blur)
        return forward_pass.inputs[rows] * laid + blur[rows] * (1 - laid)

    scores = scores_of(forward_pass, targets, pictures, make, batch, activation).gather(1, target[:, None])[:, 0]
    increase = masks.new_zeros(masks.shape[:3]).index_put(
        (pictures, target, group), scores - baseline[pictures, target]
    )
    return Maps((increase[(..., *(None,) * (masks.ndim - 3))] * masks).sum(2), None)


def _increases(
    forward_pass: ForwardPass,
    targets: Targets,
    alive: Tensor,
    variants: Sequence[Variant],
    divisor: int,
    batch: int,
    activation: Activation,
) -> Tensor:
    """Σ over the variants of f(variant of X masked by channel k) - f(0), over ``divisor``: (B, C, T); 0 where dead."""
    pictures, channels = alive.nonzero(as_tuple=True)
    alike = forward_pass.inputs if forward_pass.takes_more else forward_pass.inputs[:1]
    empty = forward_pass.predict(torch.zeros_like(alike), batch).expand(len(alive), -1)
    baseline = confidences(targets, empty, activation)
    increase = forward_pass.logits.new_zeros(len(pictures), baseline.shape[1])
    for variant in variants:
        make = partial(_masked_by_channels, forward_pass, pictures, channels, variant)
        increase = increase + scores_of(forward_pass, targets, pictures, make, batch, activation) - baseline[pictures]
    every = increase.new_zeros(*alive.shape, baseline.shape[1])
    return every.index_put((pictures, channels), increase / divisor)


def _weighted(forward_pass: ForwardPass, increase: Tensor) -> Maps:
    """Σ_k softmax_k(increase) A_k."""
    return Maps(torch.einsum("bct,bc...->bt...", increase.softmax(1), forward_pass.features), None)


def _masked_by_channels(
    forward_pass: ForwardPass, pictures: Tensor, channels: Tensor, variant: Variant, part: Tensor
) -> Tensor:
    rows = pictures[part]
    inputs = forward_pass.inputs[rows]  # a copy, which the variant may overwrite
    masks = unit_range(upsampled(forward_pass.features[rows, channels[part]][:, None], inputs.shape[2:]))
    return variant(inputs, masks.to(inputs), channels[part])


def _masked(inputs: Tensor, masks: Tensor, _: Tensor) -> Tensor:
    return inputs.mul_(masks)


def _scaled(factor: float, inputs: Tensor, masks: Tensor, _: Tensor) -> Tensor:
    return inputs.mul_(masks.mul_(factor))


def _noisy(
    on_masks: bool, deviation: float, seed: int, sample: int, inputs: Tensor, masks: Tensor, channels: Tensor
) -> Tensor:
    shape = (masks if on_masks else inputs).shape[1:]
    noise = torch.empty(len(channels), *shape)
    for row, channel in zip(noise, channels.tolist(), strict=True):
        generator = torch.Generator().manual_seed((((seed * 7919 + sample) << 16) + channel) % 2**32)
        torch.randn(shape, generator=generator, out=row)
    noise = noise.to(inputs).mul_(deviation)
    return inputs.mul_(masks.add_(noise)) if on_masks else inputs.mul_(masks).add_(noise)


def _unit_once_upsampled(masks: Tensor, forward_pass: ForwardPass, batch: int) -> Tensor:
    """Masks (B, T, G, *grid) shifted and scaled so that their upsampling has minimum 0 and maximum 1; constants 0."""
    flat = masks.flatten(0, 2)[:, None]
    extremes = []
    for part in torch.split(flat, batch):
        laid = upsampled(part, forward_pass.inputs.shape[2:]).flatten(1)
        extremes.append(torch.stack((laid.amin(1), laid.amax(1)), 1))
    shape = (*masks.shape[:3], *(1,) * (masks.ndim - 3))
    low, high = (extreme.reshape(shape) for extreme in torch.cat(extremes).unbind(1))
    span, alive = high - low, varying(masks.flatten(0, 1)).reshape(shape)
    return torch.where(alive | span.isnan(), (masks - low) / span, 0)
