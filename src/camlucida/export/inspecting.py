"""What stands between the features and the logits of an ONNX file without maps, without writing anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from camlucida.errors import CamlucidaError, ExportError, MissingExtraError
from camlucida.methods.registry import Method
from camlucida.models.model import Model
from camlucida.onnx.foreign_metadata import NAME_KEYS, names_in
from camlucida.onnx.load import read
from camlucida.runners.onnx_maps import OnnxRunner
from camlucida.runners.runner import Facts, Runner


@dataclass(frozen=True, eq=False)
class InspectedHead:
    """A classifier's head, as its graph says it.

    Attributes:
        facts: of features, grid and head; the head says why there are no exact maps where there are none.
        model: the same classifier with its maps, in memory; None where it has no exact ones.
    """

    facts: Facts
    model: Model | None


def inspect_head(model: Model, batch: Any, output: str | None = None) -> InspectedHead:
    """Read the head of an opened ONNX file.

    Args:
        model: opened from a file.
        batch: an input (1, C, H, W).
        output: the output that scores the classes, by name or number; None finds it.

    Raises:
        MissingExtraError: onnx is not installed.
        ModelError: it does not run on the input.
    """
    try:
        return _with_maps(model, batch, output)
    except ExportError as error:
        why = str(error).removeprefix(f"{model.name}: ")
    return InspectedHead(_searched(model, batch, why), None)


def _with_maps(model: Model, batch: Any, output: str | None) -> InspectedHead:
    from camlucida.export.surgery import add_maps

    session = model.session
    assert session is not None
    graph = read(Path(model.name), model.name)
    names = [names_in(one.value) for one in graph.model.metadata_props if one.key in NAME_KEYS]
    known = [*names, model.class_names]
    new, facts = add_maps(
        graph.model, name=model.name, folder=graph.folder, size_hw=model.preprocess.size_hw, output=output,
        named=[len(each) for each in known if each],
    )  # fmt: skip
    runner = OnnxRunner(session.other(new.SerializeToString()))

    def make(method: Method, layer: Any) -> Runner:
        return runner

    told = Facts(facts.head, facts.features, runner.facts(batch).grid, facts.classes, facts.activation)
    activation = model.activation or facts.activation
    return InspectedHead(told, replace(model, runner=make, activation=activation))


def _searched(model: Model, batch: Any, why: str) -> Facts:
    """What the search for features says, where there are no exact maps."""
    from camlucida.methods.registry import find_method

    opened: Callable[[Method, Any], Runner] = model.runner
    try:
        facts = opened(find_method("reciprocam"), None).facts(batch)
    except MissingExtraError:
        raise
    except CamlucidaError as error:
        said = str(error).removeprefix(f"{model.name}: ")
        logits = opened(find_method("rise"), None).predict(batch)
        facts = Facts("", said, (), logits.shape[1], None)
    return replace(facts, head=why)
