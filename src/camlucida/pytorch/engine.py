"""One forward pass of a torch classifier, cut at its features, with the head as a function on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from camlucida.errors import CamlucidaError, FeaturesNotFoundError, ModelError
from camlucida.pytorch.head import DESCRIPTIONS, Part, Pins
from camlucida.pytorch.split import Split, logits_in, tail_behind
from camlucida.pytorch.stages import Layers, find_splits, resolved
from camlucida.pytorch.state import evaluating, unwrapped
from camlucida.pytorch.tape import Step, Tape

Score = Callable[[Tensor], Tensor]
"""Logits (B, K) to the scores to explain, (B, T)."""


class Pass:
    """What one forward pass left behind: logits, features on their grid, and the head as a function.

    Everything is float32 (float64 for float64 models), whatever the model computed in; the backbone ran without
    gradients, the head with them.

    Attributes:
        logits: (B, K), detached.
        features: (B, C, *grid), detached: the last spatial features, prefix tokens left out.
        split: where the cut was, and what kind of head stands behind it.
        inputs: (B, C, *space), the preprocessed inputs, in the model's own floating-point type.
        model: what ran, in evaluation mode while a method computes.
    """

    def __init__(
        self, split: Split, original: Tensor, head: Part, logits: Tensor, inputs: Tensor, model: nn.Module,
        run: Callable[[Tensor], Pass],
    ) -> None:  # fmt: skip
        precise = torch.float64 if original.dtype == torch.float64 else torch.float32
        self.split = split
        self.logits = (
            logits.detach().to(precise).flatten(1) if logits.ndim > 1 else logits.detach().to(precise)[:, None]
        )
        self._whole = original.detach().to(precise)
        self.features = split.layout.on_grid(self._whole)
        self._head = head
        self.inputs, self.model = inputs, model
        self._run = run

    def again(self, inputs: Tensor) -> Pass:
        """The pass of other inputs (N, C, *space) of this one's size, cut at the same place."""
        return self._run(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of other inputs (N, C, *space) by a pass of the whole model; a final activation is left out.

        Differentiable where gradients are on.
        """
        own = inputs.clone()  # a model may normalize its input in place
        if not self.split.dropped:
            return _as_rows(logits_in(self.model(own))).to(self.logits.dtype)
        with Tape([own]) as tape:
            output = self.model(own)
        return _as_rows(tail_behind(tape, output, self.split.dropped)[1]).to(self.logits.dtype)

    def predict(self, inputs: Tensor, most: int = 32) -> Tensor:
        """Logits (N, K) of other inputs (N, C, *space), by plain forward passes of at most ``most`` inputs."""
        with torch.no_grad():
            return torch.cat([self.forward(part) for part in torch.split(inputs, most)])

    @cached_property
    def fast_format(self) -> torch.memory_format:
        """How many inputs are best laid out in memory: channels last where CPU convolutions run faster so (float32
        pictures; measured 1.3 to 1.4 times on a ResNet-50) and the model takes it, which one pass tries.
        """
        if self.inputs.ndim == 4 and self.inputs.device.type == "cpu" and self.inputs.dtype == torch.float32:
            try:
                self.predict(self.inputs[:1].contiguous(memory_format=torch.channels_last))
            except RuntimeError:  # the model views its features as if channels came first
                return torch.contiguous_format
            return torch.channels_last
        return torch.contiguous_format

    def input_gradients(self, score: Score, inputs: Tensor | None = None) -> Tensor:
        """Gradients (B, T, C, *space) of scores with respect to the inputs (or others of their shape).

        Runs backward through the whole network, whose parameters get no gradient.
        """
        leaf = (self.inputs if inputs is None else inputs).detach().clone().requires_grad_()
        with torch.enable_grad():
            scores = score(self.forward(leaf))
        return torch.stack(gradients_of(scores, leaf), 1)

    def head(self, features: Tensor) -> Tensor:
        """Logits (B, K) of other features (B, C, *grid); prefix tokens stay as they were. Differentiable."""
        return _as_rows(self._head(self.split.layout.put(self._whole, features)))

    def held(self) -> Pins:
        """The scale statistics of the head's normalizations at this pass's features, for holding them fixed."""
        pins = Pins()
        with torch.no_grad():
            self._head(self._whole, pins)
        return pins

    def gradients(self, score: Score, pins: Pins | None = None) -> tuple[Tensor, Tensor]:
        """Gradients of scores with respect to all features, with normalization statistics held if ``pins`` are given.

        Returns:
            On the grid, (B, T, C, *grid), and of the prefix tokens, (B, T, C, prefix).
        """
        on_grid, prefix = zip(*self.each_gradient(score, pins), strict=True)
        return torch.stack(on_grid, 1), torch.stack(prefix, 1)

    def each_gradient(self, score: Score, pins: Pins | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The gradients of one score after the other, so that all need not be held at once (see ``gradients``).

        Yields:
            On the grid, (B, C, *grid), and of the prefix tokens, (B, C, prefix).
        """
        leaf = self._whole.clone().requires_grad_()
        with torch.enable_grad():
            scores = score(_as_rows(self._head(leaf.clone(), pins)))
        layout = self.split.layout
        for one in each_gradient_of(scores, leaf):
            yield layout.on_grid(one), layout.tokens(one)[:, :, : layout.prefix]

    @property
    def prefix_tokens(self) -> Tensor:
        """The tokens before the grid, (B, C, prefix)."""
        return self.split.layout.tokens(self._whole)[:, :, : self.split.layout.prefix]

    def at_zero(self, score: Score, pins: Pins | None = None) -> Tensor:
        """The scores (B, T) of features that are zero everywhere, with statistics held if ``pins`` are given."""
        with torch.no_grad():
            return score(_as_rows(self._head(torch.zeros_like(self._whole), pins)))

    def steps_behind_pooling(self) -> tuple[Step, ...]:
        """The recorded calls from the pooled vector to the logits."""
        pooling = self.split.pooling
        return () if pooling is None else self._head.behind(pooling.index, pooling.output).steps

    def pooled_head(self, *, held: bool = True) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """The pooled vector (B, C) and the head behind it, with normalization statistics held at this pass's.

        Only for splits that have a pooling; ``held=False`` gives the head as it is, statistics and all.
        """
        pooling = self.split.pooling
        if pooling is None:
            raise ModelError(f"this head has no mean or sum pooling ({DESCRIPTIONS[self.split.kind]})")
        behind = self._head.behind(pooling.index, pooling.output)
        shape = behind.start.shape
        pooled = self.features.flatten(2).sum(2) / pooling.divisor
        pins = Pins() if held and self.split.kind == "normalized" else None
        if pins is not None:
            with torch.no_grad():
                behind(pooled.reshape(shape), pins)

        def head(vectors: Tensor) -> Tensor:
            return _as_rows(behind(vectors.reshape(shape), pins))

        return pooled, head


def gradients_of(scores: Tensor, leaf: Tensor) -> list[Tensor]:
    """The gradient of each column of scores (B, T) with respect to ``leaf``: T tensors of its shape."""
    return list(each_gradient_of(scores, leaf))


def each_gradient_of(scores: Tensor, leaf: Tensor) -> Iterator[Tensor]:
    """The gradient of one column of scores (B, T) after the other with respect to ``leaf``, each of its shape."""
    if not scores.requires_grad:
        yield from (torch.zeros_like(leaf) for _ in range(scores.shape[1]))
        return
    with torch.enable_grad():
        columns = scores.sum(0).unbind()
    for t, column in enumerate(columns):
        more = t < len(columns) - 1
        (gradient,) = torch.autograd.grad(column, leaf, retain_graph=more, allow_unused=True)
        yield torch.zeros_like(leaf) if gradient is None else gradient


@contextmanager
def _blaming_the_model(batch: Tensor) -> Iterator[None]:
    """Whatever a model raises becomes a ModelError that says for which input, in one line."""
    try:
        yield
    except CamlucidaError:
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise ModelError(f"the model failed on input {tuple(batch.shape)}: {type(error).__name__}: {first}") from error


def _as_rows(logits: Tensor) -> Tensor:
    return logits[:, None] if logits.ndim == 1 else logits.flatten(1)


@dataclass(frozen=True)
class _Shape:
    """What decides where a pass is cut: the input's shape without its batch axis, and its type."""

    input: tuple[int, ...]
    dtype: torch.dtype


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
        self._splits: dict[_Shape, tuple[Split, ...]] = {}
        self._lock = threading.Lock()

    @property
    def fuses(self) -> bool:
        """Whether there may be several splits."""
        return len(self.layers) > 1 or self.layers == ("stages",)

    def prepare(self, batch: Tensor) -> tuple[Split, ...]:
        """The splits for inputs of this shape, one a layer, traced on two pictures if they are not known yet."""
        with self._ready(batch) as ready:
            return self._find(ready)

    def run(self, batch: Tensor, at: int = -1) -> Pass:
        """One forward pass.

        Args:
            batch: preprocessed input (B, C, *space), any floating type and device.
            at: at which of the layers to cut; the last, if not given.

        Raises:
            FeaturesNotFoundError: no spatial features, or this pass took another way than the traced one.
            ModelError: the model failed on this input.
        """
        with self._ready(batch) as ready:
            for fresh in (False, True):
                done = self._attempt(ready, self._find(ready, fresh=fresh)[at], at)
                if done is not None:
                    return done
        raise FeaturesNotFoundError(
            f"the model's calls differ from pass to pass for input {tuple(batch.shape)}, so its features cannot be "
            "followed; name the layer whose output to use with layer='…'"
        )

    def predict(self, batch: Tensor) -> Tensor:
        """Logits (B, K) alone, by a plain forward pass."""
        with self._ready(batch) as ready:
            return _as_rows(logits_in(self.model(ready)).float())

    @contextmanager
    def _ready(self, batch: Tensor) -> Iterator[Tensor]:
        if batch.ndim < 3 or 0 in batch.shape:
            raise ModelError(f"expected a batch (B, C, *space) of at least one input, got shape {tuple(batch.shape)}")
        with torch.inference_mode(False), torch.no_grad(), evaluating(self.model):
            ready = batch.to(self.device, self.dtype if batch.is_floating_point() else None)
            yield ready.clone() if ready.is_inference() else ready

    def _find(self, batch: Tensor, *, fresh: bool = False) -> tuple[Split, ...]:
        shape = _Shape(tuple(batch.shape[1:]), batch.dtype)
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

    def _attempt(self, batch: Tensor, split: Split, at: int) -> Pass | None:
        """A pass cut at the split; None if its calls are not the traced ones."""
        own = batch.clone()  # a model may normalize its input in place
        with _blaming_the_model(batch), Tape([own], split.place) as tape:
            output = self.model(own)
        if tape.original is None or tape.passed_on is None or tuple(tape.original.shape[1:]) != split.shape:
            return None
        steps, logits = tail_behind(tape, output, split.dropped)
        if len(logits) != len(batch):
            raise ModelError(f"the model gave logits {tuple(logits.shape)} for input {tuple(batch.shape)}; expected a "
                             "row for each input (does it squeeze the batch axis away?)")  # fmt: skip
        if tuple(step.name for step in steps) != split.tail:
            return None
        again = partial(self.run, at=at)
        return Pass(split, tape.original, Part(tuple(steps), tape.passed_on, logits), logits, batch, self.model, again)
