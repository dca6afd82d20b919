"""The whole way on one screen: read or trace a classifier, add its maps, write, run, compare, and only then keep it."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import camlucida
from camlucida.errors import ExportError, MissingExtraError, ModelError, OutputError
from camlucida.export.picture_outputs import PictureOutputs
from camlucida.export.surgery import GraphFacts, add_maps
from camlucida.export.verify import Check, check_file, compare
from camlucida.export.writing import save, staged
from camlucida.images.picture import shown
from camlucida.images.preprocess import Preprocess
from camlucida.images.sample import sample
from camlucida.onnx.load import read
from camlucida.onnx.metadata import Metadata, stored_class_names, stored_preprocess, usual_preprocess, write_metadata

if TYPE_CHECKING:
    from camlucida.export.torch_graph import TorchGraph


@dataclass(frozen=True)
class ExportOptions(PictureOutputs):
    """What an exported file has beside logits, maps and bias, and what is said of its pictures.

    Attributes:
        top, upsample, boxes: see ``PictureOutputs``.
        class_names: None takes the source's own.
        size_hw: the pictures' height and width; None takes the source's own, or 224.
        mean: of R, G, B, in [0, 1] units, with ``std``; None takes the source's own, or ImageNet's.
        std: of R, G, B, in [0, 1] units, with ``mean``.
    """

    class_names: tuple[str, ...] | None = None
    size_hw: tuple[int, int] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: of the file.
        facts: what the graph is.
        check: how the new file compares with the source's graph.
        parity: for PyTorch sources, |PyTorch - ONNX| of logits and maps over the logits' spread; None for ONNX files.
        bytes_added: by which the file is larger than the source's graph.
        notes: what the user should know.
    """

    path: Path
    facts: GraphFacts
    check: Check
    parity: float | None
    bytes_added: int
    notes: tuple[str, ...] = ()


def export(source: str | Path, out: str | Path, options: ExportOptions | None = None) -> Exported:
    """Write a classifier as an ONNX file whose outputs include its class activation maps.

    The file has outputs ``logits`` (N, K), ``maps`` (N, K, h, w) in logits per cell and ``bias`` (K,), with
    ``maps.sum((2, 3)) + bias == logits``, beside those that the source has. It is written only after it was run on
    random pictures and a real one, and its logits are the source's, and maps and bias add up to them, to 1e-4 of the
    logits' spread (see ``verify.TOLERANCES`` for half precision and integers).

    Args:
        source: an ``.onnx`` file of any classifier, or a PyTorch model as ``open_model`` knows them: ``"timm:…"``,
            ``"torchvision:…"``, ``"hf:…"``, ``"file.py:function"``, or a training run's folder.
        out: the file, ``….onnx``; one that is there is replaced.
        options: see ``ExportOptions``.

    Raises:
        ExportError: the source cannot be read, its head is not affine, or the comparison failed. Nothing was written.
        OutputError: ``out`` cannot be written.
        MissingExtraError: onnx, or what the source needs, is not installed.
    """
    options, out = options or ExportOptions(), Path(out)
    _check(options, source, out)
    with tempfile.TemporaryDirectory(prefix="camlucida-") as scratch:
        traced = None if str(source).endswith(".onnx") else _traced(str(source), options.size_hw, Path(scratch))
        path = Path(source) if traced is None else traced.path
        graph = read(path, None if traced is None else str(source))
        known = _stored(graph.model, graph.name) if traced is None else traced.metadata
        new, facts = add_maps(
            graph.model, options, name=graph.name, folder=graph.folder,
            size_hw=options.size_hw or (known.preprocess.size_hw if known.preprocess else None),
        )  # fmt: skip
        preprocess = _preprocess(known.preprocess, options, facts)
        class_names = options.class_names or known.class_names
        _check_class_names(class_names, facts.classes, graph.name)
        write_metadata(
            new, Metadata(class_names, preprocess, known.calibration, facts.activation or known.activation),
            head=facts.head, features=facts.features, method="cam", camlucida=camlucida.__version__,
            source_sha256=graph.sha256 if traced is None else traced.sha256,
        )  # fmt: skip
        picture = _picture(preprocess, facts)
        with staged(out) as place:
            save(new, place, graph.folder)
            check_file(place, graph.model, graph.name)
            check = compare(graph.model, graph.folder, place, facts, picture, graph.name)
            parity = None if traced is None else traced.compare(place, facts, picture)
            added = place.stat().st_size - path.stat().st_size
    return Exported(out, facts, check, parity, added, _notes(class_names, preprocess))


def _stored(model: Any, name: str) -> Metadata:
    """What an ONNX file says of its classes and pictures; what cannot be read counts as not there."""
    entries = {one.key: one.value for one in model.metadata_props}
    class_names, preprocess = None, None
    with suppress(ModelError):
        class_names = stored_class_names(entries, name)
    with suppress(ModelError):
        preprocess = stored_preprocess(entries, name)
    return Metadata(class_names, preprocess)


def _check(options: ExportOptions, source: str | Path, out: Path) -> None:
    if out.suffix != ".onnx":
        raise OutputError(f"{shown(out)}: expected the name of a file that ends in .onnx")
    if not out.parent.is_dir():
        raise OutputError(f"{shown(out)}: its folder does not exist; make it first")
    if out.is_dir():
        raise OutputError(f"{shown(out)}: a folder, not a file; choose another name")
    if str(source).endswith(".onnx") and Path(source).is_file() and out.is_file() and out.samefile(source):
        raise OutputError(f"{shown(out)}: is the source itself; choose another name")
    if (options.mean is None) != (options.std is None):
        raise ExportError("mean and std belong together: give both, or neither")
    if options.size_hw and not all(1 <= side <= 4096 for side in options.size_hw):
        raise ExportError(f"size: expected a height and width of 1 to 4096 pixels, got {options.size_hw}")


def _traced(source: str, size_hw: tuple[int, int] | None, scratch: Path) -> TorchGraph:
    """A PyTorch model's graph; PyTorch is imported here alone."""
    try:
        from camlucida.export.torch_graph import trace
    except ModuleNotFoundError as error:
        raise MissingExtraError("PyTorch", "torch") from error
    return trace(source, size_hw, scratch)


def _preprocess(known: Preprocess | None, options: ExportOptions, facts: GraphFacts) -> Preprocess | None:
    """The preprocessing as it is known, at the size that the graph takes; None if nothing is known of it."""
    size = facts.graph.size_hw
    if options.size_hw and options.size_hw != size:
        own, wanted = ("×".join(map(str, size_hw)) for size_hw in (size, options.size_hw))
        raise ExportError(f"{facts.graph.name}: takes pictures of {own} pixels, not {wanted}")
    if known is None and options.mean is None and options.size_hw is None:
        return None
    resized = replace(known or usual_preprocess(size), size_hw=size)
    if options.mean is None or options.std is None:
        return resized
    return replace(resized, mean=options.mean, std=options.std)


def _check_class_names(class_names: tuple[str, ...] | None, classes: int, name: str) -> None:
    if class_names is not None and len(class_names) not in ({classes} if classes > 1 else {1, 2}):
        raise ExportError(f"{name}: has {classes} classes, but {len(class_names)} labels were given")


def _picture(preprocess: Preprocess | None, facts: GraphFacts) -> NDArray[np.float32] | None:
    """The sample picture as the graph takes it, (1, 3, H, W); None where it takes no colours."""
    if facts.graph.channels != 3:
        return None
    return (preprocess or usual_preprocess(facts.graph.size_hw))(sample().pixels)[0][None]


def _notes(class_names: tuple[str, ...] | None, preprocess: Preprocess | None) -> tuple[str, ...]:
    notes = []
    if class_names is None:
        notes.append("the names of its classes are unknown; give them with --labels")
    if preprocess is None:
        notes.append("its preprocessing is unknown, and ImageNet's usual is taken; give --size, --mean and --std")
    return tuple(notes)
