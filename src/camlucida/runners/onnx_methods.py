"""Methods that need no gradient, on ONNX files: what they read of a pass, made of runs of the graph.

The methods themselves are those that torch networks have, so PyTorch must be installed; the graph runs in ONNX Runtime.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from camlucida.errors import MethodError
from camlucida.methods.registry import Method
from camlucida.onnx.feature_search import Cut, find_cut
from camlucida.onnx.graph_cut import Route, route_of, showing
from camlucida.onnx.session import WITHOUT_GRADIENTS, OnnxSession
from camlucida.pytorch.engine import Pass
from camlucida.runners.runner import Facts, MapBatch
from camlucida.targets import Activation, Classes, choose


@dataclass(frozen=True)
class Ends:
    """What a pass's ``split`` says where nothing is known of a head but its values.

    Attributes:
        activation: what the file applies to its logits, if it ends in such an operation.
    """

    activation: Activation | None
    kind = "nonlinear"
    pooling = None


class Classifier:
    """An ONNX classifier that can be run, and cut at its features. Safe to call from several threads.

    Args:
        network: the file, opened.
        content: the file's bytes, to be cut.
        output: which of its outputs says something of the classes.

    Raises:
        MissingExtraError: onnx is not installed.
    """

    def __init__(self, network: OnnxSession, content: bytes, output: str) -> None:
        self.name = network.name
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


class OnnxPass:
    """One run of an ONNX classifier, as gradient-free methods read it: the part of ``Pass`` that a graph can give.

    Everything is float32. Features are sought when they are first read.

    Args:
        classifier: what runs.
        inputs: (B, C, *space).
        refuse: says that an ONNX file cannot give what was asked for.

    Attributes:
        inputs: as given.
        logits: (B, K); a final softmax or sigmoid is left out.
        split: see ``Ends``.
    """

    fast_format = torch.contiguous_format

    def __init__(self, classifier: Classifier, inputs: Tensor, refuse: Callable[[], NoReturn]) -> None:
        self._classifier, self._refuse = classifier, refuse
        self.inputs = inputs
        self.logits = classifier.logits(inputs)
        self.split = Ends(classifier.route.activation)

    def again(self, inputs: Tensor) -> OnnxPass:
        """The pass of other inputs (N, C, *space)."""
        return OnnxPass(self._classifier, inputs, self._refuse)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K) of other inputs (N, C, *space)."""
        return self._called(self._classifier.logits, inputs)

    def predict(self, inputs: Tensor, most: int = 32) -> Tensor:
        """Logits (N, K) of other inputs (N, C, *space), at most ``most`` at once."""
        return torch.cat([self._classifier.logits(part) for part in torch.split(inputs, most)])

    @cached_property
    def _seen(self) -> tuple[Cut, Tensor, dict[str, NDArray[Any]]]:
        cut = self._classifier.cut(self.inputs)
        value, sizes = cut.run(self.inputs.numpy())
        return cut, torch.from_numpy(value), sizes

    @property
    def features(self) -> Tensor:
        """(B, C, *grid): the last spatial features, prefix tokens left out."""
        cut, value, _ = self._seen
        return cut.layout.on_grid(value)

    def head(self, features: Tensor) -> Tensor:
        """Logits (B, K) of other features (B, C, *grid); prefix tokens stay as they were."""
        cut, value, sizes = self._seen

        def run(tensor: Tensor) -> Tensor:
            return _rows(cut.head.run([self._classifier.route.logits], tensor.numpy(), sizes)[0])

        return self._called(run, cut.layout.put(value, features))

    def normalizes(self) -> bool:
        """Whether a normalization stands behind the pooling: features twice as strong give the same logits."""
        if self._seen[0].layout.prefix:
            return False  # nothing is pooled where class tokens are read
        nothing = self.head(torch.zeros_like(self.features))
        change = self.head(2 * self.features) - self.head(self.features)
        return bool(change.abs().max() < 1e-2 * (self.logits - nothing).abs().max())

    def _called(self, run: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
        """The graph as a torch function, which says that it has no gradient when it is asked for one."""
        made: Tensor = _Graph.apply(tensor, run, self._refuse)  # type: ignore[no-untyped-call]
        return made

    def __getattr__(self, name: str) -> NoReturn:
        """What else a ``Pass`` has is what a graph cannot give: gradients, and the network's own calls."""
        self._refuse()


class _Graph(torch.autograd.Function):
    """A run of a graph."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, run: Callable[[Tensor], Tensor], refuse: Callable[[], NoReturn]) -> Tensor:
        ctx.refuse = refuse
        return run(tensor.detach())

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        ctx.refuse()


class OnnxMethods:
    """Explain batches with an ONNX classifier by a method that needs no gradient.

    Args:
        classifier: the classifier; methods may share one.
        method: the method.
    """

    def __init__(self, classifier: Classifier, method: Method) -> None:
        self.classifier, self.method = classifier, method

    def explain(self, batch: Any, classes: Classes, class_names: Sequence[str] | None) -> MapBatch:
        """One run, then the method, which may run the graph again.

        Raises:
            MethodError: the method needs gradients, or the calls of a torch network.
        """
        with torch.inference_mode(False), torch.no_grad():
            passed = OnnxPass(self.classifier, _tensor(batch), self._refuse)
            if self.method.name.startswith("dff") and passed.normalizes():
                self._refuse("the statistics of the normalization behind the pooling held fixed")
            targets = choose(classes, passed.logits, class_names)
            made = self.method.compute(cast(Pass, passed), targets)  # it gets the part of one that it needs, or refuses
            scores = _array(targets.of(passed.logits) if made.scores is None else made.scores)
            missing = np.full(scores.shape, np.nan, np.float32)
            bias = missing if made.bias is None else _array(made.bias)
            facts = self._facts(passed.inputs, passed.logits.shape[1], tuple(made.maps.shape[2:]))
            return MapBatch(_array(passed.logits), targets, scores, _array(made.maps), bias, facts)

    def predict(self, batch: Any) -> NDArray[np.float32]:
        """Logits (B, K) of one run."""
        return _array(self.classifier.logits(_tensor(batch)))

    def facts(self, batch: Any) -> Facts:
        """What the cut says."""
        inputs = _tensor(batch)
        grid = self.classifier.cut(inputs).layout.grid
        return self._facts(inputs, self.classifier.logits(inputs[:1]).shape[1], grid)

    def _refuse(self, what: str = "a network's gradients or inner calls") -> NoReturn:
        raise MethodError(
            f"{self.classifier.name}: {self.method.name} needs {what}, which an ONNX file does not offer; use the "
            f"PyTorch model it was made from, or {WITHOUT_GRADIENTS}"
        )

    def _facts(self, inputs: Tensor, classes: int, grid: tuple[int, ...]) -> Facts:
        cut = self.classifier.known_cut(inputs)
        features = "not looked at" if cut is None else f"{cut.layout.name} {'×'.join(map(str, cut.shape))} {cut.value}"
        return Facts("as the file computes it", features, grid, classes, self.classifier.route.activation)


def _rows(logits: NDArray[Any]) -> Tensor:
    """Logits (N, K), whatever axes of one the graph has or lacks."""
    return torch.from_numpy(logits.astype(np.float32, copy=False).reshape(len(logits), -1))


def _tensor(batch: Any) -> Tensor:
    """The batch on the CPU, float32."""
    given = batch.detach().cpu() if isinstance(batch, Tensor) else torch.from_numpy(np.ascontiguousarray(batch))
    return given.to(torch.float32)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = tensor.detach().float().numpy()
    return values
