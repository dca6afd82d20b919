"""ONNX files, with maps among their outputs or without, and the bundled demonstration model, which has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from camlucida.errors import MethodError, MissingExtraError, ModelError
from camlucida.methods.registry import WITHOUT_GRADIENTS, Method
from camlucida.models.model import Model
from camlucida.onnx.external_data import OnnxContent, content_of
from camlucida.onnx.metadata import read_metadata, usual_preprocess
from camlucida.onnx.session import OnnxSession
from camlucida.runners.onnx_maps import OnnxRunner
from camlucida.runners.runner import Runner

DEMO = "demo.onnx"
DEMO_NOTE = (
    "this is the demonstration model, which knows only everyday things of 73 classes (camlucida info demo); "
    "name another with -m, such as -m timm:resnet50.a1_in1k"
)


def open_demo(name: str = "demo", *, providers: Sequence[str] | None = None, threads: int | None = None) -> Model:
    """The bundled demonstration model; see ``open_onnx``."""
    path = resources.files("camlucida.models") / DEMO
    return _open(lambda: OnnxContent(path.read_bytes()), name, DEMO_NOTE, providers, threads)


def open_onnx(name: str, *, providers: Sequence[str] | None = None, threads: int | None = None) -> Model:
    """Open an ONNX classifier.

    With outputs ``logits`` (N, K), ``maps`` (N, K, h, w) and ``bias`` (K,), as ``camlucida export`` writes them, it
    gives its maps by method cam, without PyTorch. Any classifier, with maps or without, is explained by the methods
    that need no gradient, which need PyTorch and onnx installed.

    Its metadata may carry ``labels`` (a JSON list), ``preprocess`` and ``calibration`` (JSON objects of Preprocess's
    and Calibration's fields), and ``activation`` (softmax, sigmoid or none).

    Args:
        name: the file.
        providers: what runs it, by name: ``cpu``, ``cuda``, ``coreml``, ``directml``, or ONNX Runtime's own names; the
            first is preferred, and the CPU runs what it cannot. None is the CPU.
        threads: on the CPU, within one operation; None: as many as there are cores.

    Raises:
        ModelError: no such file, no ONNX classifier of pictures, or a provider that is not there.

    Example:
        >>> from camlucida.models.onnx_file import open_onnx
        >>> open_onnx("absent.onnx", threads=2)
        Traceback (most recent call last):
        camlucida.errors.ModelError: absent.onnx: no such file
    """
    return _open(partial(content_of, Path(name), name), name, "", providers, threads)


def _open(
    read: Callable[[], OnnxContent], name: str, note: str, providers: Sequence[str] | None, threads: int | None
) -> Model:
    content = read()
    session = OnnxSession(content.data, name, providers=providers, threads=threads, folder=content.folder)
    del content
    metadata = read_metadata(session.metadata, name)
    own = OnnxRunner(session) if "maps" in session.outputs else None
    output = "logits" if own is not None else _logits_output(session)

    @cache
    def classifier() -> Any:
        from camlucida.onnx.onnx_pass import OnnxClassifier

        return OnnxClassifier(session, read().data, output)

    def runner(method: Method, layer: Any) -> Runner:
        if layer is not None:
            raise MethodError(f"{name}: an ONNX model has no layers to choose; leave layer out")
        if method.name == "cam" and own is not None:
            return own
        if method.name == "cam":
            raise MethodError(
                f"{name}: has no maps among its outputs ({', '.join(session.outputs)}); make them with: camlucida "
                f"export {name} -o cam.onnx, or choose a method that needs no gradient: {WITHOUT_GRADIENTS}"
            )
        try:
            from camlucida.runners.onnx_methods import OnnxMethods
        except ModuleNotFoundError as error:
            raise MissingExtraError("PyTorch", "torch") from error
        return OnnxMethods(classifier(), method)

    if metadata.class_names is not None:
        classes = own.classes if own is not None else _classes(session, output)
        if len(metadata.class_names) not in ({classes} if classes > 1 else {1, 2}):
            raise ModelError(f"{name}: its metadata 'labels' is not a list of {classes} names")
    return Model(
        name, runner, metadata.preprocess or usual_preprocess(session.input_hw or (224, 224)), metadata.class_names,
        metadata.activation, note, metadata.calibration, session=session,
    )  # fmt: skip


def _logits_output(session: OnnxSession) -> str:
    """Which output of a classifier says something of the classes: ``logits``, else the first that looks like (N, K).

    Raises:
        ModelError: none does.
    """
    if "logits" in session.outputs:
        return "logits"
    for output, shape in session.outputs.items():
        rows = len(shape) in (0, 2) or (len(shape) == 4 and shape[2:] == [1, 1])
        if len(shape) == 1 == len(session.outputs):  # a single logit, whose axis was squeezed away
            rows = shape[0] == session.batch if session.batch else not isinstance(shape[0], int)
        if rows and session.types[output] in ("tensor(float)", "tensor(float16)", "tensor(double)"):
            return output
    shown = ", ".join(f"{output} {session.types[output]} {shape}" for output, shape in session.outputs.items())
    raise ModelError(f"{session.name}: none of its outputs is of shape (pictures, classes): {shown}")


def _classes(session: OnnxSession, output: str) -> int:
    """How many classes an output has, by its shape, or else by what it gives for black pictures."""
    shape = session.outputs[output]
    if len(shape) > 1 and isinstance(shape[1], int):
        return shape[1]
    (scores,) = session.run([output], session.blank())
    return int(scores[0].size)  # one, where there is but the pictures' axis
