"""Run a method that needs no gradient on an ONNX file: the graph in ONNX Runtime, the method in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camlucida.errors import MethodError
from camlucida.methods.registry import WITHOUT_GRADIENTS, Method
from camlucida.onnx.class_output import sums_to_one
from camlucida.onnx.onnx_pass import OnnxClassifier, OnnxPass
from camlucida.pytorch.final_activations import PROBABILITIES
from camlucida.runners.arrays import map_batch, to_array, to_tensor
from camlucida.runners.runner import Facts, MapBatch
from camlucida.targets import Classes, choose


class OnnxMethods:
    """Explain batches with an ONNX classifier by a method that needs no gradient.

    Args:
        classifier: the classifier; methods may share one.
        method: the method.
    """

    def __init__(self, classifier: OnnxClassifier, method: Method) -> None:
        self.classifier, self.method = classifier, method

    def explain(self, batch: Any, classes: Classes, class_names: Sequence[str] | None) -> MapBatch:
        """One run, then the method, which may run the graph again.

        Raises:
            MethodError: the method needs gradients, or the calls of a torch network.
        """
        if {"gradients", "attention"} & set(self.method.needs):
            self._refuse()
        with torch.inference_mode(False), torch.no_grad():
            forward_pass = OnnxPass(self.classifier, _on_cpu(batch), self._refuse)
            if "statistics" in self.method.needs and forward_pass.normalizes():
                self._refuse("the statistics of the normalization behind the pooling held fixed")
            targets = choose(classes, forward_pass.logits, class_names)
            maps = self.method.compute(forward_pass, targets)
            facts = self._facts(forward_pass.inputs, forward_pass.logits, tuple(maps.maps.shape[2:]))
            return map_batch(forward_pass.logits, targets, maps, facts)

    def predict(self, batch: Any) -> NDArray[np.float32]:
        """Logits (B, K) of one run."""
        return to_array(self.classifier.logits(_on_cpu(batch)))

    def facts(self, batch: Any) -> Facts:
        """What the cut says."""
        inputs = _on_cpu(batch)
        grid = self.classifier.cut(inputs).layout.grid
        return self._facts(inputs, self.classifier.logits(inputs[:1]), grid)

    def _refuse(self, what: str = "a network's gradients or inner calls") -> NoReturn:
        raise MethodError(
            f"{self.classifier.name}: {self.method.name} needs {what}, which an ONNX file does not offer; use the "
            f"PyTorch model it was made from, or {WITHOUT_GRADIENTS}"
        )

    def _facts(self, inputs: Tensor, logits: Tensor, grid: tuple[int, ...]) -> Facts:
        cut, activation = self.classifier.known_cut(inputs), self.classifier.route.activation
        features = "not looked at" if cut is None else f"{cut.layout.name} {'×'.join(map(str, cut.shape))} {cut.value}"
        note = ""
        if activation is None and sums_to_one(to_array(logits)):
            activation, note = "none", PROBABILITIES
        return Facts(
            "as the file computes it", features, grid, logits.shape[1], activation, self.classifier.output, note
        )


def _on_cpu(batch: Any) -> Tensor:
    return to_tensor(batch).detach().cpu().to(torch.float32)
