"""One run of an ONNX classifier, as methods read a forward pass: what a graph can give, made of runs of its parts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camlucida.onnx.feature_search import Cut, find_cut
from camlucida.onnx.graph_cut import Route, route_of, showing
from camlucida.onnx.session import OnnxSession
from camlucida.pytorch.head import Kind


class OnnxClassifier:
    """An ONNX classifier that can be run, and cut at its features. Safe to call from several threads.

    Args:
        network: the file, opened.
        content: the file's bytes, to be cut.
        output: which of its outputs says something of the classes.
        of_several: whether it has others that say something else.

    Raises:
        MissingExtraError: onnx is not installed.
    """

    def __init__(self, network: OnnxSession, content: bytes, output: str, *, of_several: bool = False) -> None:
        self.name, self.output = network.name, output if of_several else ""
        self.route: Route = route_of(content, network.name, network.input, output)
        plain = self.route.logits in network.outputs
        self._network = network if plain else network.other(showing(self.route, [self.route.logits]))
        self._cuts: dict[tuple[int, ...], Cut] = {}
        self._lock = threading.Lock()

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of inputs (N, C, *space)."""
        return _rows(self._network.run([self.route.logits], inputs.numpy())[0])

    def cut(self, inputs: Tensor) -> Cut:
        """Where to cut the graph for inputs of this shape, sought once.

        Raises:
            FeaturesNotFoundError: it has no spatial features.
        """
        shape = tuple(inputs.shape[1:])
        with self._lock:
            if shape not in self._cuts:
                two = inputs[:2] if len(inputs) > 1 else torch.cat((inputs, inputs.flip(-1)))
                self._cuts[shape] = find_cut(self._network, self.route, two)
            return self._cuts[shape]

    def known_cut(self, inputs: Tensor) -> Cut | None:
        """The cut for inputs of this shape, if it was sought."""
        return self._cuts.get(tuple(inputs.shape[1:]))


@dataclass(frozen=True)
class UnknownHead:
    """A head of which nothing is known but its values."""

    kind: Kind = "nonlinear"
    pooling: None = None
    without_gradient: bool = True


class OnnxPass:
    """One run of an ONNX classifier; it fulfils ``methods.forward_pass.ForwardPass``, but for gradients and attention.

    Everything is float32. Features are sought when they are first read.

    Args:
        classifier: what runs.
        inputs: (B, C, *space).
        refuse: says that an ONNX file cannot give what was asked for.

    Attributes:
        inputs: as given.
        logits: (B, K); a final softmax or sigmoid is left out.
        split: what is known of the head.
    """

    fast_format = torch.contiguous_format
    takes_more = False

    def __init__(self, classifier: OnnxClassifier, inputs: Tensor, refuse: Callable[[], NoReturn]) -> None:
        self._classifier, self._refuse = classifier, refuse
        self.inputs = inputs
        self.logits = classifier.logits(inputs)
        self.split = UnknownHead()
        self.activation = classifier.route.activation

    @cached_property
    def _cut_run(self) -> tuple[Cut, Tensor, dict[str, NDArray[Any]]]:
        cut = self._classifier.cut(self.inputs)
        value, sizes = cut.run(self.inputs.numpy())
        return cut, torch.from_numpy(value), sizes

    @property
    def features(self) -> Tensor:
        """(B, C, *grid): the last spatial features, prefix tokens left out."""
        cut, value, _ = self._cut_run
        return cut.layout.on_grid(value)

    @property
    def prefix_tokens(self) -> Tensor:
        """The tokens before the grid, (B, C, prefix)."""
        cut, value, _ = self._cut_run
        return cut.layout.prefix_tokens(value)

    def again(self, inputs: Tensor) -> OnnxPass:
        """The pass of other inputs (N, C, *space)."""
        return OnnxPass(self._classifier, inputs, self._refuse)

    def forward(self, inputs: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Logits (N, K) of other inputs (N, C, *space)."""
        return self._called(self._classifier.logits, inputs)

    def predict(self, inputs: Tensor, most: int = 32, pictures: Tensor | None = None) -> Tensor:
        """Logits (N, K) of other inputs (N, C, *space), at most ``most`` at once."""
        return torch.cat([self._classifier.logits(part) for part in torch.split(inputs, most)])

    def head(self, features: Tensor) -> Tensor:
        """Logits (B, K) of other features (B, C, *grid); prefix tokens stay as they were."""
        cut, value, sizes = self._cut_run

        def run(tensor: Tensor) -> Tensor:
            return _rows(cut.head.run([self._classifier.route.logits], tensor.numpy(), sizes)[0])

        return self._called(run, cut.layout.put(value, features))

    def normalizes(self) -> bool:
        """Whether a normalization stands behind the pooling: features twice as strong give the same logits."""
        if self._cut_run[0].layout.prefix:
            return False  # nothing is pooled where class tokens are read
        nothing = self.head(torch.zeros_like(self.features))
        change = self.head(2 * self.features) - self.head(self.features)
        return bool(change.abs().max() < 1e-2 * (self.logits - nothing).abs().max())

    def _called(self, run: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
        """The graph as a torch function, which says that it has no gradient when it is asked for one."""
        logits: Tensor = _Graph.apply(tensor, run, self._refuse)  # type: ignore[no-untyped-call]
        return logits

    def _refused(self, *_: Any, **__: Any) -> NoReturn:
        """What only a network in PyTorch gives."""
        self._refuse()

    pooled_head = frozen_statistics = at_zero = gradients = each_gradient = _refused
    gradient_times_features = input_gradients = attention = _refused


class _Graph(torch.autograd.Function):
    """A run of a graph."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, run: Callable[[Tensor], Tensor], refuse: Callable[[], NoReturn]) -> Tensor:
        ctx.refuse = refuse
        return run(tensor.detach())

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        ctx.refuse()


def _rows(logits: NDArray[Any]) -> Tensor:
    """Logits (N, K), whatever axes of one the graph has or lacks."""
    return torch.from_numpy(logits.astype(np.float32, copy=False).reshape(len(logits), -1))
