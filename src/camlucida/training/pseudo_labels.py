"""What a localizer learns from: boxes of a trained run's maps on pictures whose labels are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camlucida.boxes.calibration import Calibration, calibrate
from camlucida.data.record import Example, Record, Truth
from camlucida.errors import TrainingError
from camlucida.images.preprocess import Preprocess, View
from camlucida.images.symmetries import SIDES, TTA, transformed, undone
from camlucida.pytorch.state import evaluating
from camlucida.training.augment import Pixels
from camlucida.training.config import Augment
from camlucida.training.example_batches import normalized, seen
from camlucida.training.network import Network
from camlucida.training.run_folder import Run, open_network

USUAL_CALIBRATION = Calibration("minmax", threshold=0.5)
"""How maps become boxes where no validation boxes tell it better: above the middle of their range."""

_BATCH = 16
_MOST_SIDE = 0.98  # of the picture: a box of all of it says nothing
_SYMMETRIES: dict[Augment, TTA] = {
    "none": "one", "flips": "flips", "crops": "flips", "dihedral": "dihedral", "affine": "dihedral",
}  # fmt: skip


def symmetric_maps(network: Network, images: Tensor, augment: Augment) -> tuple[Tensor, Tensor]:
    """Logits and maps, averaged over the symmetries that the network was trained to ignore.

    Each mirrored or turned input gives a map, which is turned back. Strides make a network see a picture and its mirror
    image a little differently; the mean has the symmetry exactly and less noise. Images are (B, 3, S, S), normalized;
    networks trained with "flips" and "crops" have two symmetries, with "dihedral" and "affine" eight.

    Returns:
        logits (B, K) and maps (B, K, h, w), detached; what adds up to logits still does.
    """
    logits, maps = [], []
    with torch.no_grad(), evaluating(network):
        for turns, mirrored in SIDES[_SYMMETRIES[augment]]:
            inputs = transformed(images, turns, mirrored)
            inputs = inputs if turns else inputs.contiguous()  # the order in memory decides a convolution's last bit
            side_logits, side_maps = network.maps(inputs)
            logits.append(side_logits)
            maps.append(undone(side_maps, turns, mirrored))
    return torch.stack(logits).mean(0), torch.stack(maps).mean(0)


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Pictures uint8 (N, S, S, 3), as the network sees them, with pseudo-boxes float32 (N, 4), xyxy in shares of the
    input. Weights float32 (N,) are the classifier's probabilities of their labels; so many others gave no box.
    """

    pictures: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    weights: NDArray[np.float32]
    skipped: int


def make_pseudo_labels(
    network: Network, run: Run, examples: Sequence[Example], calibration: Calibration, without: Sequence[str] = ()
) -> PseudoLabels:
    """Pseudo-boxes of training pictures, from the map of each picture's label by a trained run's network.

    A picture with several labels gives the box of the one that the classifier is surest of. Pictures of classes
    ``without`` an object ("none", "background") are left out.

    Raises:
        TrainingError: there is no class of such a name, or no picture gave a box.
        ImageError: a picture cannot be read.
    """
    for name in without:
        if name not in run.classes:
            raise TrainingError(f"localizer: no class {name!r} to leave out; the run knows {', '.join(run.classes)}")
    left_out = {run.classes.index(name) for name in without}
    of_objects = [
        replace(example, labels=tuple(label for label in example.labels if label not in left_out))
        for example in examples
    ]
    pictures, boxes, weights, skipped = [], [], [], 0
    for label_map in _label_maps(network, run, [example for example in of_objects if example.labels]):
        box = calibration.boxes(label_map.heatmap)[:1].astype(np.float32) / np.tile(label_map.heatmap.shape[::-1], 2)
        if not len(box) or (box[0, 2:] - box[0, :2]).min() > _MOST_SIDE:
            skipped += 1
            continue
        pictures.append(label_map.shown)
        boxes.append(box[0])
        weights.append(label_map.probability)
    if not boxes:
        raise TrainingError("localizer: no picture gave a pseudo-box; train the run longer, or give a calibration")
    return PseudoLabels(np.stack(pictures), np.array(boxes, np.float32), np.array(weights, np.float32), skipped)


def calibrate_pseudo_labels(run: Path, records: Sequence[Record]) -> Calibration:
    """Choose how the averaged maps become pseudo-boxes, with the true boxes of a validation split.

    Args:
        run: a folder of ``fit``.
        records: validation pictures; those without a label or a box are left out.

    Raises:
        TrainingError: none has both.
        ModelError: the run cannot be opened.
    """
    used = [record for record in records if record.example.labels and len(record.truth.boxes)]
    if not used:
        raise TrainingError("localizer: no validation picture has a label and a box; leave calibration out")
    network, record = open_network(run)
    maps = _label_maps(network, record, [labelled.example for labelled in used])
    return calibrate(
        (label_map.heatmap, _shown_boxes(labelled.truth, label_map.pixels, record.preprocess))
        for labelled, label_map in zip(used, maps, strict=True)
    )


def _shown_boxes(truth: Truth, pixels: Pixels, preprocess: Preprocess) -> NDArray[np.float64]:
    """The true boxes of a picture, in pixels of what the network is shown of it."""
    x0, y0, x1, y1 = preprocess(pixels)[1].seen_xyxy
    height, width = preprocess.size_hw
    scale = np.tile([width / (x1 - x0), height / (y1 - y0)], 2)
    boxes: NDArray[np.float64] = (truth.boxes_at(pixels.shape[:2], pixels.shape[:2]) - np.tile([x0, y0], 2)) * scale
    return boxes


class _LabelMap(NamedTuple):
    """A picture, what the network is shown of it, the averaged map of its surest label laid over that, and the
    classifier's probability of that label.
    """

    pixels: Pixels
    shown: Pixels
    heatmap: NDArray[np.float32]
    probability: float


def _label_maps(network: Network, run: Run, examples: Sequence[Example]) -> Iterator[_LabelMap]:
    for start in range(0, len(examples), _BATCH):
        part = examples[start : start + _BATCH]
        pictures = [example.read().pixels for example in part]
        shown = [seen(pixels, run.preprocess) for pixels in pictures]
        images = normalized(torch.from_numpy(np.stack(shown)), run.preprocess)
        logits, maps = symmetric_maps(network, images, run.config.augment)
        probabilities = logits.float().sigmoid() if run.multi_label else logits.float().softmax(1)
        view = View.whole((images.shape[2], images.shape[3]))
        for i, example in enumerate(part):
            label = example.labels[int(probabilities[i, list(example.labels)].argmax())]
            heatmap = view.project(maps[i, label].float().numpy())
            yield _LabelMap(pictures[i], shown[i], heatmap, float(probabilities[i, label]))
