"""Run a method on a torch classifier: arrays or tensors in, NumPy maps out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from camlucida.methods.forward_pass import Maps
from camlucida.methods.fusion import UNIT, fused
from camlucida.methods.registry import Method
from camlucida.pytorch.engine import TorchEngine
from camlucida.pytorch.head import DESCRIPTIONS
from camlucida.pytorch.split import Split
from camlucida.pytorch.stages import Layers
from camlucida.pytorch.state import evaluating
from camlucida.runners.arrays import map_batch, to_array, to_tensor
from camlucida.runners.runner import Facts, MapBatch
from camlucida.targets import Classes, choose


class TorchRunner:
    """Explain batches with a torch classifier by one method.

    At several layers the method runs on each layer's own pass (so each costs a forward pass), and the maps are fused.
    """

    def __init__(self, model: nn.Module, method: Method, layer: Layers = None) -> None:
        self.method = method
        self.engine = TorchEngine(model, layer)

    def explain(self, batch: Any, classes: Classes, class_names: Sequence[str] | None) -> MapBatch:
        """One pass a layer, then the method on what it left."""
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.engine.model):
            inputs = to_tensor(batch)
            forward_pass = self.engine.run(inputs)
            targets = choose(classes, forward_pass.logits, class_names)
            maps = self.method.compute(forward_pass, targets)
            splits, unit = self.engine.prepare(inputs) if self.engine.fuses else (forward_pass.split,), ""
            if len(splits) > 1:
                others = (self.engine.run(inputs, at) for at in range(len(splits) - 1))
                every = [*(self.method.compute(other, targets).maps for other in others), maps.maps]
                maps, unit = Maps(fused(every), None, maps.scores), UNIT
            return map_batch(forward_pass.logits, targets, maps, _facts(splits), unit)

    def predict(self, batch: Any) -> NDArray[np.float32]:
        """A plain forward pass."""
        return to_array(self.engine.predict(to_tensor(batch)))

    def facts(self, batch: Any) -> Facts:
        """What the split says."""
        return _facts(self.engine.prepare(to_tensor(batch)))


def _facts(splits: Sequence[Split]) -> Facts:
    """Of the last layer, and of all of them what they are fused from."""
    last = splits[-1]
    features = " + ".join(f"{split.layout.name} {'×'.join(map(str, split.shape))}" for split in splits)
    finest = tuple(max(sizes) for sizes in zip(*(split.layout.grid for split in splits), strict=True))
    return Facts(DESCRIPTIONS[last.kind], features, finest, last.classes, last.activation)
