"""An opened classifier, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from camlucida.images.preprocess import Preprocess
from camlucida.onnx.sidecar import Sidecar
from camlucida.runners.runner import Runner
from camlucida.targets import Activation, OutputName

if TYPE_CHECKING:
    from torch import nn

    from camlucida.boxes.calibration import Calibration
    from camlucida.onnx.session import OnnxSession

PreprocessSource = Literal["stated", "given", "assumed"]


@dataclass(frozen=True, eq=False)
class Model:
    """An opened classifier, whatever runs it.

    Attributes:
        name: for people and manifests.
        runner: makes the engine for a method (and a layer, where the engine has layers; and, where the model is a
            PyTorch network, what is expected of its output, a ``targets.Expected``).
        preprocess: how pictures become inputs.
        preprocess_source: who says so: "stated" by the model or beside it, "given" by the user, or "assumed".
        class_names: names of the classes, if known.
        activation: how logits become probabilities, if the source says.
        note: what a user should be told with every result.
        calibration: how boxes and masks are made of its maps (``boxes.calibration.Calibration``), if it says so.
        module: the PyTorch network, where one runs.
        session: the ONNX graph, where one runs.
        output: which of the tensors that a PyTorch network returns are its logits; None finds them.
    """

    name: str
    runner: Callable[..., Runner]
    preprocess: Preprocess
    class_names: tuple[str, ...] | None = None
    activation: Activation | None = None
    note: str = ""
    calibration: Calibration | None = None
    module: nn.Module | None = None
    session: OnnxSession | None = None
    output: OutputName = None
    preprocess_source: PreprocessSource = "stated"

    @property
    def assumption(self) -> str:
        """What is assumed of its pictures, in a line; empty where nothing is."""
        return assumed_words(self.preprocess) if self.preprocess_source == "assumed" else ""

    @property
    def picture_note(self) -> str:
        """The note, and what is assumed of its pictures."""
        return "; ".join(filter(None, (self.note, self.assumption)))


def assumed_words(preprocess: Preprocess) -> str:
    """A preprocessing that nobody stated, and how to state it.

    >>> assumed_words(Preprocess((8, 8)))[:95]
    "how its pictures are prepared is not stated; assumed: RGB, 0 to 1, ImageNet's mean and std, 8×8"
    """
    size = "×".join(map(str, preprocess.size_hw))
    return (f"how its pictures are prepared is not stated; assumed: {preprocess.words}, {size} pixels; "
            "else say so: --mean, --std, --scale, --bgr, --size (preprocess= in Python)")  # fmt: skip


ModelLike: TypeAlias = "nn.Module | Model | str | Path | None"
"""A network, a model already opened, or what ``open_model`` opens by name; None is the demonstration model."""


def with_fields(model: Model, fields: Mapping[str, Any], source: str = "") -> Model:
    """A model, its pictures prepared as a user says in part; see ``sidecar.Sidecar.preprocess``.

    Args:
        model: not changed.
        fields: of ``Preprocess``.
        source: who says so, for messages; else the model's name.

    Raises:
        ModelError: the model cannot take such pictures.
    """
    preprocess = Sidecar(source or model.name, fields).preprocess(model.preprocess)
    if model.session is not None:
        preprocess = model.session.takes.checked(preprocess, model.name)
    return replace(model, preprocess=preprocess, preprocess_source="given")
