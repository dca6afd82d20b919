"""Run an ONNX classifier whose outputs include its maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ModelError, TargetError
from camlucida.onnx.session import OnnxSession
from camlucida.runners.runner import Facts, MapBatch, picked
from camlucida.targets import Classes, choose


class OnnxRunner:
    """An ONNX Runtime session over outputs ``logits`` (N, K), ``maps`` (N, K, h, w) and ``bias`` (K,).

    A file of the likeliest classes alone has ``top_ids`` (N, k), ``maps`` (N, k, h, w) and ``bias`` (N, k) instead.

    Args:
        network: the file, opened.

    Attributes:
        classes: K.
        top: k, where the file has maps of the likeliest classes alone; else None.

    Raises:
        ModelError: it has not those outputs.
    """

    def __init__(self, network: OnnxSession) -> None:
        self.network = network
        self.name, self.metadata = network.name, network.metadata
        outputs = network.outputs
        if not {"logits", "maps", "bias"} <= outputs.keys():
            raise ModelError(
                f"{self.name}: has outputs {', '.join(outputs)}, but not logits, maps and bias; "
                f"make them with: camlucida export {self.name} -o cam.onnx (or with_maps and torch.onnx.export)"
            )
        logits, bias = network.run(["logits", "bias"], network.blank())
        self.classes: int = logits.shape[1]
        # The likeliest of one is that one.
        self.top: int | None = bias.shape[1] if "top_ids" in outputs and self.classes > 1 else None
        self._bias: NDArray[np.float32] = np.asarray(bias, np.float32).reshape(-1)[: self.classes]

    def explain(self, batch: Any, classes: Classes, class_names: Sequence[str] | None) -> MapBatch:
        """One run; the asked classes' maps, or linear combinations of them."""
        if self.top is not None:
            return self._of_the_likeliest(np.asarray(batch), classes, class_names)
        logits, every = self.network.run(["logits", "maps"], np.asarray(batch))
        targets = choose(classes, logits, class_names)
        try:
            return picked(logits, every, self._bias, targets, self._facts(every))
        except TargetError as error:
            raise TargetError(f"{self.name}: {error}") from error

    def _of_the_likeliest(self, batch: NDArray[Any], classes: Classes, class_names: Sequence[str] | None) -> MapBatch:
        """MapBatch of asked classes that are among each picture's likeliest; the file has no others."""
        logits, some, bias, ids = self.network.run(["logits", "maps", "bias", "top_ids"], batch)
        targets = choose(classes, logits, class_names)
        matches = ids[:, None, :] == targets.ids[:, :, None]
        if targets.everything or not matches.any(2).all():
            raise TargetError(
                f"{self.name}: has maps of each picture's {self.top} likeliest classes alone, and others were asked; "
                "export it without --top for maps of all"
            )
        place = matches.argmax(2)
        maps = np.take_along_axis(some, place[:, :, None, None], 1)
        scores = np.take_along_axis(logits, targets.ids, 1)
        return MapBatch(logits, targets, scores, maps, np.take_along_axis(bias, place, 1), self._facts(some))

    def predict(self, batch: Any) -> NDArray[np.float32]:
        """The logits of one run."""
        logits: NDArray[np.float32] = self.network.run(["logits"], np.asarray(batch))[0]
        return logits

    def facts(self, batch: Any) -> Facts:
        """What one run shows."""
        (every,) = self.network.run(["maps"], np.asarray(batch)[:1])
        return self._facts(every)

    def _facts(self, every: NDArray[np.float32]) -> Facts:
        grid = (int(every.shape[2]), int(every.shape[3]))
        head = self.metadata.get("head", "as its file computes it")
        return Facts(head, self.metadata.get("features", "in the file"), grid, self.classes, None)
