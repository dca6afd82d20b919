"""Any torch classifier, prepared for explaining: its split found once per input shape, its passes cut there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from camlucida.errors import CamlucidaError, FeaturesNotFoundError, ModelError, first_line
from camlucida.pytorch.head import RecordedFunction
from camlucida.pytorch.outputs import as_rows, logits_in
from camlucida.pytorch.split import Split
from camlucida.pytorch.stages import Layers, find_splits, resolved
from camlucida.pytorch.state import evaluating, unwrapped
from camlucida.pytorch.tape import Tape
from camlucida.pytorch.torch_pass import TorchPass


@contextmanager
def _blaming_the_model(batch: Tensor) -> Iterator[None]:
    """Whatever a model raises becomes a ModelError that says for which input, in one line."""
    try:
        yield
    except CamlucidaError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(f"the model failed on input {tuple(batch.shape)}: {why}") from error


class TorchEngine:
    """A torch classifier prepared for explaining: finds its split once per input shape, then runs passes.

    Thread-safe. Nothing is left on the model: no hook, no gradient, no changed mode or flag.

    Args:
        model: any classifier; compiled and data-parallel wrappers are looked through.
        layer: the features' layer, by name, module or depth, or several (see ``stages``); None finds the last spatial
            features.
    """

    def __init__(self, model: nn.Module, layer: Layers = None) -> None:
        self.model = unwrapped(model)
        self.layers = resolved(self.model, layer)
        weight = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        self.device = torch.device("cpu") if weight is None else weight.device
        self.dtype = torch.float32 if weight is None else weight.dtype
        # by what decides where a pass is cut: the input's shape without its batch axis, and its type
        self._splits: dict[tuple[tuple[int, ...], torch.dtype], tuple[Split, ...]] = {}
        self._lock = threading.Lock()

    @property
    def fuses(self) -> bool:
        """Whether there may be several splits."""
        return len(self.layers) > 1 or self.layers == ("stages",)

    def prepare(self, batch: Tensor) -> tuple[Split, ...]:
        """The splits for inputs of this shape, one a layer, traced on two pictures if they are not known yet."""
        with self._prepared(batch) as inputs:
            return self._splits_for(inputs)

    def run(self, batch: Tensor, at: int = -1) -> TorchPass:
        """One forward pass.

        Args:
            batch: preprocessed input (B, C, *space), any floating type and device.
            at: at which of the layers to cut; the last, if not given.

        Raises:
            FeaturesNotFoundError: no spatial features, or this pass took another way than the traced one.
            ModelError: the model failed on this input.
        """
        with self._prepared(batch) as inputs:
            for fresh in (False, True):
                forward_pass = self._attempt(inputs, self._splits_for(inputs, fresh=fresh)[at], at)
                if forward_pass is not None:
                    return forward_pass
        raise FeaturesNotFoundError(
            f"the model's calls differ from pass to pass for input {tuple(batch.shape)}, so its features cannot be "
            "followed; name the layer whose output to use with layer='…'"
        )

    def predict(self, batch: Tensor) -> Tensor:
        """Logits (B, K) alone, by a plain forward pass."""
        with self._prepared(batch) as inputs:
            return as_rows(logits_in(self.model(inputs)).float())

    @contextmanager
    def _prepared(self, batch: Tensor) -> Iterator[Tensor]:
        """The batch on the model's device, in its type; the model in evaluation mode, gradients off."""
        if batch.ndim < 3 or 0 in batch.shape:
            raise ModelError(f"expected a batch (B, C, *space) of at least one input, got shape {tuple(batch.shape)}")
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.model):
            inputs = batch.to(self.device, self.dtype if batch.is_floating_point() else None)
            yield inputs.clone() if inputs.is_inference() else inputs

    def _splits_for(self, batch: Tensor, *, fresh: bool = False) -> tuple[Split, ...]:
        shape = (tuple(batch.shape[1:]), batch.dtype)
        with self._lock:
            if fresh or shape not in self._splits:
                two = batch[:2].clone() if len(batch) > 1 else torch.cat((batch, batch.flip(-1)))
                if fresh and all(isinstance(layer, nn.Module) for layer in self.layers):
                    two = batch.clone()  # calls that depend on the pictures and their number, as detectors have them
                with _blaming_the_model(batch):
                    splits = find_splits(self.model, two, self.layers)
                if any(split.blind for split in splits):
                    return splits  # not kept: once the head has learned, it may be of another kind
                self._splits[shape] = splits
            return self._splits[shape]

    def _attempt(self, batch: Tensor, split: Split, at: int) -> TorchPass | None:
        """A pass cut at the split; None if its calls are not the traced ones."""
        own = batch.clone()  # a model may normalize its input in place
        with _blaming_the_model(batch), Tape([own], split.place) as tape:
            output = self.model(own)
        if tape.original is None or tape.passed_on is None or tuple(tape.original.shape[1:]) != split.shape:
            return None
        steps, logits = split.ending.logits(tape, output)
        if len(logits) != len(batch):
            raise ModelError(f"the model gave logits {tuple(logits.shape)} for input {tuple(batch.shape)}; expected a "
                             "row for each input (does it squeeze the batch axis away?)")  # fmt: skip
        if tuple(step.name for step in steps) != split.tail:
            return None
        again = partial(self.run, at=at)
        return TorchPass(
            split,
            tape.original,
            RecordedFunction(tuple(steps), tape.passed_on, logits),
            logits,
            batch,
            self.model,
            again,
        )
