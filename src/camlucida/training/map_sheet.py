"""A sheet of validation pictures under the maps of their classes, to see a network learn where to look."""

from __future__ import annotations

import numpy as np
import torch

from camlucida.drawing import overlay as draw
from camlucida.images.preprocess import View
from camlucida.pytorch.state import evaluating
from camlucida.training.augment import Pixels
from camlucida.training.example_batches import Key, Pictures, normalized
from camlucida.training.network import Network
from camlucida.training.run_folder import Run

MOST = 12


def map_sheet(network: Network, pictures: Pictures, run: Run) -> Pixels:
    """The maps of the labels of up to ``MOST`` pictures, spread evenly over the set.

    Returns:
        H×W×3 uint8: a grid of overlays, each map at its own scale, with the label's probability below.
    """
    indices = np.unique(np.linspace(0, len(pictures) - 1, MOST).astype(int))
    items = [pictures[Key(0, run.preprocess.size_hw[0], int(at))] for at in indices]
    shown = np.stack([picture for picture, _, _ in items])
    device = next(network.parameters()).device
    with torch.inference_mode(False), torch.no_grad(), evaluating(network):
        logits, maps = network.maps(normalized(torch.from_numpy(shown), run.preprocess).to(device))
    chances = (logits.sigmoid() if run.multi_label else logits.softmax(1)).float().cpu().numpy()
    heat = View.whole(run.preprocess.size_hw).project(maps.float().cpu().numpy())
    classes = [int(target.argmax()) for _, target, _ in items]
    overlays = [draw.overlay(picture, heat[i, c]) for i, (picture, c) in enumerate(zip(shown, classes, strict=True))]
    captions = [f"{run.classes[c]}: {chances[i, c]:.2f}" for i, c in enumerate(classes)]
    return draw.contact_sheet(overlays, captions)
