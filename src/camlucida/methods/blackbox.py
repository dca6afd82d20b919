"""Maps of networks as black boxes: inputs with a part hidden go in, scores come out. Nothing else is looked at.

Memory is set by ``batch``, the number of inputs in the network at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import product

import torch
from torch import Generator, Tensor

from camlucida.methods.forward_pass import ForwardPass, Maps
from camlucida.methods.masked_inputs import activation_of, positive, scores_of, upsampled
from camlucida.targets import Activation, Targets


def rise(
    forward_pass: ForwardPass,
    targets: Targets,
    *,
    samples: int = 4000,
    cells: int = 8,
    keep: float = 0.5,
    seed: int = 0,
    batch: int = 32,
    activation: Activation | None = None,
) -> Maps:
    """RISE: the mean confidence of masked inputs in which a place is seen; any network, at the input's resolution.

    A mask is a random grid of ``cells`` a side, half-pixel linearly enlarged by one cell and shifted at random. All
    pictures see the same masks.

    Cost: ``samples`` forward passes.

    Options:
        samples: N; the paper takes 4000 for VGG-16 and 8000 for ResNet-50.
        cells: of a mask along each axis.
        keep: p, the chance that a cell is seen.
        seed: of the masks.
        batch: masked inputs in the network at once.
        activation: what makes confidences; None: the model's own, else softmax; "none": the scores themselves.

    Returns:
        maps (B, T, *space), no bias.
    """
    positive("rise", samples=samples, cells=cells, keep=keep, batch=batch)
    activation = activation_of(forward_pass, activation)
    space = forward_pass.inputs.shape[2:]
    generator = torch.Generator().manual_seed(seed)
    sums = forward_pass.logits.new_zeros(*targets.ids.shape, *space)
    for first in range(0, samples, batch):
        masks = _random_masks(min(batch, samples - first), space, cells, keep, generator).to(forward_pass.logits)
        scores = []
        for b, picture in enumerate(forward_pass.inputs):
            pictures = torch.full((len(masks),), b, device=forward_pass.inputs.device)
            make = partial(_times, picture, masks.to(picture))
            scores.append(scores_of(forward_pass, targets, pictures, make, batch, activation))
        sums = sums + torch.einsum("bnt,n...->bt...", torch.stack(scores), masks[:, 0])
    return Maps(sums / (samples * keep), None)


def occlusion(
    forward_pass: ForwardPass,
    targets: Targets,
    *,
    window: int | None = None,
    stride: int | None = None,
    fill: float = 0.0,
    batch: int = 32,
) -> Maps:
    """Occlusion: how far the score falls when a window of the input is filled.

    The map's cells part the input evenly, about ``stride`` apart; each is the drop with the window around its centre,
    cut off at the borders.

    Cost: a forward pass for each cell.

    Options:
        window: side in pixels; None: a seventh of the shortest side.
        stride: between windows in pixels; None: half the window.
        fill: what the window is filled with, in preprocessed units; 0 is the mean colour of a normalized input.
        batch: occluded inputs in the network at once.

    Returns:
        maps (B, T, *cells), no bias.
    """
    space = forward_pass.inputs.shape[2:]
    window = max(1, min(space) // 7) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    positive("occlusion", window=window, stride=stride, batch=batch)
    axes = [_windows(size, window, stride) for size in space]
    places = list(product(*axes))
    pictures = torch.arange(len(forward_pass.inputs), device=forward_pass.inputs.device).repeat_interleave(len(places))

    def make(part: Tensor) -> Tensor:
        hidden = forward_pass.inputs[pictures[part]]
        for picture, position in zip(hidden, part.tolist(), strict=True):
            picture[(slice(None), *places[position % len(places)])] = fill
        return hidden

    scores = scores_of(forward_pass, targets, pictures, make, batch, "none")
    drops = targets.of(forward_pass.logits)[:, None] - scores.reshape(len(forward_pass.inputs), len(places), -1)
    return Maps(drops.transpose(1, 2).reshape(*targets.ids.shape, *(len(axis) for axis in axes)), None)


def _random_masks(count: int, space: Sequence[int], cells: int, keep: float, generator: Generator) -> Tensor:
    """Masks (count, 1, *space), drawn one after the other, so that the same seed gives the same whatever the count."""
    sides = [math.ceil(size / cells) for size in space]
    drawn = []
    for _ in range(count):
        grid = (torch.rand((cells,) * len(space), generator=generator) < keep).double()
        laid = upsampled(grid[None, None], [(cells + 1) * side for side in sides])
        shift = [int(torch.randint(side, (), generator=generator)) for side in sides]
        seen = tuple(slice(first, first + size) for first, size in zip(shift, space, strict=True))
        drawn.append(laid[0][(slice(None), *seen)])
    return torch.stack(drawn)


def _times(picture: Tensor, masks: Tensor, part: Tensor) -> Tensor:
    return picture * masks[part]


def _windows(size: int, window: int, stride: int) -> list[slice]:
    """Windows around the centres of ceil(size / stride) even cells, cut off at the borders."""
    cells = math.ceil(size / stride)
    starts = [math.floor((i + 0.5) * size / cells - window / 2 + 0.5) for i in range(cells)]
    return [slice(max(0, start), min(size, start + window)) for start in starts]
