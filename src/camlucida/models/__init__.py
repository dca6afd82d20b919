"""Opening models: one visible registry of sources, and the bundled demonstration model."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camlucida.errors import ModelError
from camlucida.models.model import Model
from camlucida.targets import OutputName

if TYPE_CHECKING:
    from camlucida.models.model import ModelLike


@dataclass(frozen=True)
class ModelSource:
    """Where models come from: how its names look, what it is, and this package's ``module:function`` that opens one."""

    pattern: str
    summary: str
    opener: str

    def claims(self, name: str) -> bool:
        """Whether a name is of this source: by its beginning (``timm:…``), ending (``….onnx``), or a run's record."""
        if self.pattern == "RUN/":
            return (Path(name) / "model.json").is_file()
        if self.pattern.endswith(":NAME"):
            return name.startswith(self.pattern.removesuffix("NAME"))
        if self.pattern == "FILE.py:FUNCTION":
            return ".py:" in name
        return name.endswith(self.pattern.removeprefix("FILE")) if self.pattern.startswith("FILE") else name == "demo"


__all__ = ["SOURCES", "Model", "ModelSource", "known_sources", "open_model"]

SOURCES = (
    ModelSource("demo", "the bundled demonstration model; no PyTorch needed", "models.onnx_file:open_demo"),
    ModelSource("timm:NAME", "a timm model with its weights [zoo]", "models.zoo:open_timm"),
    ModelSource("torchvision:NAME", "a torchvision model with its weights [zoo]", "models.zoo:open_torchvision"),
    ModelSource("hf:NAME", "a Hugging Face image classifier, by hub name or folder [zoo]", "models.zoo:open_hf"),
    ModelSource("FILE.py:FUNCTION", "a function of your own that returns an nn.Module",
                "models.torch_module:open_file"),
    ModelSource("RUN/", "the folder of a training run (camlucida train) [train]", "training.run_folder:open_run"),
    ModelSource("FILE.onnx", "an ONNX classifier, with maps or without", "models.onnx_file:open_onnx"),
)  # fmt: skip
"""Add your own: a line here, and its opener ``(name) -> Model``."""


def open_model(
    model: ModelLike = None,
    *,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    output: OutputName = None,
) -> Model:
    """Open a model by name, or wrap a module.

    Args:
        model: see ``SOURCES`` for names; None is the demonstration model; an ``nn.Module`` is taken as it is, with
            timm's own preprocessing where it carries one, else ImageNet's usual at 224 pixels.
        providers: what runs an ONNX model; see ``onnx_file.open_onnx``.
        threads: of an ONNX model on the CPU; None: as many as there are cores.
        output: which output of the model scores the classes: a name or number of an ONNX file's outputs; for a PyTorch
            network a name, place or path ("0.logits") among what it returns. None finds it.

    Raises:
        ModelError: no source knows the name, or the model cannot be opened; or what is for ONNX files is given for
            another model.
        MissingExtraError: its source needs an optional dependency.
    """
    engine: dict[str, Any] = {"providers": providers, "threads": threads} if providers or threads is not None else {}
    if isinstance(model, Model):
        _refuse(engine, model.name)
        return _with_output(model, output)
    name = "demo" if model is None else str(model) if isinstance(model, str | Path) else ""
    if not name:
        if not hasattr(model, "forward"):
            raise ModelError(f"model: expected an nn.Module or one of {', '.join(known_sources())}; got {type(model)}")
        from camlucida.models.torch_module import wrap

        _refuse(engine, type(model).__name__)
        return _with_output(wrap(model), output)  # type: ignore[arg-type]
    for source in SOURCES:
        if source.claims(name):
            module, _, function = source.opener.partition(":")
            of_file = module == "models.onnx_file"
            if of_file and output is not None:
                engine["output"] = output
            elif not of_file:
                _refuse(engine, name)
            opened: Model = getattr(importlib.import_module(f"camlucida.{module}"), function)(name, **engine)
            return opened if of_file else _with_output(opened, output)
    raise ModelError(f"{name}: no such kind of model; expected one of {', '.join(known_sources())}")


def _refuse(engine: dict[str, Any], name: str) -> None:
    if engine:
        raise ModelError(f"{name}: providers and threads are chosen for ONNX models, by name; this is none")


def _with_output(model: Model, output: OutputName) -> Model:
    if output is None or model.output == output:
        return model
    if model.module is None:
        raise ModelError(
            f"{model.name}: output={output!r} is chosen when a file is opened, by its name; this model is open"
        )
    return replace(model, output=output)


def known_sources() -> Sequence[str]:
    """How model names look."""
    return [source.pattern for source in SOURCES]
