"""What the perturbation methods share: masks over inputs, and the scores of masked inputs, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import conv1d, interpolate, pad

from camlucida.errors import MethodError
from camlucida.methods.forward_pass import ForwardPass
from camlucida.targets import Activation, Targets, default_activation


def positive(method: str, **counts: float) -> None:
    """Refuse options that are not above zero.

    Raises:
        MethodError: one of them is not.

    Example:
        >>> positive("rise", samples=0)
        Traceback (most recent call last):
        camlucida.errors.MethodError: rise: expected samples above 0, got 0
    """
    for name, count in counts.items():
        if not count > 0:
            raise MethodError(f"{method}: expected {name} above 0, got {count}")


def upsampled(maps: Tensor, space: Sequence[int]) -> Tensor:
    """Maps (N, C, *grid) over an input's space, half-pixel linear along every axis (``align_corners=False``)."""
    mode = ("linear", "bilinear", "trilinear")[len(space) - 1]
    return interpolate(maps, tuple(space), mode=mode, align_corners=False)


def unit_range(masks: Tensor) -> Tensor:
    """Each mask (N, C, *space), as a whole, shifted and scaled to [0, 1]; constant ones become 0. Differentiable.

    Example:
        >>> unit_range(torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]])[:, None]).squeeze(1)
        tensor([[0.0000, 1.0000, 0.5000], [0.0000, 0.0000, 0.0000]])
    """
    axes = tuple(range(1, masks.ndim))
    low = masks.amin(axes, keepdim=True)
    span = masks.amax(axes, keepdim=True) - low
    return (masks - low) / span.where(span != 0, span.new_ones(()))


def varying(features: Tensor) -> Tensor:
    """Which maps (B, C, *grid) are not constant (up to rounding), (B, C) bool. A constant map masks nothing."""
    flat = features.flatten(2)
    span = flat.amax(2) - flat.amin(2)
    return span > 4 * torch.finfo(flat.dtype).eps * flat.abs().amax(2)


def blurred(inputs: Tensor, deviation: float, radius: int) -> Tensor:
    """Inputs (N, C, *space) under a Gaussian of ``deviation`` pixels, cut off at ``radius``, mirrored at the borders.

    The radius is smaller where the input is too small to be mirrored that far.
    """
    for axis in range(2, inputs.ndim):
        reach = min(radius, inputs.shape[axis] - 1)
        steps = torch.arange(-reach, reach + 1, dtype=inputs.dtype, device=inputs.device)
        kernel = torch.exp(-0.5 * (steps / deviation) ** 2)
        moved = inputs.movedim(axis, -1)
        rows = pad(moved.reshape(-1, 1, moved.shape[-1]), (reach, reach), mode="reflect")
        inputs = conv1d(rows, (kernel / kernel.sum())[None, None]).reshape(moved.shape).movedim(-1, axis)
    return inputs


def activation_of(forward_pass: ForwardPass, wanted: Activation | None) -> Activation:
    """How logits become confidences: as wanted, else as the model itself does, else its default."""
    return wanted or forward_pass.activation or default_activation(forward_pass.logits.shape[1])


def confidences(targets: Targets, logits: Tensor, activation: Activation) -> Tensor:
    """The targets' scores (N, T) on probabilities instead of logits (N, K); on the logits for "none".

    Contrasts are differences of probabilities. A general score is a function of logits and stays one.
    """
    general = targets.weights is None and not targets.everything
    if activation == "none" or general:
        scores: Tensor = targets.of(logits)
    elif logits.shape[1] == 1:  # two classes: the probability of a class is half, plus or minus what passes half
        own = torch.from_numpy(targets.ids >= 0).to(logits)
        scores = targets.of(logits.sigmoid() - 0.5) + 0.5 * own
    else:
        scores = targets.of(logits.sigmoid() if activation == "sigmoid" else logits.softmax(1))
    return scores


def chosen(targets: Targets, rows: Tensor) -> Targets:
    """The targets of a batch made of these rows (N,) of the targets' own."""
    if targets.weights is None:
        return targets
    index = rows.cpu().numpy()
    names = tuple(targets.names[int(row)] for row in index)
    return replace(targets, ids=targets.ids[index], names=names, weights=targets.weights[index])


def scores_of(
    forward_pass: ForwardPass,
    targets: Targets,
    pictures: Tensor,
    make: Callable[[Tensor], Tensor],
    batch: int,
    activation: Activation,
) -> Tensor:
    """Confidences (N, T) of N perturbed inputs, made and passed through the network ``batch`` at a time.

    Args:
        forward_pass: the forward pass.
        targets: theirs.
        pictures: (N,), which picture each perturbed input was.
        make: from positions (n,) among the N to perturbed inputs (n, C, *space).
        batch: how many inputs are held at once.
        activation: see ``confidences``.

    Raises:
        MethodError: ``batch`` is not at least 1.
    """
    positive("masked inputs", batch=batch)
    rows = [forward_pass.logits.new_zeros(0, targets.ids.shape[1])]
    if len(pictures) == 0:
        return rows[0]
    with torch.no_grad():
        for part in torch.split(torch.arange(len(pictures), device=pictures.device), batch):
            changed = make(part).contiguous(memory_format=forward_pass.fast_format)
            logits = forward_pass.predict(changed, batch, pictures[part])
            rows.append(confidences(chosen(targets, pictures[part]), logits, activation))
    return torch.cat(rows)
