"""An opened classifier, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from camlucida.images.preprocess import Preprocess
from camlucida.methods.registry import Method
from camlucida.runners.runner import Runner
from camlucida.targets import Activation

if TYPE_CHECKING:
    from torch import nn

    from camlucida.boxes.calibration import Calibration
    from camlucida.onnx.session import OnnxSession


@dataclass(frozen=True, eq=False)
class Model:
    """An opened classifier, whatever runs it.

    Attributes:
        name: for people and manifests.
        runner: makes the engine for a method (and a layer, where the engine has layers).
        preprocess: how pictures become inputs.
        class_names: names of the classes, if known.
        activation: how logits become probabilities, if the source says.
        note: what a user should be told with every result.
        calibration: how boxes and masks are made of its maps (``boxes.calibration.Calibration``), if it says so.
        module: the PyTorch network, where one runs.
        session: the ONNX graph, where one runs.
    """

    name: str
    runner: Callable[[Method, Any], Runner]
    preprocess: Preprocess
    class_names: tuple[str, ...] | None = None
    activation: Activation | None = None
    note: str = ""
    calibration: Calibration | None = None
    module: nn.Module | None = None
    session: OnnxSession | None = None


ModelLike: TypeAlias = "nn.Module | Model | str | Path | None"
"""A network, a model already opened, or what ``open_model`` opens by name; None is the demonstration model."""
