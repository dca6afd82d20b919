"""Does the new file do what it says? It is checked, run, and compared with the old one before it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ExportError, first_line
from camlucida.export.surgery import GraphFacts
from camlucida.images.picture import shown
from camlucida.onnx.extra import onnx
from camlucida.onnx.graph import GraphRun
from camlucida.targets import logit_spread

TOLERANCES = {"": 1e-4, "half": 2e-2, "int8": 5e-2}
"""How far maps and logits may differ, over the spread of the picture's logits, by what the head computes in.

float32 and float64; float16 and bfloat16, whose own rounding is 1e-3 of a value and adds up over the channels; and
8-bit integers, whose steps are 4e-3 of a tensor's whole range.
"""


@dataclass(frozen=True)
class Check:
    """What a comparison showed, the worst over all its inputs.

    Attributes:
        residual: |Σ map + bias - logit| over the spread of the logits.
        change: |new - old| of the outputs that there were, over their spread.
        tolerance: what was allowed for both.
    """

    residual: float
    change: float
    tolerance: float


def check_file(path: Path, old: Any, name: str) -> None:
    """The new file is a valid model whose shapes fit together.

    Args:
        path: of the new file.
        old: the model before; where already its shapes cannot all be told, nothing more is asked of the new one.
        name: what messages call it.

    Raises:
        ExportError: it is not.
    """
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        raise ExportError(
            f"{name}: the new graph is not valid ({shown(first_line(error))}); please report it"
        ) from error
    if _inferred(old) is None:
        why = _inferred(onnx.load_model(str(path), load_external_data=False))
        if why is not None:
            raise ExportError(f"{name}: the shapes of the new graph do not fit together ({why}); please report it")


def compare(
    old: Any, folder: Path | None, new: Path, facts: GraphFacts, real: NDArray[np.float32] | None, name: str
) -> Check:
    """Run both models on random pictures and a real one, one and two at a time, and at another size where they may.

    Args:
        old: the model as it was.
        folder: where its external data lie, if it has any.
        new: the new file.
        facts: what ``add_maps`` said.
        real: a preprocessed picture (1, 3, H, W); None compares random ones alone.
        name: what messages call it.

    Raises:
        ExportError: an output changed, or maps and bias do not add up to the logits.
    """
    before, after = GraphRun(old, name, folder), GraphRun(new, name)
    tolerance, residual, change = TOLERANCES[facts.precision], 0.0, 0.0
    for pictures in _batches(facts, real):
        feed = {facts.graph.input.name: pictures}
        expected, outputs = before(feed), after(feed)
        change = max(change, *(_change(outputs[output], value) for output, value in expected.items()))
        residual = max(residual, _residual(outputs, name))
    if not change <= tolerance:
        raise ExportError(f"{name}: its outputs would change by {change:.1e} of their spread "
                          f"(allowed: {tolerance:.0e}); nothing was written")  # fmt: skip
    if not residual <= tolerance:
        raise ExportError(f"{name}: its maps miss the logits by {residual:.1e} of their spread "
                          f"(allowed: {tolerance:.0e}): its head is something else; nothing was written")  # fmt: skip
    return Check(residual, change, tolerance)


def _batches(facts: GraphFacts, real: NDArray[np.float32] | None) -> list[NDArray[Any]]:
    graph = facts.graph
    batches = [graph.example(1, seed=1), graph.example(2, seed=2)]
    if real is not None:
        batches.append(graph.fed(np.repeat(real, graph.batch or 1, 0)))
        if graph.batch is None:
            batches.append(graph.fed(np.concatenate([real, real[..., ::-1]])))
    if graph.fixed_hw is None:
        height, width = graph.size_hw
        batches.append(graph.example(1, (height + height // 2, width + width // 4 * 2), seed=3))
    return batches


def _residual(outputs: dict[str, NDArray[Any]], name: str) -> float:
    """|Σ map + bias - logit| over the logits' spread, the worst of the batch."""
    logits = outputs["logits"].astype(np.float64)
    total = outputs["maps"].astype(np.float64).sum((2, 3)) + outputs["bias"].astype(np.float64)
    wanted = logits
    if "top_ids" in outputs:
        wanted = np.take_along_axis(logits, outputs["top_ids"], 1)
        best = -np.sort(-logits, 1)[:, : wanted.shape[1]]
        if not np.array_equal(best, wanted):
            raise ExportError(f"{name}: top_ids are not the likeliest classes; nothing was written")
    if total.shape != wanted.shape:
        raise ExportError(f"{name}: its maps are {outputs['maps'].shape}, which does not fit its logits {logits.shape}")
    return float((np.abs(total - wanted).max(1) / logit_spread(logits)).max())


def _change(new: Any, old: Any) -> float:
    """How much an output differs, over its spread in each picture; dictionaries of classes by their numbers."""
    if isinstance(old, list):
        if len(new) != len(old) or not all(isinstance(one, dict) and one.keys() == other.keys()
                                           for one, other in zip(new, old, strict=True)):  # fmt: skip
            return np.inf
        new, old = (np.array([list(one.values()) for one in part], np.float32) for part in (new, old))
    if new.shape != old.shape or new.dtype != old.dtype:
        return np.inf
    if old.dtype.kind != "f":
        return 0.0 if np.array_equal(new, old) else np.inf
    rows = (len(old), -1) if old.ndim and len(old) else (1, -1)
    a, b = new.astype(np.float64).reshape(rows), old.astype(np.float64).reshape(rows)
    return float((np.abs(a - b).max(1) / logit_spread(b)).max())


def _inferred(model: Any) -> str | None:
    """What strict shape inference says against a model; None if nothing."""
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        return shown(first_line(error))
    return None
