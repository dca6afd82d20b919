"""A network that puts one box on any picture without knowing its label, taught by a classifier's maps.

The idea is that of Zhang, Cao and Wu, "Rethinking the Route Towards Weakly Supervised Object Localization", CVPR 2020
(PSOL): localization does not depend on the class, and a network trained on noisy pseudo-boxes averages their noise out.
Here the pseudo-boxes are those of a trained run's maps, and the network is dense: a score and the distances to the four
sides at every cell (as Tian et al., "FCOS", ICCV 2019), so that it learns from scratch and its scores are a heatmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from camlucida.errors import ModelError, TrainingError
from camlucida.images.picture import Picture, shown
from camlucida.images.preprocess import Preprocess
from camlucida.pytorch.state import evaluating
from camlucida.training import saved_files
from camlucida.training.backbones import Backbone
from camlucida.training.box_regression import decoded
from camlucida.training.config import TrainConfig, check_whole_numbers
from camlucida.training.network import make_network

RECORD, WEIGHTS = "localizer.json", "localizer.safetensors"


@dataclass(frozen=True)
class LocalizerConfig:
    """How a localizer is trained; its backbone, size and preprocessing are the classifier's.

    Attributes:
        epochs: passes over the pictures with a pseudo-box.
        batch: pictures a step.
        lr: AdamW's at the beginning; it falls as a cosine.
        weight_decay: AdamW's.
        seed: of everything random.
        fresh: begin with new weights instead of the classifier's backbone.
    """

    epochs: int = 12
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0
    fresh: bool = False

    def __post_init__(self) -> None:
        check_whole_numbers(self, {"epochs": 1, "batch": 1, "seed": 0}, "localizer: ")
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise TrainingError(f"localizer: {name}: expected a number of at least 0, got {value!r}")


class LocalizerNetwork(nn.Module):
    """A backbone, a 3×3 convolution, and at every cell a score and four distances."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.trunk = backbone  # what weights are called by in files
        channels = backbone.channels[-1]
        units = min(channels, 256)
        self.hidden = nn.Conv2d(channels, units, 3, padding=1)
        self.answer = nn.Conv2d(units, 5, 1)
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
        nn.init.normal_(self.answer.weight, std=0.01)
        nn.init.zeros_(self.answer.bias) if self.answer.bias is not None else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), normalized, to boxes (B, 4) in shares of the input and weights of cells (B, h, w)."""
        answer = self.answer(F.relu(self.hidden(self.trunk(images)))).float()
        return decoded(answer[:, 0], F.softplus(answer[:, 1:] - 1.5))  # distances of a fifth to begin with


@dataclass(frozen=True)
class LocalizerRecord:
    """What ``localizer.json`` says: the configuration of the classifier, which makes the backbone; how pictures become
    inputs; how it was trained; what the pseudo-boxes came from, digests and settings as plain values; and the state of
    its training, "training" or "complete".
    """

    classifier: TrainConfig
    preprocess: Preprocess
    config: LocalizerConfig
    source: dict[str, Any]
    state: str = "training"


@dataclass(frozen=True, eq=False)
class Localizer:
    """A trained localizer: one box for any picture.

    Attributes:
        network: in evaluation mode.
        record: what it was made of.
    """

    network: LocalizerNetwork
    record: LocalizerRecord

    def boxes(self, picture: Picture) -> NDArray[np.float64]:
        """The one box (1, 4) of a picture of any size: half-open xyxy in its own pixels, inside of it."""
        return self.find([picture.pixels])

    def input_boxes(self, images: Tensor) -> NDArray[np.float64]:
        """Boxes (B, 4) of inputs (B, 3, H, W), normalized: xyxy in pixels of the input, inside of it."""
        shares, _ = self._run(images)
        height, width = images.shape[-2:]
        boxes: NDArray[np.float64] = np.clip(shares.double().numpy(), 0, 1) * [width, height, width, height]
        return boxes

    def heatmaps(self, images: Tensor) -> NDArray[np.float32]:
        """How far each cell of inputs (B, 3, H, W) has a say in the box: (B, h, w), at least 0, of sum 1."""
        weights: NDArray[np.float32] = self._run(images)[1].numpy()
        return weights

    def find(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """One box a picture, in its own pixels.

        Args:
            pictures: each uint8 H×W×3, RGB, of any size.

        Returns:
            (N, 4) half-open xyxy, inside of each picture.

        Raises:
            ImageError: a picture is not of that kind.
        """
        boxes = []
        for pixels in pictures:
            values, view = self.record.preprocess(pixels)
            x0, y0, x1, y1 = view.seen_xyxy
            box = self.input_boxes(torch.from_numpy(np.ascontiguousarray(values))[None])[0]
            scale = np.tile([x1 - x0, y1 - y0], 2)
            in_picture = box / np.tile(values.shape[:0:-1], 2) * scale + np.tile([x0, y0], 2)
            boxes.append(np.clip(in_picture, 0, np.tile(view.image_hw[::-1], 2)))
        return np.array(boxes, np.float64).reshape(-1, 4)

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.network):
            boxes, weights = self.network(images.float())
        return boxes.cpu(), weights.cpu()


def make_localizer(config: TrainConfig, classes: int, seed: int) -> LocalizerNetwork:
    """A new localizer with the backbone of a classifier's configuration; what is random is drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LocalizerNetwork(make_network(replace(config, pretrained=False, seed=seed), classes).backbone)


def write_localizer(folder: Path, network: LocalizerNetwork, record: LocalizerRecord) -> None:
    """Write weights, then the record; each whole."""
    saved_files.write_weights_file(folder / WEIGHTS, network.state_dict())
    values = {
        "trunk": record.classifier.as_json(), "preprocess": asdict(record.preprocess), "config": asdict(record.config),
        "taught": record.source, "state": record.state,
    }  # fmt: skip
    saved_files.write_record_file(folder / RECORD, values)


def open_localizer(folder: str | Path) -> Localizer:
    """Open the folder that ``fit_localizer`` wrote, or the folder of the run that it lies in.

    Raises:
        ModelError: there is no localizer, it is not finished, or its files are damaged.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file() and (folder / "localizer" / RECORD).is_file():
        folder = folder / "localizer"
    record = read_localizer(folder)
    if record.state != "complete":
        raise ModelError(f"{shown(folder)}: its training is not finished; the same command goes on")
    with saved_files.reading_weights(folder / WEIGHTS) as weights:
        network = make_localizer(record.classifier, 1, record.config.seed)
        network.load_state_dict(weights)
    return Localizer(network.eval(), record)


def read_localizer(folder: Path) -> LocalizerRecord:
    """What ``localizer.json`` says; raises ModelError if it is not there or damaged."""
    return saved_files.read_record_file(folder / RECORD, "a localizer", _record_of)


def _record_of(values: dict[str, Any]) -> LocalizerRecord:
    preprocess, classifier = saved_files.preprocess_of(values["preprocess"]), TrainConfig.from_json(values["trunk"])
    known = {field.name for field in fields(LocalizerConfig)}
    config = LocalizerConfig(**{name: value for name, value in values["config"].items() if name in known})
    return LocalizerRecord(classifier, preprocess, config, dict(values["taught"]), str(values["state"]))
