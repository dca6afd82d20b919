"""Run an ONNX classifier whose outputs include its maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camlucida.errors import ModelError, TargetError
from camlucida.runner import Facts, Maps
from camlucida.targets import Classes, Targets, choose

_LARGEST_FILE = 2**31
"""Bytes; ONNX files cannot be larger without external data, which is not followed."""


class OnnxRunner:
    """An ONNX Runtime session over outputs ``logits`` (N, K), ``maps`` (N, K, h, w) and ``bias`` (K,).

    Args:
        path: the file.
        name: what messages call it.

    Raises:
        ModelError: no such file, not ONNX, or without those outputs.
    """

    def __init__(self, path: Path, name: str) -> None:
        import onnxruntime

        self.name = name
        if not path.is_file():
            raise ModelError(f"{name}: no such file")
        if path.stat().st_size > _LARGEST_FILE:
            raise ModelError(f"{name}: larger than 2 GiB, which no ONNX file in one piece is")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # Threads that wait for work by spinning would take it away from those that decode and draw pictures.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            # From bytes, so that external data beside the file (or anywhere else) is never followed.
            self._session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own types, none of them public
            first = str(error).strip().partition("\n")[0]
            raise ModelError(f"{name}: not a readable ONNX model ({first[:200]})") from error
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        outputs = {output.name: output for output in self._session.get_outputs()}
        if not {"logits", "maps", "bias"} <= outputs.keys():
            raise ModelError(
                f"{name}: has outputs {', '.join(outputs)}, but not logits, maps and bias; "
                "make them with camlucida.with_maps and torch.onnx.export"
            )
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ModelError(f"{name}: expected one input of pictures, got {', '.join(each.name for each in inputs)}")
        self._input = inputs[0].name
        sizes = inputs[0].shape[2:]
        self.input_hw: tuple[int, int] | None = (
            (int(sizes[0]), int(sizes[1])) if len(sizes) == 2 and all(isinstance(size, int) for size in sizes) else None
        )
        (bias,) = self._run(["bias"], np.zeros((1, 3, *(self.input_hw or (64, 64))), np.float32))
        self._bias: NDArray[np.float32] = np.asarray(bias, np.float32).reshape(-1)
        self.classes = len(self._bias)

    def explain(self, batch: Any, classes: Classes, labels: Sequence[str] | None) -> Maps:
        """One run; the asked classes' maps, or linear combinations of them."""
        logits, every = self._run(["logits", "maps"], np.asarray(batch, np.float32))
        targets = choose(classes, logits, labels)
        facts = self._facts(every)
        if targets.everything:
            bias = np.broadcast_to(self._bias, logits.shape)
            return Maps(logits, targets, logits, every, bias, facts)
        if (targets.ids >= 0).all() and logits.shape[1] > 1:
            picked = np.take_along_axis(every, targets.ids[:, :, None, None], 1)
            return Maps(
                logits, targets, np.take_along_axis(logits, targets.ids, 1), picked, self._bias[targets.ids], facts
            )
        weights = targets.weights if targets.weights is not None else self._weights_of(targets, logits)
        maps = np.einsum("btk,bkyx->btyx", weights, every)
        constant = np.asarray(targets.of(np.zeros_like(logits))) if targets.weights is None else 0.0
        return Maps(logits, targets, np.asarray(targets.of(logits)), maps, weights @ self._bias + constant, facts)

    def predict(self, batch: Any) -> NDArray[np.float32]:
        """The logits of one run."""
        logits: NDArray[np.float32] = self._run(["logits"], np.asarray(batch, np.float32))[0]
        return logits

    def facts(self, batch: Any) -> Facts:
        """What one run shows."""
        (every,) = self._run(["maps"], np.asarray(batch, np.float32)[:1])
        return self._facts(every)

    def _facts(self, every: NDArray[np.float32]) -> Facts:
        grid = (int(every.shape[2]), int(every.shape[3]))
        head = self.metadata.get("head", "as its file computes it")
        return Facts(head, self.metadata.get("features", "in the file"), grid, int(every.shape[1]), None)

    def _weights_of(self, targets: Targets, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A score's coefficients on the logits, read off unit vectors; only linear scores have maps here."""
        batch, width = logits.shape
        constant = np.asarray(targets.of(np.zeros_like(logits)))
        columns = [
            np.asarray(targets.of(np.tile(np.eye(width, dtype=np.float32)[k], (batch, 1)))) - constant
            for k in range(width)
        ]
        weights = np.stack(columns, 2).astype(np.float32)
        expected = np.einsum("btk,bk->bt", weights, logits) + constant
        if not np.allclose(expected, np.asarray(targets.of(logits)), rtol=1e-3, atol=1e-4):
            raise TargetError(f"{self.name}: the score is not linear in the logits; an ONNX model has no gradients, "
                              "so use a PyTorch model for it")  # fmt: skip
        return weights

    def _run(self, outputs: list[str], batch: NDArray[np.float32]) -> list[Any]:
        try:
            answers: list[Any] = self._session.run(outputs, {self._input: batch})
        except Exception as error:  # as above
            first = str(error).strip().partition("\n")[0]
            raise ModelError(f"{self.name}: failed on input {batch.shape} ({first[:200]})") from error
        return answers
