"""What a localizer learns from: boxes of a trained run's maps on pictures whose labels are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camlucida.boxes.calibration import Calibration, calibrate
from camlucida.data.record import Example, Record
from camlucida.errors import TrainingError
from camlucida.images.preprocess import View
from camlucida.pytorch.state import evaluating
from camlucida.runners.tta import SIDES, TTA, transformed, undone
from camlucida.training.augment import Pixels
from camlucida.training.config import Augment
from camlucida.training.data import normalized, seen
from camlucida.training.network import Network
from camlucida.training.run_folder import Run, open_network

BOXES = Calibration("minmax", threshold=0.5)
"""How maps become boxes where no validation boxes tell it better: above the middle of their range."""

_BATCH = 16
_MOST_SIDE = 0.98  # of the picture: a box of all of it says nothing
_SYMMETRIES: dict[Augment, TTA] = {
    "none": "one", "flips": "flips", "crops": "flips", "dihedral": "dihedral", "affine": "dihedral",
}  # fmt: skip


def symmetric_maps(network: Network, images: Tensor, augment: Augment) -> tuple[Tensor, Tensor]:
    """Logits and maps, averaged over the symmetries that the network was trained to ignore.

    Each mirrored or turned input gives a map, which is turned back. Strides make a network see a picture and its mirror
    image a little differently; the mean has the symmetry exactly and less noise.

    Args:
        network: in any mode; evaluated here.
        images: (B, 3, S, S), normalized.
        augment: what it was trained with: "flips" and "crops" have two symmetries, "dihedral" and "affine" eight.

    Returns:
        logits (B, K) and maps (B, K, h, w), detached; what adds up to logits still does.
    """
    logits, maps = [], []
    with torch.no_grad(), evaluating(network):
        for side in SIDES[_SYMMETRIES[augment]]:
            answer, made = network.maps(transformed(images, *side))
            logits.append(answer)
            maps.append(undone(made, *side))
    return torch.stack(logits).mean(0), torch.stack(maps).mean(0)


@dataclass(frozen=True, eq=False)
class Lessons:
    """Pictures with pseudo-boxes.

    Attributes:
        pictures: uint8 (N, S, S, 3), as the network sees them.
        boxes: float32 (N, 4), xyxy in shares of the input.
        weights: float32 (N,), in [0, 1]: the classifier's probability of the picture's label.
        skipped: how many pictures gave no box.
    """

    pictures: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    weights: NDArray[np.float32]
    skipped: int


def lessons(
    network: Network, run: Run, examples: Sequence[Example], calibration: Calibration, without: Sequence[str] = ()
) -> Lessons:
    """Pseudo-boxes of pictures whose labels are known, from the map of each picture's label.

    A picture with several labels gives the box of the one that the classifier is surest of.

    Args:
        network: of a trained run.
        run: its record.
        examples: training pictures with labels.
        calibration: how a map becomes a box.
        without: names of classes that show no object ("none", "background"); their pictures are left out.

    Raises:
        TrainingError: there is no class of such a name, or no picture gave a box.
        ImageError: a picture cannot be read.
    """
    for name in without:
        if name not in run.classes:
            raise TrainingError(f"localizer: no class {name!r} to leave out; the run knows {', '.join(run.classes)}")
    silent = {run.classes.index(name) for name in without}
    wanted = [(one, [label for label in one.labels if label not in silent]) for one in examples]
    wanted = [(example, labels) for example, labels in wanted if labels]
    pictures, boxes, weights, skipped = [], [], [], 0
    for start in range(0, len(wanted), _BATCH):
        part = wanted[start : start + _BATCH]
        shown = [seen(example.read().pixels, run.preprocess) for example, _ in part]
        for pixels, (heatmap, probability) in zip(
            shown, _heatmaps(network, run, shown, [labels for _, labels in part]), strict=True
        ):
            box = calibration.boxes(heatmap)[:1].astype(np.float32) / np.tile(heatmap.shape[::-1], 2)
            if not len(box) or (box[0, 2:] - box[0, :2]).min() > _MOST_SIDE:
                skipped += 1
                continue
            pictures.append(pixels)
            boxes.append(box[0])
            weights.append(probability)
    if not boxes:
        raise TrainingError("localizer: no picture gave a pseudo-box; train the run longer, or give a calibration")
    return Lessons(np.stack(pictures), np.array(boxes, np.float32), np.array(weights, np.float32), skipped)


def calibrate_lessons(run: Path, records: Sequence[Record]) -> Calibration:
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
    network, made = open_network(run)
    heatmaps: list[NDArray[np.float32]] = []
    boxes = []
    for start in range(0, len(used), _BATCH):
        part = used[start : start + _BATCH]
        pictures = [one.example.read().pixels for one in part]
        shown = [seen(pixels, made.preprocess) for pixels in pictures]
        heatmaps += [heatmap for heatmap, _ in _heatmaps(network, made, shown, [one.example.labels for one in part])]
        for one, pixels, picture in zip(part, pictures, shown, strict=True):
            x0, y0, x1, y1 = made.preprocess(pixels)[1].seen_xyxy
            scale = np.tile([picture.shape[1] / (x1 - x0), picture.shape[0] / (y1 - y0)], 2)
            size_hw = (pixels.shape[0], pixels.shape[1])
            boxes.append((one.truth.boxes_at(size_hw, size_hw) - np.tile([x0, y0], 2)) * scale)
    return calibrate(heatmaps, boxes)


def _heatmaps(
    network: Network, run: Run, shown: Sequence[Pixels], labels: Sequence[Sequence[int]]
) -> list[tuple[NDArray[np.float32], float]]:
    """Of each picture as the network sees it, the averaged map of the surest of its labels, laid over it; and the
    classifier's probability of that label.
    """
    images = normalized(torch.from_numpy(np.stack(shown)), run.preprocess)
    logits, maps = symmetric_maps(network, images, run.config.augment)
    chances = logits.float().sigmoid() if run.multi_label else logits.float().softmax(1)
    view = View.whole((images.shape[2], images.shape[3]))
    surest = [known[int(row[list(known)].argmax())] for known, row in zip(labels, chances, strict=True)]
    return [(view.project(maps[i, label].float().numpy()), float(chances[i, label])) for i, label in enumerate(surest)]
