"""The whole way on one screen: read or trace a classifier, add its maps, write, run, compare, and only then keep it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ExportError, MissingExtraError, OutputError
from camlucida.export import metadata
from camlucida.export.picture_outputs import Upsample
from camlucida.export.surgery import Found, add_maps
from camlucida.export.verify import Check, check_file, compare
from camlucida.export.writing import save, staged
from camlucida.images.picture import shown
from camlucida.images.preprocess import Preprocess
from camlucida.images.sample import sample
from camlucida.onnx.load import read

if TYPE_CHECKING:
    from camlucida.export.torch_graph import Traced

USUAL_CROP = 0.875
"""What ``open_model`` takes where a file says nothing of its preprocessing."""


@dataclass(frozen=True)
class Options:
    """What an exported file has beside logits, maps and bias, and what is said of its pictures.

    Attributes:
        top: maps of the so many likeliest classes alone; None for all.
        upsample: also ``heatmaps`` of this height and width, or "input" for the picture's own.
        boxes: also ``boxes`` around what is above this share of a map's maximum, in [0, 1).
        labels: the classes' names; None takes the source's own.
        size_hw: the pictures' height and width; None takes the source's own, or 224.
        mean: of R, G, B, in [0, 1] units, with ``std``; None takes the source's own, or ImageNet's.
        std: of R, G, B, in [0, 1] units, with ``mean``.
    """

    top: int | None = None
    upsample: Upsample | None = None
    boxes: float | None = None
    labels: tuple[str, ...] | None = None
    size_hw: tuple[int, int] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: of the file.
        found: what the graph is.
        check: how the new file compares with the source's graph.
        parity: for PyTorch sources, |PyTorch - ONNX| of logits and maps over the logits' spread; None for ONNX files.
        bytes_added: by which the file is larger than the source's graph.
        notes: what the user should know.
    """

    path: Path
    found: Found
    check: Check
    parity: float | None
    bytes_added: int
    notes: tuple[str, ...] = ()


def export(source: str | Path, out: str | Path, options: Options | None = None) -> Exported:
    """Write a classifier as an ONNX file whose outputs include its class activation maps.

    The file has outputs ``logits`` (N, K), ``maps`` (N, K, h, w) in logits per cell and ``bias`` (K,), with
    ``maps.sum((2, 3)) + bias == logits``, beside those that the source has. It is written only after it was run on
    random pictures and a real one, and its logits are the source's, and maps and bias add up to them, to 1e-4 of the
    logits' spread (see ``verify.TOLERANCES`` for half precision and integers).

    Args:
        source: an ``.onnx`` file of any classifier, or a PyTorch model as ``open_model`` knows them: ``"timm:…"``,
            ``"torchvision:…"``, ``"hf:…"``, ``"file.py:function"``, or a training run's folder.
        out: the file, ``….onnx``; one that is there is replaced.
        options: see ``Options``.

    Raises:
        ExportError: the source cannot be read, its head is not affine, or the comparison failed. Nothing was written.
        OutputError: ``out`` cannot be written.
        MissingExtraError: onnx, or what the source needs, is not installed.
    """
    asked, out = options or Options(), Path(out)
    _check(asked, source, out)
    with tempfile.TemporaryDirectory(prefix="camlucida-") as scratch:
        traced = None if str(source).endswith(".onnx") else _traced(str(source), asked.size_hw, Path(scratch))
        path = Path(source) if traced is None else traced.path
        given = read(path, None if traced is None else str(source))
        told = metadata.stored_preprocess(given.model) if traced is None else traced.preprocess
        new, found = add_maps(
            given.model, top=asked.top, upsample=asked.upsample, boxes=asked.boxes, name=given.name,
            size_hw=asked.size_hw or (told.size_hw if told else None), folder=given.folder,
        )  # fmt: skip
        preprocess = _preprocess(told, asked, found)
        labels = asked.labels or (metadata.stored_labels(given.model) if traced is None else traced.labels)
        _check_labels(labels, found.classes, given.name)
        if traced is None:
            values = metadata.entries(found, given.sha256, labels, preprocess)
        else:
            values = metadata.entries(found, traced.sha256, labels, preprocess, traced.calibration, traced.activation)
        metadata.put(new, values)
        picture = _picture(preprocess, found)
        with staged(out) as place:
            save(new, place, given.folder)
            check_file(place, given.model, given.name)
            check = compare(given.model, given.folder, place, found, picture, given.name)
            parity = None if traced is None else traced.compare(place, found, picture)
            added = place.stat().st_size - path.stat().st_size
    return Exported(out, found, check, parity, added, _notes(labels, preprocess))


def _check(asked: Options, source: str | Path, out: Path) -> None:
    if out.suffix != ".onnx":
        raise OutputError(f"{shown(out)}: expected the name of a file that ends in .onnx")
    if not out.parent.is_dir():
        raise OutputError(f"{shown(out)}: its folder does not exist; make it first")
    if out.is_dir():
        raise OutputError(f"{shown(out)}: a folder, not a file; choose another name")
    if str(source).endswith(".onnx") and Path(source).is_file() and out.is_file() and out.samefile(source):
        raise OutputError(f"{shown(out)}: is the source itself; choose another name")
    if (asked.mean is None) != (asked.std is None):
        raise ExportError("mean and std belong together: give both, or neither")
    if asked.size_hw and not all(1 <= side <= 4096 for side in asked.size_hw):
        raise ExportError(f"size: expected a height and width of 1 to 4096 pixels, got {asked.size_hw}")


def _traced(source: str, size_hw: tuple[int, int] | None, scratch: Path) -> Traced:
    """A PyTorch model's graph; PyTorch is imported here alone."""
    try:
        from camlucida.export.torch_graph import trace
    except ModuleNotFoundError as error:
        if isinstance(error, MissingExtraError):
            raise
        raise MissingExtraError("PyTorch", "torch") from error
    return trace(source, size_hw, scratch)


def _preprocess(told: Preprocess | None, asked: Options, found: Found) -> Preprocess | None:
    """The preprocessing as it is known, at the size that the graph takes; None if nothing is known of it."""
    size = found.graph.size_hw
    if asked.size_hw and asked.size_hw != size:
        own, given = ("×".join(map(str, one)) for one in (size, asked.size_hw))
        raise ExportError(f"{found.graph.name}: takes pictures of {own} pixels, not {given}")
    if told is None and asked.mean is None and asked.size_hw is None:
        return None
    usual = told or Preprocess(size, crop_fraction=USUAL_CROP)
    if asked.mean is None or asked.std is None:
        return replace(usual, size_hw=size)
    return replace(usual, size_hw=size, mean=asked.mean, std=asked.std)


def _check_labels(labels: tuple[str, ...] | None, classes: int, name: str) -> None:
    if labels is not None and len(labels) not in ({classes} if classes > 1 else {1, 2}):
        raise ExportError(f"{name}: has {classes} classes, but {len(labels)} labels were given")


def _picture(preprocess: Preprocess | None, found: Found) -> NDArray[np.float32] | None:
    """The sample picture as the graph takes it, (1, 3, H, W); None where it takes no colours."""
    if found.graph.channels != 3:
        return None
    used = preprocess or Preprocess(found.graph.size_hw, crop_fraction=USUAL_CROP)
    return used(sample().pixels)[0][None]


def _notes(labels: tuple[str, ...] | None, preprocess: Preprocess | None) -> tuple[str, ...]:
    notes = []
    if labels is None:
        notes.append("the names of its classes are unknown; give them with --labels")
    if preprocess is None:
        notes.append("its preprocessing is unknown, and ImageNet's usual is taken; give --size, --mean and --std")
    return tuple(notes)
