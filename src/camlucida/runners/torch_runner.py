"""The torch engine behind the common interface: arrays or tensors in, NumPy maps out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from camlucida.methods.fusion import UNIT, fused
from camlucida.methods.registry import Method
from camlucida.pytorch.engine import TorchEngine
from camlucida.pytorch.head import DESCRIPTIONS
from camlucida.pytorch.split import Split
from camlucida.pytorch.stages import Layers
from camlucida.pytorch.state import evaluating
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
            given = _tensor(batch)
            passed = self.engine.run(given)
            logits = _array(passed.logits)
            targets = choose(classes, passed.logits, class_names)
            maps, bias, explained = self.method.compute(passed, targets)
            splits, unit = self.engine.prepare(given) if self.engine.fuses else (passed.split,), ""
            if len(splits) > 1:
                others = (self.engine.run(given, at) for at in range(len(splits) - 1))
                maps, bias = fused([*(self.method.compute(other, targets).maps for other in others), maps]), None
                unit = UNIT
            scores = _array(targets.of(passed.logits) if explained is None else explained)
            missing = np.full(scores.shape, np.nan, np.float32)
            facts = _facts(splits)
            return MapBatch(
                logits, targets, scores, _array(maps), missing if bias is None else _array(bias), facts, unit
            )

    def predict(self, batch: Any) -> NDArray[np.float32]:
        """A plain forward pass."""
        logits: NDArray[np.float32] = _array(self.engine.predict(_tensor(batch)))
        return logits

    def facts(self, batch: Any) -> Facts:
        """What the split says."""
        return _facts(self.engine.prepare(_tensor(batch)))


def _facts(splits: Sequence[Split]) -> Facts:
    """Of the last layer, and of all of them what they are fused from."""
    last = splits[-1]
    features = " + ".join(f"{split.layout.name} {'×'.join(map(str, split.shape))}" for split in splits)
    finest = tuple(max(sizes) for sizes in zip(*(split.layout.grid for split in splits), strict=True))
    return Facts(DESCRIPTIONS[last.kind], features, finest, last.classes, last.activation)


def _tensor(batch: Any) -> Tensor:
    return batch if isinstance(batch, Tensor) else torch.from_numpy(np.ascontiguousarray(batch))


def _array(tensor: Tensor) -> Any:
    return tensor.detach().float().cpu().numpy()
