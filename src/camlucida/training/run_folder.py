"""The folder of a training run: its record ``model.json``, its weights ``model.safetensors``, and it as a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

import camlucida
from camlucida.boxes.calibration import Calibration
from camlucida.errors import ModelError, TrainingError
from camlucida.images.picture import shown
from camlucida.images.preprocess import Preprocess
from camlucida.methods.registry import Method
from camlucida.models.model import Model
from camlucida.pytorch.state import evaluating
from camlucida.runners.arrays import to_array, to_tensor
from camlucida.runners.runner import Facts, MapBatch, Runner, picked
from camlucida.runners.torch_runner import TorchRunner
from camlucida.targets import Classes, Expected, choose
from camlucida.training import saved_files
from camlucida.training.config import TrainConfig
from camlucida.training.network import Network, make_network

RECORD, WEIGHTS = "model.json", "model.safetensors"

State = Literal["training", "complete"]


@dataclass(frozen=True)
class Run:
    """What ``model.json`` says.

    Attributes:
        config: how it was trained.
        classes: their names.
        multi_label: whether a picture may have several classes, or none.
        preprocess: how pictures become inputs.
        data: fingerprints of the training and the validation pictures with their labels.
        state: "complete", or "training" while it goes on (or was killed).
        calibration: how boxes are made of its maps; None: not calibrated.
    """

    config: TrainConfig
    classes: tuple[str, ...]
    multi_label: bool
    preprocess: Preprocess
    data: tuple[str, ...] = ()
    state: State = "training"
    calibration: Calibration | None = None


def write_record(folder: Path, run: Run) -> None:
    """Write ``model.json``, whole."""
    saved_files.write_record_file(folder / RECORD, {"camlucida": camlucida.__version__, **asdict(run)})


def read_record(folder: Path) -> Run:
    """What ``write_record`` wrote.

    Raises:
        ModelError: there is no such file, or it is none of ours.
    """
    return saved_files.read_record_file(folder / RECORD, "a training run", _run_of)


def _run_of(values: dict[str, Any]) -> Run:
    calibration = values.get("calibration")
    return Run(
        TrainConfig.from_json(values["config"]), tuple(str(name) for name in values["classes"]),
        bool(values["multi_label"]), saved_files.preprocess_of(values["preprocess"]),
        tuple(map(str, values.get("data", ()))),
        "complete" if values.get("state") == "complete" else "training",
        None if calibration is None else Calibration.from_dict(calibration),
    )  # fmt: skip


def store_calibration(folder: Path, calibration: Calibration) -> None:
    """Put a calibration into the record of a run."""
    write_record(folder, replace(read_record(folder), calibration=calibration))


def write_weights(folder: Path, network: Network) -> None:
    """Write ``model.safetensors``, whole."""
    saved_files.write_weights_file(folder / WEIGHTS, network.used_state())


def open_network(folder: Path) -> tuple[Network, Run]:
    """The trained network, in evaluation mode, and the record of its run.

    Raises:
        ModelError: the folder has no record or no weights, or they do not fit each other.
    """
    run = read_record(folder)
    _check_code(folder, run.config)
    with saved_files.reading_weights(folder / WEIGHTS) as weights:
        network = make_network(replace(run.config, pretrained=False), len(run.classes))
        network.load_used_state(weights)
    return network.eval(), run


def _check_code(folder: Path, config: TrainConfig) -> None:
    """A run must not bring code of its own: whoever opens it may not know where it comes from."""
    file, python, _ = config.backbone.partition(".py:")
    if python and Path(f"{file}.py").resolve().is_relative_to(folder.resolve()):
        raise ModelError(
            f"{shown(folder)}: its backbone {file}.py lies inside of it; put code elsewhere, where you trust it"
        )


def open_run(name: str | Path) -> Model:
    """Open the folder of a run as a model, for ``map``, ``evaluate`` and ``export``.

    Raises:
        ModelError: see ``open_network``.
    """
    folder = Path(name)
    network, run = open_network(folder)

    def runner(method: Method, layer: Any, expected: Expected | None = None) -> Runner:
        if method.name == "cam" and layer is None:
            return OwnMaps(network, run.config.head)
        return TorchRunner(network, method, layer, expected)

    note = "" if run.state == "complete" else "its training is not finished: these are the best weights so far"
    return Model(
        shown(folder), runner, run.preprocess, run.classes, "sigmoid" if run.multi_label else "softmax", note,
        run.calibration, module=network,
    )  # fmt: skip


class OwnMaps:
    """Explains by the maps that the network itself has (see its head): exact where the head's pooling allows."""

    def __init__(self, network: Network, head: str) -> None:
        self.network, self.head = network, head

    def explain(self, batch: Any, classes: Classes, class_names: Sequence[str] | None) -> MapBatch:
        """The maps of the asked classes, or of a score's linear combination of them."""
        logits, maps = self._of_all(batch)
        own = self.network.head.bias()
        bias = np.full(logits.shape[1], np.nan, np.float32) if own is None else to_array(own)
        targets = choose(classes, logits, class_names)
        if targets.weights is None and not targets.everything:
            raise ModelError("a run's own maps explain classes and their contrasts; for another score use a method "
                             "such as gradcam")  # fmt: skip
        return picked(logits, maps, bias, targets, self._facts(maps))

    def predict(self, batch: Any) -> NDArray[np.float32]:
        """Logits (B, K) alone."""
        with torch.inference_mode(), evaluating(self.network):
            return to_array(self.network(_plain(batch)))

    def facts(self, batch: Any) -> Facts:
        """What one pass of one picture shows."""
        return self._facts(self._of_all(batch[:1])[1])

    def _of_all(self, batch: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits (B, K) and the maps of every class."""
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.network):
            logits, maps = self.network.maps(_plain(batch))
        return to_array(logits), to_array(maps)

    def _facts(self, maps: NDArray[np.float32]) -> Facts:
        exact = self.network.head.bias() is not None
        what = "the map is exact" if exact else "its projection at each cell, which sums to no logit"
        grid = (int(maps.shape[2]), int(maps.shape[3]))
        return Facts(f"{self.head}: {what}", "the trunk's last features", grid, int(maps.shape[1]), None)


def _plain(batch: Any) -> torch.Tensor:
    return to_tensor(batch).detach().float().cpu()


def check_resumable(folder: Path, run: Run) -> State | None:
    """Whether this run may go on in this folder: None where nothing is there yet, else the state of the run that is.

    Raises:
        TrainingError: the folder holds a run of another configuration, other classes or other pictures, or other files.
    """
    if not saved_files.is_resumable(folder, RECORD, "run"):
        return None
    there = read_record(folder)
    differences = run.config.differences(there.config)
    if there.classes != run.classes:
        differences.append(f"classes: {len(run.classes)} here, {len(there.classes)} there, or of other names")
    if there.data != run.data:
        differences.append("data: other pictures or labels")
    if differences:
        raise TrainingError(
            f"{shown(folder)}: holds a run of another configuration ({'; '.join(differences)}); choose another folder"
        )
    return there.state
