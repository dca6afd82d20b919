"""Models with other outputs than logits, read out as logits: wrap one, then explain the wrapper like a classifier.

The wrapped model keeps its layers under the names ``encoder.…``, ``segmenter.…`` and ``detector.…``. Where the scores
are no classes' logits take ``Explainer(…, activation="none")``, so that none is shown as a probability. A single score
is explained as it is by ``classes=[1]``, for one logit stands for two classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camlucida.errors import ModelError
from camlucida.pytorch.tape import tensors_in


class Similarity(nn.Module):
    """The cosine similarity of a picture's embedding with reference embeddings, as logits (B, R).

    With other pictures' embeddings as references it explains why two pictures are alike; with texts', why a text fits
    (CLIP: ``encoder`` is the vision tower with its projection, ``scale`` the model's ``logit_scale.exp()``).

    Args:
        encoder: pictures (B, C, H, W) to embeddings (B, D): a tensor, a tuple that has one, or a Hugging Face output
            with ``image_embeds`` or ``pooler_output``.
        references: (R, D) floating, of any length but 0; copied.
        scale: what the similarities are multiplied by.

    Raises:
        ModelError: the references are no matrix, or one is zero or not finite; from the forward pass, the encoder gave
            no embeddings of D numbers.

    Example:
        >>> Similarity(nn.Flatten(), torch.eye(2))(torch.tensor([[[3.0, 4.0]]]))
        tensor([[0.6000, 0.8000]])
    """

    references: Tensor

    def __init__(self, encoder: nn.Module, references: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        if references.ndim != 2 or 0 in references.shape or not references.is_floating_point():
            raise ModelError(
                f"similarity: expected references (R, D), floating; got {references.dtype} {tuple(references.shape)}"
            )
        lengths = references.detach().norm(dim=1)
        if not bool(((lengths > 0) & lengths.isfinite()).all()):
            raise ModelError("similarity: a reference is zero or not finite, so it has no direction; leave it out")
        self.encoder, self.scale = encoder, float(scale)
        self.register_buffer("references", F.normalize(references.detach()))

    def forward(self, pictures: Tensor) -> Tensor:
        """Similarities (B, R), in [-scale, scale]."""
        output = self.encoder(pictures)
        named = [getattr(output, name, None) for name in ("image_embeds", "pooler_output")]
        if isinstance(output, dict):
            named += [output.get(name) for name in ("image_embeds", "pooler_output")]
        known = [tensor for tensor in named if isinstance(tensor, Tensor)]
        width = self.references.shape[1]
        for tensor in known or tensors_in(output):
            if tensor.ndim >= 2 and tensor[0].numel() == tensor.shape[1] == width:
                return self.scale * F.normalize(tensor.flatten(1)) @ self.references.to(tensor).T
        raise ModelError(f"similarity: expected embeddings (B, {width}) like the references; the encoder gave "
                         f"{_shapes(output)}")  # fmt: skip


class MaskScore(nn.Module):
    """The sum of each class's logits over a mask, as logits (B, K): why these pixels are taken for that class.

    The last spatial values are the segmentation itself, so the default features are its class maps, and a map of them
    shows the mask; to see what the network looked at, name a layer: ``layer="segmenter.backbone"``, or "stages".

    Args:
        segmenter: pictures to logits (B, K, h, w): a tensor, a mapping with ``out`` (torchvision), or an output with
            ``logits`` (Hugging Face).
        mask: (h, w) at the output's size, bool or weights; the same for every picture; copied.

    Raises:
        ModelError: the mask is no picture's, or empty; from the forward pass, the output is of another size.

    Example:
        >>> MaskScore(nn.Identity(), torch.tensor([[True, False]]))(torch.tensor([[[[2.0, 5.0]], [[1.0, 7.0]]]]))
        tensor([[2., 1.]])
    """

    mask: Tensor

    def __init__(self, segmenter: nn.Module, mask: Tensor) -> None:
        super().__init__()
        if mask.ndim != 2 or not bool((mask != 0).any()):
            raise ModelError(f"mask score: expected a mask (h, w) with a pixel in it, got {tuple(mask.shape)}"
                             + (" of zeros" if mask.ndim == 2 else ""))  # fmt: skip
        self.segmenter = segmenter
        self.register_buffer("mask", mask.detach().to(torch.get_default_dtype()))

    def forward(self, pictures: Tensor) -> Tensor:
        """Sums (B, K)."""
        output = self.segmenter(pictures)
        named = output.get("out", output.get("logits")) if isinstance(output, dict) else getattr(output, "logits", None)
        for logits in [named] if isinstance(named, Tensor) else tensors_in(output):
            if logits.ndim == 4 and logits.shape[2:] == self.mask.shape:
                return (logits * self.mask.to(logits)).sum((2, 3))
        height, width = self.mask.shape
        raise ModelError(f"mask score: expected logits (B, K, {height}, {width}), the mask's size; the segmenter gave "
                         f"{_shapes(output)}; resize the mask to its output")  # fmt: skip


class BoxScore(nn.Module):
    """A detector's score of given boxes, as logits (B, n): of the detection of each box's label that lies best on it.

    Suppression and selection are discrete: gradients go through the chosen detections' scores alone. Which detections
    there are depends on the picture, so methods that change features or inputs may compare different detections; take
    gradient methods, at a named layer: ``layer="detector.backbone"``.

    Args:
        detector: a list of pictures (C, H, W) to a list of mappings with ``boxes`` (N, 4) as x0 y0 x1 y1, ``scores``
            (N,) and ``labels`` (N,), as torchvision's.
        boxes: (n, 4), x0 y0 x1 y1 in the detector's input pixels; the same for every picture; copied.
        labels: (n,) whole numbers, the boxes' labels.
        iou: overlap (intersection over union) that a detection must reach; where none does, the score is 0.

    Raises:
        ModelError: shapes do not fit, a box is empty, or the overlap is not in (0, 1]; from the forward pass, the
            detector gave something else.
    """

    boxes: Tensor
    labels: Tensor

    def __init__(self, detector: nn.Module, boxes: Tensor, labels: Sequence[int] | Tensor, iou: float = 0.5) -> None:
        super().__init__()
        known = torch.as_tensor(labels)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes) or known.shape != boxes.shape[:1]:
            raise ModelError(f"box score: expected boxes (n, 4) and labels (n,); got {tuple(boxes.shape)} and "
                             f"{tuple(known.shape)}")  # fmt: skip
        if not bool((boxes[:, 2:] > boxes[:, :2]).all()):
            raise ModelError("box score: expected boxes x0 y0 x1 y1 with x1 > x0 and y1 > y0; one is empty")
        if not 0 < iou <= 1:
            raise ModelError(f"box score: expected iou in (0, 1], got {iou}")
        self.detector, self.iou = detector, float(iou)
        self.register_buffer("boxes", boxes.detach().clone())
        self.register_buffer("labels", known.detach().clone())

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores (B, n), in [0, 1] for detectors whose scores are."""
        detections = self.detector(list(pictures.unbind(0)))
        valid = isinstance(detections, list | tuple) and all(map(_is_detections, detections))
        if not valid or len(detections) != len(pictures):
            gave = f"{type(detections).__name__} {_shapes(detections)}"
            raise ModelError(f"box score: expected a mapping with boxes, scores and labels for each of {len(pictures)} "
                             f"pictures; the detector gave {gave}")  # fmt: skip
        return torch.stack([self._score(of_picture) for of_picture in detections])

    def _score(self, detections: dict[str, Tensor]) -> Tensor:
        scores = torch.cat((detections["scores"], detections["scores"].new_zeros(1)))  # the last: no detection
        with torch.no_grad():
            fit = overlaps(self.boxes.to(detections["boxes"]), detections["boxes"].detach())
            fit = fit.masked_fill((fit < self.iou) | (self.labels[:, None] != detections["labels"]), 0)
            best = torch.cat((fit, fit.new_full((len(fit), 1), self.iou / 2)), 1).argmax(1)
        return scores[best]


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4) and others (N, 4), x0 y0 x1 y1: (n, N), 0 where one is empty.

    Example:
        >>> overlaps(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[0.0, 0, 2, 1], [4, 4, 5, 5]]))
        tensor([[0.5000, 0.0000]])
    """
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clamp_min(0).prod(2)
    areas = [(of[:, 2:] - of[:, :2]).clamp_min(0).prod(1) for of in (boxes, others)]
    union = areas[0][:, None] + areas[1][None] - shared
    return shared / union.masked_fill(union <= 0, 1)


def _is_detections(output: Any) -> bool:
    return isinstance(output, dict) and {"boxes", "scores", "labels"} <= set(output)


def _shapes(output: object) -> str:
    shapes = [str(tuple(tensor.shape)) for tensor in tensors_in(output)]
    return f"tensors of shapes {', '.join(shapes)}" if shapes else f"no tensor ({type(output).__name__})"
