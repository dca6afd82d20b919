"""ONNX files, with maps among their outputs or without, and the bundled demonstration model, which has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from camlucida.errors import MethodError, MissingExtraError
from camlucida.methods.registry import WITHOUT_GRADIENTS, Method
from camlucida.models.model import Model, with_fields
from camlucida.onnx.class_output import ChosenOutput, class_rows, count_classes, session_output
from camlucida.onnx.external_data import OnnxContent, content_of
from camlucida.onnx.foreign_metadata import assumed_preprocess
from camlucida.onnx.metadata import read_metadata
from camlucida.onnx.session import OnnxSession
from camlucida.onnx.sidecar import Sidecar, read_sidecar
from camlucida.runners.onnx_maps import OnnxRunner
from camlucida.runners.runner import Runner
from camlucida.targets import OutputName

DEMO = "demo.onnx"
DEMO_NOTE = (
    "this is the demonstration model, which knows only everyday things of 73 classes (camlucida info demo); "
    "name another with -m, such as -m timm:resnet50.a1_in1k"
)


def open_demo(
    name: str = "demo",
    *,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    output: OutputName = None,
) -> Model:
    """The bundled demonstration model; see ``open_onnx``."""
    path = resources.files("camlucida.models") / DEMO
    return _open(lambda: OnnxContent(path.read_bytes()), name, OnnxOptions(providers, threads), DEMO_NOTE)


@dataclass(frozen=True)
class OnnxOptions:
    """How an ONNX file is run and read; see ``open_onnx``."""

    providers: Sequence[str] | None = None
    threads: int | None = None
    output: str | None = None


def open_onnx(
    name: str,
    *,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
    output: OutputName = None,
) -> Model:
    """Open an ONNX classifier.

    With outputs ``logits`` (N, K), ``maps`` (N, K, h, w) and ``bias`` (K,), as ``camlucida export`` writes them, it
    gives its maps by method cam, without PyTorch. Any classifier, with maps or without, is explained by the methods
    that need no gradient, which need PyTorch and onnx installed.

    Its metadata may carry ``labels`` (a JSON list), ``preprocess`` and ``calibration`` (JSON objects of Preprocess's
    and Calibration's fields), and ``activation`` (softmax, sigmoid or none); those of ultralytics and Custom Vision are
    understood too, and what cannot be read is noted. A file beside it that is called alike but ends in ``.toml`` comes
    before them (see ``onnx.sidecar``).

    Args:
        name: the file.
        providers: what runs it, by name: ``cpu``, ``cuda``, ``coreml``, ``directml``, or ONNX Runtime's own names; the
            first is preferred, and the CPU runs what it cannot. None is the CPU.
        threads: on the CPU, within one operation; None: as many as there are cores.
        output: the output that scores the classes, by name or number from 0; None finds it.

    Raises:
        ModelError: no such file, no ONNX classifier of pictures, or a provider that is not there.

    Example:
        >>> from camlucida.models.onnx_file import open_onnx
        >>> open_onnx("absent.onnx", threads=2)
        Traceback (most recent call last):
        camlucida.errors.ModelError: absent.onnx: no such file
    """
    path = Path(name)
    said = read_sidecar(path)
    options = OnnxOptions(providers, threads, said.output if output is None else str(output))
    return beside(_open(partial(content_of, path, name), name, options, ""), said)


def beside(model: Model, said: Sidecar) -> Model:
    """A model, with what the file beside it says."""
    known = replace(
        model, class_names=said.class_names or model.class_names, activation=said.activation or model.activation
    )
    return replace(with_fields(known, said.fields, said.name), preprocess_source="stated") if said.fields else known


def _open(read: Callable[[], OnnxContent], name: str, options: OnnxOptions, note: str) -> Model:
    content = read()
    opened = partial(OnnxSession, name=name, providers=options.providers, threads=options.threads)
    session = opened(content.data, folder=content.folder)
    words, changed = None, False
    if 0 in session.shape:
        content, changed = replace(content, data=_rewriting().with_free_sizes(content.data)), True
        session = opened(content.data, folder=content.folder)
    if not class_rows(session) and any(kind.startswith("seq(map(") for kind in session.types.values()):
        data, words = _rewriting().without_zipmap(content.data, name)
        content, changed = replace(content, data=data), True
        session = opened(content.data, folder=content.folder)
    own = OnnxRunner(session) if "maps" in session.outputs else None
    chosen = ChosenOutput("logits") if own is not None else session_output(session, options.output)
    classes = own.classes if own is not None else count_classes(session, chosen.name)
    metadata = read_metadata(session.metadata, classes, session.takes)
    again = content.data if changed else None
    del content

    @cache
    def classifier() -> Any:
        from camlucida.onnx.onnx_pass import OnnxClassifier

        return OnnxClassifier(
            session, read().data if again is None else again, chosen.name, of_several=bool(chosen.others)
        )

    def runner(method: Method, layer: Any) -> Runner:
        if layer is not None:
            raise MethodError(f"{name}: an ONNX model has no layers to choose; leave layer out")
        if method.name == "cam" and own is not None:
            return own
        if method.name == "cam":
            raise MethodError(
                f"{name}: has no maps among its outputs ({', '.join(session.outputs)}); make them with: camlucida "
                f"export {name} -o cam.onnx (camlucida info tells whether its head allows them), or choose a method "
                f"that needs no gradient: {WITHOUT_GRADIENTS}"
            )
        try:
            from camlucida.runners.onnx_methods import OnnxMethods
        except ModuleNotFoundError as error:
            raise MissingExtraError("PyTorch", "torch") from error
        return OnnxMethods(classifier(), method)

    return Model(
        name, runner, metadata.preprocess or assumed_preprocess(session.takes), metadata.class_names or words,
        metadata.activation, "; ".join(filter(None, (note, chosen.note, *metadata.notes))), metadata.calibration,
        session=session, preprocess_source="assumed" if metadata.preprocess is None else "stated",
    )  # fmt: skip


def _rewriting() -> Any:
    """The module that rewrites files, for which onnx must be installed."""
    try:
        return import_module("camlucida.onnx.rewriting")
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnx", "export") from error
