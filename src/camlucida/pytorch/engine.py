"""Any torch classifier, prepared for explaining: its split found once per input shape, its passes cut there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from camlucida.errors import CamlucidaError, FeaturesNotFoundError, ModelError, first_line
from camlucida.pytorch.head import RecordedFunction
from camlucida.pytorch.model_call import Arguments, ModelCall, blaming_the_model
from camlucida.pytorch.model_pass import logits_of
from camlucida.pytorch.outputs import Ending, OtherRowsError, find_ending
from camlucida.pytorch.split import Split
from camlucida.pytorch.stages import Layers, find_splits, resolved
from camlucida.pytorch.state import evaluating, unwrapped
from camlucida.pytorch.tape import Tape
from camlucida.pytorch.torch_pass import TorchPass
from camlucida.pytorch.uncut_pass import UncutPass
from camlucida.targets import Expected

T = TypeVar("T")

_Key: TypeAlias = tuple[Any, ...]
"""What decides where a pass is cut: the input's shape without its batch axis, its type, what goes with it."""

_OF_SHAPES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, OtherRowsError)
"""What models raise that are given another number of inputs than they take."""

_INSTEAD = "methods that need scores alone, such as rise and occlusion, explain it all the same"


class TorchEngine:
    """A torch classifier prepared for explaining: finds its split once per input shape, then runs passes.

    Thread-safe. Nothing is left on the model: no hook, no gradient, no changed mode or flag.

    Args:
        model: any classifier; compiled and data-parallel wrappers are looked through.
        layer: the features' layer, by name, module or depth, or several (see ``stages``); None finds the last spatial
            features.
        expected: what is known of the logits among what it returns.
    """

    def __init__(self, model: nn.Module, layer: Layers = None, expected: Expected | None = None) -> None:
        self.model = unwrapped(model)
        self.layers = resolved(self.model, layer)
        self.expected = replace(expected or Expected(), declared=declared_classes(self.model))
        weight = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        self.device = torch.device("cpu") if weight is None else weight.device
        self.dtype = torch.float32 if weight is None else weight.dtype
        self._splits: dict[_Key, tuple[Split, ...]] = {}
        self._endings: dict[_Key, Ending] = {}
        self._sizes: dict[_Key, int | None] = {}
        """How many inputs run at once, for models that take no other number."""
        self._lock = threading.RLock()

    @property
    def fuses(self) -> bool:
        """Whether there may be several splits."""
        return len(self.layers) > 1 or self.layers == ("stages",)

    def prepare(self, batch: Tensor, arguments: Arguments | None = None) -> tuple[Split, ...]:
        """The splits for inputs of this shape, one a layer, traced on two pictures if they are not known yet."""
        with self._prepared(batch, arguments) as (inputs, call):
            return self._splits_for(inputs, call)

    def ending(self, batch: Tensor, arguments: Arguments | None = None) -> Ending:
        """Where the logits are in what the model returns for inputs of this shape, and what follows them there."""
        with self._prepared(batch, arguments) as (inputs, call):
            return self._ending_for(inputs, call)

    def size(self, batch: Tensor, arguments: Arguments | None = None, *, cut: bool = True) -> int | None:
        """How many inputs of this shape run at once, where the model takes no other number; ``cut``: in cut passes."""
        with self._prepared(batch, arguments) as (inputs, call):
            key = _key(inputs, call)
            if key not in self._sizes:
                look = self._splits_for if cut else self._ending_for
                look(inputs, call)
            return self._sizes[key]

    def run(self, batch: Tensor, at: int = -1, arguments: Arguments | None = None) -> TorchPass:
        """One forward pass, cut at its features.

        Args:
            batch: preprocessed input (B, C, *space), any floating type and device.
            at: at which of the layers to cut; the last, if not given.
            arguments: what the model takes beside the pictures.

        Raises:
            FeaturesNotFoundError: no spatial features, or this pass took another way than the traced one.
            ModelError: the model failed on this input.
        """
        with self._prepared(batch, arguments) as (inputs, call):
            for fresh in (False, True):
                split = self._splits_for(inputs, call, fresh=fresh)[at]
                forward_pass = self._attempt(inputs, self._sized(call, inputs), split, at, arguments)
                if forward_pass is not None:
                    return forward_pass
        raise FeaturesNotFoundError(
            f"the model's calls differ from pass to pass for input {tuple(batch.shape)}, so its features cannot be "
            f"followed; name the layer whose output to use with layer='…'; {_INSTEAD}"
        )

    def run_uncut(self, batch: Tensor, arguments: Arguments | None = None) -> UncutPass:
        """One forward pass, which is cut only if its features are read: any model that gives scores will do.

        Raises:
            ModelError: the model failed on this input, or returned no logits.
        """
        with self._prepared(batch, arguments) as (inputs, call):
            ending = self._ending_for(inputs, call)
            call = self._sized(call, inputs)
            with blaming_the_model(self.model, inputs):
                logits = logits_of(call, inputs, ending)
            _check_rows(logits, inputs)
            return UncutPass(call, inputs, logits, ending, _precise(self.dtype), partial(self.run, arguments=arguments))

    def predict(self, batch: Tensor, arguments: Arguments | None = None) -> Tensor:
        """Logits (B, K) alone, by a plain forward pass."""
        with self._prepared(batch, arguments) as (inputs, call):
            ending = self._ending_for(inputs, call)
            with blaming_the_model(self.model, inputs):
                call = self._sized(call, inputs)
                parts = [logits_of(own, part, ending)[:count] for own, part, count in call.portions(inputs)]
            return torch.cat(parts).float()

    # --- what is found once -------------------------------------------------------------------------------------------

    @contextmanager
    def _prepared(self, batch: Tensor, arguments: Arguments | None) -> Iterator[tuple[Tensor, ModelCall]]:
        """The batch on the model's device, in its type, and the call; the model in evaluation mode, gradients off."""
        if batch.ndim < 3 or 0 in batch.shape:
            raise ModelError(f"expected a batch (B, C, *space) of at least one input, got shape {tuple(batch.shape)}")
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.model):
            inputs = self._moved(batch)
            own = (arguments or Arguments()).placed(self._moved)
            yield inputs, ModelCall(self.model, own, len(batch), expected=self.expected)

    def _moved(self, values: Tensor) -> Tensor:
        moved = values.to(self.device, self.dtype if values.is_floating_point() else None)
        return moved.clone() if moved.is_inference() else moved

    def _sized(self, call: ModelCall, inputs: Tensor) -> ModelCall:
        return replace(call, size=self._sizes[_key(inputs, call)])

    def _splits_for(self, batch: Tensor, call: ModelCall, *, fresh: bool = False) -> tuple[Split, ...]:
        key = _key(batch, call)
        with self._lock:
            if fresh or key not in self._splits:
                named = all(isinstance(layer, nn.Module) for layer in self.layers)
                splits = self._looked_at(key, batch, call, self._traced, whole=fresh and named)
                if any(split.blind for split in splits):
                    return splits  # not kept: once the head has learned, it may be of another kind
                self._splits[key] = splits
            return self._splits[key]

    def _ending_for(self, batch: Tensor, call: ModelCall) -> Ending:
        key = _key(batch, call)
        with self._lock:
            if key not in self._endings:
                self._endings[key] = self._looked_at(key, batch, call, self._end_of)
            return self._endings[key]

    def _looked_at(
        self, key: _Key, batch: Tensor, call: ModelCall, look: Callable[[ModelCall, Tensor], T], *, whole: bool = False
    ) -> T:
        """What looking at two pictures shows; where a model does not take two, at as many as were given, or at one."""
        sizes = [self._sizes[key]] if key in self._sizes else [None, *([len(batch)] if len(batch) > 2 else []), 1]
        first = call.for_pictures([0])
        failures: list[Exception] = []
        for size in sizes:
            # The whole batch where calls depend on the pictures and their number, as detectors have them.
            tried = batch.clone() if whole and size is None else _some(batch, size)
            try:
                result = look(replace(first, size=size), tried)
            except Exception as error:
                if isinstance(error, CamlucidaError) and not isinstance(error, OtherRowsError):
                    raise
                if not isinstance(error, _OF_SHAPES) or isinstance(error, torch.OutOfMemoryError):
                    with blaming_the_model(self.model, batch):
                        raise
                failures.append(error)
                if size is None and not isinstance(error, OtherRowsError) and _runs(first, tried):
                    break  # their number is not what it fails of
            else:
                self._sizes[key] = size
                return result
        if isinstance(failures[0], CamlucidaError):
            raise failures[0]
        with blaming_the_model(self.model, batch):
            call(batch.clone())
        why = f"{type(failures[0]).__name__}: {first_line(failures[0])}"
        raise FeaturesNotFoundError(
            f"the model runs on input {tuple(batch.shape)}, but its calls cannot be run again one by one, so nothing "
            f"tells where its features are ({why}); {_INSTEAD}"
        ) from failures[0]

    def _end_of(self, call: ModelCall, batch: Tensor) -> Ending:
        with Tape(call.sources(batch)) as tape:
            returned = call(batch)
        return find_ending(tape, returned, len(batch), self.expected)

    def _traced(self, call: ModelCall, batch: Tensor) -> tuple[Split, ...]:
        try:
            splits = find_splits(call, batch, self.layers)
            other = find_splits(call, batch.flip(-1), self.layers) if call.size == 1 else splits
        except FeaturesNotFoundError as error:
            hidden = any(isinstance(module, torch.jit.ScriptModule) for module in self.model.modules())
            hint = " TorchScript parts show only their output: pass the module that was scripted, or" if hidden else ""
            raise FeaturesNotFoundError(f"{error};{hint} {_INSTEAD}") from error
        if splits != other:  # what two pictures in one batch would have shown
            raise FeaturesNotFoundError(
                f"the model takes one picture at a time, and what it calls differs from picture to picture, so its "
                f"features cannot be followed; {_INSTEAD}"
            )
        return splits

    def _attempt(
        self, batch: Tensor, call: ModelCall, split: Split, at: int, arguments: Arguments | None
    ) -> TorchPass | None:
        """A pass cut at the split; None if its calls are not the traced ones."""
        own = batch.clone()  # a model may normalize its input in place
        with blaming_the_model(self.model, batch), Tape([own], split.cuts) as tape:
            returned = call(own)
        originals = [tape.originals[place] for place in split.cuts if place in tape.originals]
        if tuple(tuple(original.shape[1:]) for original in originals) != split.shapes:
            return None
        steps, logits = split.ending.logits(tape, returned)
        _check_rows(logits, batch)
        if tuple(step.name for step in steps) != split.tail:
            return None
        again = partial(self.run, at=at, arguments=arguments)
        first, *others = (tape.copies[place] for place in split.cuts)
        head = RecordedFunction(tuple(steps), first, logits, tuple(others))
        return TorchPass(split, originals, head, logits, batch, call, again)


def declared_classes(model: nn.Module) -> int | None:
    """How many classes a model says it has, by its own attributes."""
    for owner, name in ((model, "num_classes"), (getattr(model, "config", None), "num_labels")):
        count = getattr(owner, name, None)
        if isinstance(count, int) and count > 0:
            return count
    return None


def as_tensors(values: Any) -> Any:
    """Nested values with arrays made tensors."""
    return tree_map_only(np.ndarray, torch.from_numpy, values)


def _key(batch: Tensor, call: ModelCall) -> _Key:
    return (tuple(batch.shape[1:]), batch.dtype, *call.arguments.signature)


def _some(batch: Tensor, size: int | None) -> Tensor:
    """The pictures to look at: two, or as many as run at once."""
    if size is not None:
        return batch[:size].clone()
    return batch[:2].clone() if len(batch) > 1 else torch.cat((batch, batch.flip(-1)))


def _runs(call: ModelCall, batch: Tensor) -> bool:
    try:
        call(batch.clone())
    except Exception:
        return False
    return True


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check_rows(logits: Tensor, batch: Tensor) -> None:
    if len(logits) != len(batch) and not (len(batch) == 1 and logits.ndim == 1):
        raise ModelError(
            f"the model gave logits {tuple(logits.shape)} for input {tuple(batch.shape)}; expected a row for each "
            "input (does it squeeze the batch axis away?)"
        )
