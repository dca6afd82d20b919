"""A network that puts one box on any picture without knowing its label, taught by a classifier's maps.

The idea is that of Zhang, Cao and Wu, "Rethinking the Route Towards Weakly Supervised Object Localization", CVPR 2020
(PSOL): localization does not depend on the class, and a network trained on noisy pseudo-boxes averages their noise out.
Here the pseudo-boxes are those of a trained run's maps, and the network is dense: a score and the distances to the four
sides at every cell (as Tian et al., "FCOS", ICCV 2019), so that it learns from scratch and its scores are a heatmap.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from camlucida.errors import CamlucidaError, MissingExtraError, ModelError, TrainingError
from camlucida.images.picture import shown
from camlucida.images.preprocess import Preprocess
from camlucida.pytorch.state import evaluating
from camlucida.results.saving import write_whole
from camlucida.training.backbones import Trunk
from camlucida.training.box_regression import decoded
from camlucida.training.config import TrainConfig
from camlucida.training.network import make_network

RECORD, WEIGHTS = "localizer.json", "localizer.safetensors"
_VERSION = 1
_MOST_RECORD, _MOST_WEIGHTS = 2**20, 8 * 2**30  # bytes


@dataclass(frozen=True)
class LocalizerConfig:
    """How a localizer is trained; its trunk, size and preprocessing are the classifier's.

    Attributes:
        epochs: passes over the pictures with a pseudo-box.
        batch: pictures a step.
        lr: AdamW's at the beginning; it falls as a cosine.
        weight_decay: AdamW's.
        seed: of everything random.
        fresh: begin with new weights instead of the classifier's trunk.
    """

    epochs: int = 12
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0
    fresh: bool = False

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise TrainingError(f"localizer: {name}: expected a whole number of at least {least}, got {value!r}")
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise TrainingError(f"localizer: {name}: expected a number of at least 0, got {value!r}")


class LocalizerNetwork(nn.Module):
    """A trunk, a 3×3 convolution, and at every cell a score and four distances."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        channels = trunk.channels[-1]
        units = min(channels, 256)
        self.hidden = nn.Conv2d(channels, units, 3, padding=1)
        self.answer = nn.Conv2d(units, 5, 1)
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
        nn.init.normal_(self.answer.weight, std=0.01)
        nn.init.constant_(self.answer.bias, 0.0) if self.answer.bias is not None else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), normalized, to boxes (B, 4) in shares of the input and weights of cells (B, h, w)."""
        answer = self.answer(F.relu(self.hidden(self.trunk(images)))).float()
        return decoded(answer[:, 0], F.softplus(answer[:, 1:] - 1.5))  # distances of a fifth to begin with


@dataclass(frozen=True)
class LocalizerRecord:
    """What ``localizer.json`` says.

    Attributes:
        trunk: the classifier's configuration, which makes the trunk.
        preprocess: how pictures become inputs.
        config: how it was trained.
        taught: what the pseudo-boxes came from: digests and settings, as plain values.
        state: "complete", or "training".
    """

    trunk: TrainConfig
    preprocess: Preprocess
    config: LocalizerConfig
    taught: dict[str, Any]
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

    def boxes(self, images: Tensor) -> NDArray[np.float64]:
        """Boxes (B, 4) of inputs (B, 3, H, W), normalized: xyxy in pixels of the input, inside of it."""
        boxes, _ = self._run(images)
        height, width = images.shape[-2:]
        made: NDArray[np.float64] = np.clip(boxes.double().numpy(), 0, 1) * [width, height, width, height]
        return made

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
        found = []
        for pixels in pictures:
            values, view = self.record.preprocess(pixels)
            height, width = values.shape[-2:]
            x0, y0, x1, y1 = view.seen_xyxy
            box = self.boxes(torch.from_numpy(np.ascontiguousarray(values))[None])[0] / [width, height, width, height]
            whole = box * np.tile([x1 - x0, y1 - y0], 2) + np.tile([x0, y0], 2)
            found.append(np.clip(whole, 0, np.tile(view.image_hw[::-1], 2)))
        return np.array(found, np.float64).reshape(-1, 4)

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.network):
            boxes, weights = self.network(images.float())
        return boxes.cpu(), weights.cpu()


def make_localizer(config: TrainConfig, classes: int, seed: int) -> LocalizerNetwork:
    """A new localizer with the trunk of a classifier's configuration; what is random is drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LocalizerNetwork(make_network(replace(config, pretrained=False, seed=seed), classes).trunk)


def write_localizer(folder: Path, network: LocalizerNetwork, record: LocalizerRecord) -> None:
    """Write weights, then the record; each whole.

    Raises:
        OutputError: they cannot be written.
        MissingExtraError: safetensors is not installed.
    """
    try:
        from safetensors.torch import save
    except ModuleNotFoundError as error:
        raise MissingExtraError("safetensors", "train") from error
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    write_whole(folder / WEIGHTS, save(state))
    values = {"version": _VERSION, **asdict(record), "trunk": record.trunk.as_json()}
    write_whole(folder / RECORD, json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n")


def open_localizer(folder: str | Path) -> Localizer:
    """Open the folder that ``fit_localizer`` wrote, or the folder of the run that it lies in.

    Raises:
        ModelError: there is no localizer, it is not finished, or its files are damaged.
    """
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise MissingExtraError("safetensors", "train") from error
    folder = Path(folder)
    if not (folder / RECORD).is_file() and (folder / "localizer" / RECORD).is_file():
        folder = folder / "localizer"
    record = read_localizer(folder)
    if record.state != "complete":
        raise ModelError(f"{shown(folder)}: its training is not finished; the same command goes on")
    path = folder / WEIGHTS
    if not path.is_file() or path.stat().st_size > _MOST_WEIGHTS:
        raise ModelError(f"{shown(path)}: not there, or larger than {_MOST_WEIGHTS // 2**30} GiB")
    try:
        network = make_localizer(record.trunk, 1, record.config.seed)
        network.load_state_dict(load_file(path))
    except CamlucidaError:
        raise
    except Exception as error:  # safetensors has its own error for damaged files
        raise ModelError(f"{shown(path)}: damaged ({type(error).__name__}); train the localizer again") from error
    return Localizer(network.eval(), record)


def read_localizer(folder: Path) -> LocalizerRecord:
    """What ``localizer.json`` says; raises ModelError if it is not there or damaged."""
    path = folder / RECORD
    try:
        if path.stat().st_size > _MOST_RECORD:
            raise ModelError(f"{shown(path)}: larger than {_MOST_RECORD // 2**20} MiB; not the record of a localizer")
        values = json.loads(path.read_bytes())
    except OSError as error:
        why = error.strerror or error
        raise ModelError(f"{shown(path)}: cannot be read ({why}); not the folder of a localizer?") from error
    except ValueError as error:
        raise ModelError(f"{shown(path)}: no JSON; not the record of a localizer") from error
    if not isinstance(values, dict) or values.get("version") != _VERSION:
        raise ModelError(f"{shown(path)}: not the record of a localizer of version {_VERSION}")
    try:
        tuples: dict[str, Any] = {
            name: tuple(one) if isinstance(one, list) else one for name, one in values["preprocess"].items()
        }
        known = {field.name for field in fields(LocalizerConfig)}
        config = LocalizerConfig(**{name: value for name, value in values["config"].items() if name in known})
        trunk, state = TrainConfig.from_json(values["trunk"]), str(values["state"])
        return LocalizerRecord(trunk, Preprocess(**tuples), config, dict(values["taught"]), state)
    except (KeyError, TypeError, ValueError, AttributeError, CamlucidaError) as error:
        raise ModelError(f"{shown(path)}: {type(error).__name__}: {error}") from error
