"""A sheet of validation pictures under the maps of their classes, to see a network learn where to look."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from camlucida.drawing import overlay as draw
from camlucida.images.preprocess import Preprocess, View
from camlucida.pytorch.state import evaluating
from camlucida.training.augment import Pixels
from camlucida.training.example_batches import Key, Pictures, normalized
from camlucida.training.network import Network

MOST = 12


def map_sheet(
    network: Network, pictures: Pictures, preprocess: Preprocess, names: Sequence[str], most: int = MOST
) -> Pixels:
    """The maps of the labels of up to ``most`` pictures, spread evenly over the set.

    Returns:
        H×W×3 uint8: a grid of overlays, each map at its own scale, with the label's probability below.
    """
    indices = np.unique(np.linspace(0, len(pictures) - 1, most).astype(int))
    size = preprocess.size_hw[0]
    items = [pictures[Key(0, size, int(at))] for at in indices]
    shown = np.stack([picture for picture, _, _ in items])
    device = next(network.parameters()).device
    with torch.inference_mode(False), torch.no_grad(), evaluating(network):
        logits, maps = network.maps(normalized(torch.from_numpy(shown), preprocess).to(device))
    chances = (logits.sigmoid() if pictures.labels.multi else logits.softmax(1)).float().cpu().numpy()
    heat = View.whole(preprocess.size_hw).project(maps.float().cpu().numpy())
    classes = [int(target.argmax()) for _, target, _ in items]
    overlays = [draw.overlay(picture, heat[i, c]) for i, (picture, c) in enumerate(zip(shown, classes, strict=True))]
    captions = [f"{names[c]}: {chances[i, c]:.2f}" for i, c in enumerate(classes)]
    return draw.contact_sheet(overlays, captions)
