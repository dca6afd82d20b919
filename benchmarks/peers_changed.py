"""The peers' changes to methods, one at a time: what `peers.py` holds their maps against to test its reasons.

Functions ``(pass, targets) -> Maps`` are methods like the registered ones. A are the features, g their gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import fullgrad_cam
from pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerVit
from torch import Tensor, nn
from torch.nn.functional import interpolate

from camlucida.methods.forward_pass import ForwardPass, Maps
from camlucida.methods.noisy_inputs import noisy
from camlucida.targets import Targets


def weighted(weights: Tensor, features: Tensor) -> Maps:
    """Σ_k w_k A_k of weights (B, C)."""
    return Maps(torch.einsum("bc,bc...->b...", weights, features)[:, None], None)


def gradient(forward_pass: ForwardPass, targets: Targets) -> Tensor:
    """Gradients (B, C, *grid) of the one target."""
    return forward_pass.gradients(targets.of)[0][:, 0]


def eps_gradcam_plus_plus(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """grad-cam: 1e-6 in the denominator of α, beside g² of that size."""
    g = gradient(forward_pass, targets)
    alpha = g**2 / (2 * g**2 + forward_pass.features.sum((2, 3), keepdim=True) * g**3 + 1e-6)
    return weighted((alpha * g.relu()).sum((2, 3)), forward_pass.features)


def undivided_gradcam_plus_plus(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """torchcam: α is g², its division done in place on a copy made by indexing."""
    g = gradient(forward_pass, targets)
    return weighted((g**2 * g.relu()).sum((2, 3)), forward_pass.features)


def last_pass_smooth(forward_pass: ForwardPass, targets: Targets, *, samples: int) -> Maps:
    """torchcam: relu(g) and A of the last noisy input; Σ A g³ of the clean A and the mean g³, per channel."""
    second, third, last, g = torch.zeros(()), torch.zeros(()), forward_pass, forward_pass.features
    for inputs in noisy(forward_pass.inputs, samples, 0.15, 0):
        last = forward_pass.again(inputs)
        g = gradient(last, targets)
        second, third = second + g**2 / samples, third + g**3 / samples
    alpha = second / (2 * second + (third * forward_pass.features).sum((2, 3), keepdim=True) + 1e-8)
    return weighted((alpha * g.relu()).sum((2, 3)), last.features)


def centred_eigencam(forward_pass: ForwardPass, _: Targets) -> Maps:
    """grad-cam: the cells' mean is taken off before the decomposition."""
    cells = forward_pass.features.flatten(2).double()
    cells = cells - cells.mean(2, keepdim=True)
    first = torch.linalg.svd(cells, full_matrices=False)[0][..., :1]
    return Maps((first.mT @ cells).float().reshape(len(cells), 1, *forward_pass.features.shape[2:]), None)


def fraction_fem(forward_pass: ForwardPass, _: Targets) -> Maps:
    """grad-cam: A weighted with the share of cells above the threshold; the paper: the binary map, with the mean."""
    cells = forward_pass.features.flatten(2)
    above = cells > cells.mean(2, keepdim=True) + 2 * cells.std(2, keepdim=True, correction=0)
    return weighted(above.float().mean(2), forward_pass.features)


def moving_finer(chosen: int = 3) -> Callable[[Tensor], Tensor]:
    """grad-cam: the rivals' probabilities are not held, so that their gradients count."""

    def score(logits: Tensor) -> Tensor:
        order = (logits - logits.amax(1, keepdim=True)).abs().argsort(1)
        top, rivals = order[:, :1], order[:, 1 : 1 + chosen]
        share = logits.softmax(1).gather(1, rivals)
        return (share * (logits.gather(1, top) - logits.gather(1, rivals))).sum(1) / share.sum(1)

    return score


def uniform_finer(strength: float = 0.6, chosen: int = 3) -> Callable[[Tensor], Tensor]:
    """torchcam: the rivals count alike, and 0.6 of them."""

    def score(logits: Tensor) -> Tensor:
        order = (logits - logits.amax(1, keepdim=True)).abs().argsort(1)
        rivals = logits.gather(1, order[:, 1 : 1 + chosen])
        return logits.amax(1) - strength * rivals.mean(1)

    return score


def scaled(masks: Tensor) -> Tensor:
    """Each mask to [0, 1]."""
    masks = masks - masks.amin((2, 3), keepdim=True)
    return masks / (masks.amax((2, 3), keepdim=True) + 1e-8)


def _score_cam(
    forward_pass: ForwardPass, targets: Targets, lay: Callable[[Tensor], Tensor], factors: Sequence[float]
) -> Maps:
    """Score-CAM by hand: masks from features by ``lay``, the mean of the scores under masks of these factors."""
    weights = []
    for row, (one, features) in enumerate(zip(forward_pass.inputs, forward_pass.features, strict=True)):
        masks = lay(features[:, None])
        column = int(targets.ids[row, 0])
        with torch.no_grad():
            every = [forward_pass.model(factor * one * masks)[:, column] for factor in factors]
        weights.append(torch.stack(every).mean(0).softmax(0))
    return weighted(torch.stack(weights), forward_pass.features)


def align_corners_score_cam(forward_pass: ForwardPass, targets: Targets) -> Maps:
    """grad-cam: masks are upsampled with their corner cells' centres at the corners (``align_corners``)."""
    size = forward_pass.inputs.shape[2:]
    lay = partial(interpolate, size=size, mode="bilinear", align_corners=True)
    return _score_cam(forward_pass, targets, lambda masks: scaled(lay(masks)), [1])


def early_scaled_score_cam(forward_pass: ForwardPass, targets: Targets, *, steps: int = 0) -> Maps:
    """torchcam: masks are scaled to [0, 1] before they are upsampled; for IS-CAM by factors up to (N + 1) / 2."""
    size = forward_pass.inputs.shape[2:]
    lay = partial(interpolate, size=size, mode="bilinear", align_corners=False)
    factors = [step * (step + 1) / (2 * steps) for step in range(1, steps + 1)] if steps else [1]
    return _score_cam(forward_pass, targets, lambda masks: lay(scaled(masks)), factors)


def ablated_to_zero(kind: type[AblationLayer]) -> AblationLayer:
    """grad-cam's layer with channels at zero, the class token's left; its own value is min - 1e7, less at each slot."""

    class Zero(kind):  # type: ignore[misc, valid-type]
        def __call__(self, x: Tensor) -> Tensor:
            output = self.activations
            for slot in range(len(output)):
                if kind is AblationLayerVit:
                    output[slot, 1:, self.indices[slot]] = 0
                else:
                    output[slot, self.indices[slot]] = 0
            return output

    return Zero()


@contextmanager
def whole_layer_scaling() -> Iterator[None]:
    """grad-cam's FullGrad with each layer scaled as a whole; it scales each channel to [0, 1] by itself."""

    def layer(tensor: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
        low, high = tensor.min((1, 2, 3), keepdims=True), tensor.max((1, 2, 3), keepdims=True)
        unit = np.float32((tensor - low) / (high - low))
        return np.stack([[cv2.resize(channel, size) for channel in one] for one in unit])

    before = fullgrad_cam.scale_accross_batch_and_channels
    fullgrad_cam.scale_accross_batch_and_channels = layer
    try:
        yield
    finally:
        fullgrad_cam.scale_accross_batch_and_channels = before


class Recorded:
    """Noise drawn elsewhere, in place of torchcam's own."""

    def __init__(self, inputs: Tensor, samples: int) -> None:
        self.left = [one - inputs for one in noisy(inputs, samples, 0.15, 0)]

    def sample(self, _: object) -> Tensor:
        return self.left.pop(0)


def class_token_scores(model: Any) -> Callable[[Tensor], Tensor]:
    """LeGrad's layer scores read from the class token, as the model reads its last tokens."""
    head: nn.Module = model.heads
    return lambda tokens: head(model.encoder.ln(tokens[:, 0]))
