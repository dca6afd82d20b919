"""ONNX files with maps among their outputs, and the bundled demonstration model, which is one."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from camlucida.errors import MethodError, ModelError
from camlucida.methods.registry import Method
from camlucida.models import Model
from camlucida.onnx.session import OnnxRunner
from camlucida.preprocess import Preprocess
from camlucida.runner import Runner

DEMO = "demo.onnx"
DEMO_NOTE = (
    "this is the demonstration model, which knows only everyday things of 73 classes (camlucida info demo); "
    "name another with -m, such as -m timm:resnet50.a1_in1k"
)


def open_demo(name: str = "demo") -> Model:
    """The bundled demonstration model."""
    with resources.as_file(resources.files("camlucida") / "assets" / DEMO) as path:
        return _open(path, name, DEMO_NOTE)


def open_onnx(name: str) -> Model:
    """Open an ONNX file with outputs ``logits`` (N, K), ``maps`` (N, K, h, w) and ``bias`` (K,).

    Its metadata may carry ``labels`` (a JSON list) and ``preprocess`` (a JSON object of Preprocess's fields).

    Raises:
        ModelError: no such file, no ONNX, or without maps.
    """
    return _open(Path(name), name, "")


def _open(path: Path, name: str, note: str) -> Model:
    session = OnnxRunner(path, name)
    labels = _json(session.metadata.get("labels"), name, "labels")
    fields = _json(session.metadata.get("preprocess"), name, "preprocess")

    def runner(method: Method, layer: Any) -> Runner:
        if method.name != "cam":
            raise MethodError(
                f"{name}: an ONNX model gives its own maps (cam), not {method.name}; use a PyTorch model for that"
            )
        if layer is not None:
            raise MethodError(f"{name}: an ONNX model has no layers to choose; leave layer out")
        return session

    if labels is not None:
        named = isinstance(labels, list) and all(isinstance(each, str) for each in labels)
        if not named or len(labels) not in ({session.classes} if session.classes > 1 else {1, 2}):
            raise ModelError(f"{name}: its metadata 'labels' is not a list of {session.classes} names")
    return Model(name, runner, _preprocess(fields, session, name), tuple(labels) if labels else None, None, note)


def _json(text: str | None, name: str, what: str) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelError(f"{name}: its metadata {what!r} is not JSON ({error})") from error


def _preprocess(fields: Any, session: OnnxRunner, name: str) -> Preprocess:
    if fields is None:
        return Preprocess(session.input_hw or (224, 224), crop_fraction=0.875)
    try:
        tuples: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
        return Preprocess(**tuples)
    except (TypeError, AttributeError) as error:
        raise ModelError(f"{name}: its metadata 'preprocess' does not describe one ({error})") from error
