"""Run a method on a torch classifier: arrays or tensors in, NumPy maps out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camlucida.errors import FeaturesNotFoundError
from camlucida.methods.forward_pass import Maps
from camlucida.methods.fusion import UNIT, fused
from camlucida.methods.registry import Method
from camlucida.pytorch.engine import TorchEngine, as_tensors
from camlucida.pytorch.head import DESCRIPTIONS
from camlucida.pytorch.model_call import Arguments, portions
from camlucida.pytorch.outputs import Ending
from camlucida.pytorch.split import Split
from camlucida.pytorch.stages import Layers
from camlucida.pytorch.state import evaluating
from camlucida.pytorch.torch_pass import TorchPass
from camlucida.pytorch.uncut_pass import UncutPass
from camlucida.runners.arrays import map_batch, to_array, to_tensor
from camlucida.runners.runner import Facts, MapBatch, joined_maps
from camlucida.targets import Classes, Expected, choose

NOT_LOOKED_AT = "not looked at"


class TorchRunner:
    """Explain batches with a torch classifier by one method.

    At several layers the method runs on each layer's own pass (so each costs a forward pass), and the maps are fused.
    Methods that need scores or the inputs' gradients alone run on any model, whether or not its features can be found.
    """

    def __init__(
        self, model: nn.Module, method: Method, layer: Layers = None, expected: Expected | None = None
    ) -> None:
        self.method = method
        self.engine = TorchEngine(model, layer, expected)
        self.arguments = Arguments()

    def with_arguments(
        self, inputs: Sequence[Any], keywords: Mapping[str, Any], pictures: str | int | None, rows: range, count: int
    ) -> TorchRunner:
        """The same runner for a model that takes more than pictures, of which those in ``rows`` of ``count`` come."""
        other = copy.copy(self)
        given = Arguments(as_tensors(tuple(inputs)), as_tensors(dict(keywords)), pictures)
        other.arguments = given if len(rows) == count else given.rows(rows, count)
        return other

    def explain(self, batch: Any, classes: Classes, class_names: Sequence[str] | None) -> MapBatch:
        """One pass a layer, then the method on what it left; in portions where the model takes a fixed number."""
        inputs = to_tensor(batch)
        count = len(inputs)
        size = self._size(inputs)
        if size is None or size == count:
            return self._explain(inputs, classes, class_names, self.arguments)
        parts = []
        for rows, counting in portions(count, size, filled=True):
            own = classes[rows] if isinstance(classes, np.ndarray) and classes.shape[:1] == (count,) else classes
            part = self._explain(inputs[rows], own, class_names, self.arguments.rows(rows, count))
            parts.append(part.first(counting))
        return joined_maps(parts)

    def predict(self, batch: Any) -> NDArray[np.float32]:
        """A plain forward pass."""
        return to_array(self.engine.predict(to_tensor(batch), self.arguments))

    def facts(self, batch: Any) -> Facts:
        """What the split says; without one, what a pass shows."""
        inputs = to_tensor(batch)
        if self._cuts and self.method.needs:
            return _facts(self.engine.prepare(inputs, self.arguments))
        try:
            return _facts(self.engine.prepare(inputs, self.arguments))
        except FeaturesNotFoundError:
            uncut = self.engine.run_uncut(inputs[:1], self.arguments.rows([0], len(inputs)))
            return _facts_without_split(uncut.ending, uncut.logits, inputs.shape[2:])

    @property
    def _cuts(self) -> bool:
        """Whether the method reads features; functions of the user's own may."""
        return not self.method.needs or bool({"features", "attention"} & set(self.method.needs))

    def _size(self, inputs: Tensor) -> int | None:
        """How many inputs run at once, where the model takes no other number."""
        if self._cuts:
            try:
                return self.engine.size(inputs, self.arguments, cut=True)
            except FeaturesNotFoundError:
                if self.method.needs:
                    raise
        return self.engine.size(inputs, self.arguments, cut=False)

    def _explain(
        self, inputs: Tensor, classes: Classes, class_names: Sequence[str] | None, arguments: Arguments
    ) -> MapBatch:
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.engine.model):
            forward_pass = self._pass(inputs, arguments)
            targets = choose(classes, forward_pass.logits, class_names)
            maps = self.method.compute(forward_pass, targets)
            if isinstance(forward_pass, UncutPass):
                ending, logits = forward_pass.ending, forward_pass.logits
                facts = _facts_without_split(ending, logits, maps.maps.shape[2:])
                return map_batch(logits, targets, maps, facts, self._unit(ending))
            unit = self._unit(forward_pass.ending)
            splits = self.engine.prepare(inputs, arguments) if self.engine.fuses else (forward_pass.split,)
            if len(splits) > 1:
                others = (self.engine.run(inputs, at, arguments) for at in range(len(splits) - 1))
                every = [*(self.method.compute(other, targets).maps for other in others), maps.maps]
                maps, unit = Maps(fused(every), None, maps.scores), UNIT
            return map_batch(forward_pass.logits, targets, maps, _facts(splits), unit)

    def _unit(self, ending: Ending) -> str:
        """The maps' unit where it is not the method's own: what is explained may be probabilities."""
        return self.method.unit.replace("logits", "probability") if ending.activation == "none" else ""

    def _pass(self, inputs: Tensor, arguments: Arguments) -> TorchPass | UncutPass:
        if not self._cuts:
            return self.engine.run_uncut(inputs, arguments)
        try:
            return self.engine.run(inputs, arguments=arguments)
        except FeaturesNotFoundError:
            if self.method.needs:
                raise
            return self.engine.run_uncut(inputs, arguments)  # perhaps a function that reads no features


def _facts(splits: Sequence[Split]) -> Facts:
    """Of the last layer, and of all of them what they are fused from."""
    last = splits[-1]
    features = " + ".join(f"{split.layout.name} {'×'.join(map(str, split.shape))}" for split in splits)
    finest = tuple(max(sizes) for sizes in zip(*(split.layout.grid for split in splits), strict=True))
    facts = Facts(DESCRIPTIONS[last.kind], features, finest, last.classes, last.activation)
    return replace(facts, output=last.ending.path, note=last.ending.note)


def _facts_without_split(ending: Ending, logits: Tensor, grid: Sequence[int]) -> Facts:
    """Of a model whose features were not needed, or not found."""
    known = (tuple(grid), logits.shape[1], ending.activation, ending.path, ending.note)
    return Facts(NOT_LOOKED_AT, NOT_LOOKED_AT, *known)
