"""The whole way on one screen: read or trace a classifier, add its maps, write, run, compare, and only then keep it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import camlucida
from camlucida.errors import ExportError, MissingExtraError, OutputError
from camlucida.export.picture_outputs import PictureOutputs
from camlucida.export.surgery import GraphFacts, add_maps
from camlucida.export.verify import Check, check_file, compare
from camlucida.export.writing import save, staged
from camlucida.images.picture import shown
from camlucida.images.preprocess import ChannelOrder, Preprocess
from camlucida.images.sample import sample
from camlucida.onnx.foreign_metadata import NAME_KEYS, assumed_preprocess, names_in
from camlucida.onnx.load import read
from camlucida.onnx.metadata import Metadata, read_metadata, write_metadata
from camlucida.onnx.rewriting import zipmaps, zipped_names
from camlucida.onnx.sidecar import Sidecar, read_sidecar

if TYPE_CHECKING:
    from camlucida.export.torch_graph import TorchGraph


@dataclass(frozen=True)
class ExportOptions(PictureOutputs):
    """What an exported file has beside logits, maps and bias, and what is said of its pictures.

    Attributes:
        top, upsample, boxes: see ``PictureOutputs``.
        class_names: None takes the source's own.
        size_hw: the pictures' height and width; None takes the source's own, or 224.
        mean: of the input's channels, with ``std``; None takes the source's own, or ImageNet's.
        std: of the input's channels, with ``mean``.
        scale: what white becomes before them, 1 or 255; None takes the source's own, or 1.
        order: of the channels, "rgb" or "bgr"; None takes the source's own, or "rgb".
        output: which output of an ONNX file scores the classes, by name or number; None finds it.
    """

    class_names: tuple[str, ...] | None = None
    size_hw: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    order: ChannelOrder | None = None
    output: str | None = None


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
        traced = None if str(source).endswith(".onnx") else _traced(str(source), options, Path(scratch))
        path = Path(source) if traced is None else traced.path
        graph = read(path, None if traced is None else str(source))
        told = Sidecar() if traced is not None else read_sidecar(path)
        entries = {one.key: one.value for one in graph.model.metadata_props}
        known = read_metadata(entries) if traced is None else traced.metadata
        stated_hw = None if known.preprocess is None else known.preprocess.size_hw
        size_hw: tuple[int, int] | None = options.size_hw or told.fields.get("size_hw") or stated_hw
        lists = [
            options.class_names or told.class_names,
            *map(names_in, map(entries.get, NAME_KEYS, [""] * len(NAME_KEYS))),
        ]
        output = options.output or told.output if traced is None else None  # traced graphs have one
        new, facts = add_maps(
            graph.model, options, name=graph.name, folder=graph.folder, size_hw=size_hw,
            output=output, named=[len(names) for names in lists if names],
        )  # fmt: skip
        takes = facts.graph.takes
        known = read_metadata(entries, facts.classes, takes) if traced is None else known
        preprocess = _preprocess(known.preprocess, told, options, facts)
        class_names = options.class_names or told.class_names or known.class_names or zipped_names(zipmaps(graph.model))
        _check_class_names(class_names, facts.classes, graph.name)
        activation = facts.activation or told.activation or known.activation
        write_metadata(
            new, Metadata(class_names, preprocess, known.calibration, activation),
            head=facts.head, features=facts.features, method="cam", camlucida=camlucida.__version__,
            source_sha256=graph.sha256 if traced is None else traced.sha256,
        )  # fmt: skip
        picture = _picture(preprocess, facts)
        with staged(out) as place:
            save(new, place, graph.folder)
            check_file(place, graph.model, graph.name)
            check = compare(graph.original or graph.model, graph.folder, place, facts, picture, graph.name)
            parity = None if traced is None else traced.compare(place, facts, picture)
            added = place.stat().st_size - path.stat().st_size
    return Exported(out, facts, check, parity, added, _notes(class_names, preprocess, facts, known))


def _check(options: ExportOptions, source: str | Path, out: Path) -> None:
    if out.suffix != ".onnx":
        raise OutputError(f"{shown(out)}: expected the name of a file that ends in .onnx")
    if not out.parent.is_dir():
        raise OutputError(f"{shown(out)}: its folder does not exist; make it first")
    if out.is_dir():
        raise OutputError(f"{shown(out)}: a folder, not a file; choose another name")
    if str(source).endswith(".onnx") and Path(source).is_file() and out.is_file() and out.samefile(source):
        raise OutputError(f"{shown(out)}: is the source itself; choose another name")
    if (options.mean is None) != (options.std is None) and options.scale is None:
        raise ExportError("mean and std belong together: give both, or neither")
    if options.size_hw and not all(1 <= side <= 4096 for side in options.size_hw):
        raise ExportError(f"size: expected a height and width of 1 to 4096 pixels, got {options.size_hw}")


def _traced(source: str, options: ExportOptions, scratch: Path) -> TorchGraph:
    """A PyTorch model's graph; PyTorch is imported here alone."""
    try:
        from camlucida.export.torch_graph import trace
    except ModuleNotFoundError as error:
        raise MissingExtraError("PyTorch", "torch") from error
    return trace(source, options.size_hw, scratch, options.output)


def _preprocess(
    known: Preprocess | None, told: Sidecar, options: ExportOptions, facts: GraphFacts
) -> Preprocess | None:
    """The preprocessing as it is known, at the size that the graph takes; None if nothing is known of it."""
    size, takes, name = facts.graph.size_hw, facts.graph.takes, facts.graph.name
    if options.size_hw and options.size_hw != size:
        own, wanted = ("×".join(map(str, size_hw)) for size_hw in (size, options.size_hw))
        raise ExportError(f"{name}: takes pictures of {own} pixels, not {wanted}")
    fields: dict[str, Any] = {"mean": options.mean, "std": options.std, "scale": options.scale, "order": options.order}
    given = {key: value for key, value in fields.items() if value is not None}
    if known is None and not given and not told.fields and options.size_hw is None and not takes.whole_numbers:
        return None
    base = replace(known or assumed_preprocess(takes), size_hw=size)
    base = told.preprocess(base) if told.fields else base
    whole = Sidecar(name, given).preprocess(base) if given else base
    return takes.checked(replace(whole, size_hw=size), name)


def _check_class_names(class_names: tuple[str, ...] | None, classes: int, name: str) -> None:
    if class_names is not None and len(class_names) not in ({classes} if classes > 1 else {1, 2}):
        raise ExportError(f"{name}: has {classes} classes, but {len(class_names)} labels were given")


def _picture(preprocess: Preprocess | None, facts: GraphFacts) -> NDArray[np.float32] | None:
    """The sample picture as the graph takes it, (1, C, H, W); None where it takes no colours."""
    if facts.graph.channels not in (1, 3):
        return None
    return (preprocess or assumed_preprocess(facts.graph.takes))(sample().pixels)[0][None]


def _notes(
    class_names: tuple[str, ...] | None, preprocess: Preprocess | None, facts: GraphFacts, known: Metadata
) -> tuple[str, ...]:
    notes = [*known.notes, *filter(None, [facts.output.note])]
    if class_names is None:
        notes.append("the names of its classes are unknown; give them with --labels")
    if preprocess is None:
        usual = assumed_preprocess(facts.graph.takes).words
        notes.append(f"its preprocessing is unknown, and {usual} is taken; give --size, --mean, --std, --scale, --bgr")
    return tuple(notes)
