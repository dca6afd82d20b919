"""Linear classifiers on a network's pooled features (Zhou et al., CVPR 2016, section 4): their weights draw maps of
classes that the network was never trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from camlucida.data.record import Example
from camlucida.errors import MissingExtraError, TrainingError
from camlucida.images.picture import Picture
from camlucida.images.preprocess import Preprocess, View
from camlucida.results.files import make_folder
from camlucida.training.config import TrainConfig
from camlucida.training.example_batches import fingerprint
from camlucida.training.heads.pooling import GAP
from camlucida.training.network import Network, make_network
from camlucida.training.run_folder import RECORD, Run, open_network, write_record, write_weights

Classifier = Literal["logistic", "svm"]

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse regularization strengths (scikit-learn's C) that are tried on the validation pictures."""

_BATCH = 64


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear classifier on features (N, C): float64 weight (K, C) and bias (K,), and the C that was chosen."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    strength: float

    def accuracy(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """The share of features (N, C) whose largest logit is that of their label (N,); NaN for none."""
        if not len(labels):
            return float("nan")
        return float(((features @ self.weight.T + self.bias).argmax(1) == labels).mean())


def fit_linear(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    held_out: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None,
    *,
    classes: int,
    classifier: Classifier = "svm",
) -> Linear:
    """Fit scikit-learn's linear classifier on standardized features; the standardization is folded into its weights.

    The strength is chosen among ``STRENGTHS`` on held-out features and labels; without any it is 0.01 for the SVM, as
    weak as high-dimensional features need, and 0.1 for logistic regression.

    Args:
        features: float (N, C).
        labels: (N,) in [0, classes); every class must be among them.
        held_out: likewise, or None.
        classes: K.
        classifier: "svm" (one against the rest, squared hinge, as in the paper) or "logistic" (multinomial).

    Raises:
        TrainingError: a class has no example, or the classifier is unknown.
        MissingExtraError: scikit-learn is not installed.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
        >>> y = np.arange(60) % 3
        >>> x[np.arange(60), y] += 8
        >>> fit_linear(x, y, classes=3).accuracy(x, y)
        1.0
    """
    if classifier not in get_args(Classifier):
        raise TrainingError(f"classifier: expected one of {', '.join(get_args(Classifier))}, got {classifier!r}")
    absent = sorted(set(range(classes)) - set(labels.tolist()))
    if absent or classes < 2:
        raise TrainingError(f"a classifier needs two classes or more, with examples of each; none of class {absent}")
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    std = np.where(std > 1e-12 * max(float(np.abs(mean).max()), 1e-30), std, 1.0)
    standard = (features - mean) / std

    def fitted(strength: float) -> Linear:
        estimator = _unfitted(classifier, strength).fit(standard, labels)
        weight, bias = estimator.coef_.astype(np.float64), estimator.intercept_.astype(np.float64)
        if classes == 2:  # scikit-learn gives the difference of the two logits alone
            weight, bias = np.concatenate((-weight, weight)) / 2, np.concatenate((-bias, bias)) / 2
        return Linear(weight / std, bias - (weight / std) @ mean, strength)

    if held_out is None or not len(held_out[1]):
        return fitted(0.01 if classifier == "svm" else 0.1)
    return max(map(fitted, STRENGTHS), key=lambda linear: linear.accuracy(*held_out))


def _unfitted(classifier: Classifier, strength: float) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import LinearSVC
    except ModuleNotFoundError as error:
        raise MissingExtraError("scikit-learn", "train") from error
    if classifier == "svm":
        return LinearSVC(C=strength, random_state=0, max_iter=20_000)
    return LogisticRegression(C=strength, max_iter=5_000)


def pooled_features(network: Network, preprocess: Preprocess, pictures: Iterable[Picture]) -> NDArray[np.float32]:
    """The mean over the cells of the features that the head reads: float32 (N, C)."""
    parts = [
        network.added(network.backbone(batch)).mean((2, 3)).float().numpy()
        for batch, _ in input_batches(network, preprocess, pictures)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def input_batches(
    network: Network, preprocess: Preprocess, pictures: Iterable[Picture]
) -> Iterator[tuple[torch.Tensor, list[View]]]:
    """Prepared batches, without gradients, the network in evaluation mode."""
    network.eval()
    stream = iter(pictures)
    while some := list(islice(stream, _BATCH)):
        prepared = [preprocess(picture.pixels) for picture in some]
        with torch.no_grad():
            yield torch.from_numpy(np.stack([values for values, _ in prepared])), [view for _, view in prepared]


def labels_of(examples: Sequence[Example]) -> NDArray[np.int64]:
    """The one label of each example, (N,).

    Raises:
        TrainingError: an example has none or several.
    """
    for example in examples:
        if len(example.labels) != 1:
            raise TrainingError(
                f"{example.id}: has {len(example.labels)} classes; a linear probe needs exactly one each"
            )
    return np.array([example.labels[0] for example in examples], np.int64)


def probe_base(model: str, size: int, stride: int) -> tuple[Network, TrainConfig, Preprocess]:
    """The network whose features are probed: a run's folder, or a backbone with its published weights.

    Raises:
        ModelError: the folder is no run.
        TrainingError: there is no such backbone.
    """
    if (Path(model) / RECORD).is_file():
        network, run = open_network(Path(model))
        return network, run.config, run.preprocess
    config = TrainConfig(backbone=model, size=size, stride=stride)
    network = make_network(config, 2).eval()
    return network, config, Preprocess((size, size), mean=network.backbone.mean, std=network.backbone.std)


def with_linear(network: Network, linear: Linear) -> Network:
    """The same backbone, shared, behind which the classifier's weights stand as a GAP head."""
    head = GAP(linear.weight.shape[1], linear.weight.shape[0], network.backbone.grid_hw)
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(linear.weight))
        head.linear.bias.copy_(torch.from_numpy(linear.bias))
    return Network(network.backbone, network.added, head).eval()


@dataclass(frozen=True)
class Probed:
    """What a probe reached: accuracies in [0, 1] on each split, NaN for none, and the strength chosen on ``val``."""

    strength: float
    train: float
    val: float
    test: float


def probe(
    model: str,
    train: Sequence[Example],
    val: Sequence[Example],
    test: Sequence[Example],
    classes: Sequence[str],
    out: Path,
    *,
    classifier: Classifier = "svm",
    size: int = 224,
    stride: int = 32,
    on_progress: Callable[[str], None] = lambda message: None,
) -> Probed:
    """Fit a linear classifier on a network's pooled features, and leave a run folder that draws its maps.

    Args:
        model: a run's folder, or a backbone such as "timm:resnet50.a1_in1k" with its published weights.
        train: examples to fit on; one label each.
        val: examples to choose the strength on; may be empty.
        test: examples to report on; may be empty.
        classes: the names of the labels.
        out: a new or empty folder; ``open_model`` opens it as it does any run.
        classifier: "svm" or "logistic".
        size: pixels of the input, where ``model`` is a backbone.
        stride: pixels between the features' cells, where ``model`` is a backbone.
        on_progress: called with what is being done.

    Raises:
        TrainingError: the folder is not empty, a class has no example, an example has several labels.
        ImageError: a picture cannot be read.
    """
    if out.exists() and any(out.iterdir()):
        raise TrainingError(f"{out}: is not empty; choose another folder")
    network, config, preprocess = probe_base(model, size, stride)
    sets = []
    for name, examples in (("training", train), ("validation", val), ("test", test)):
        on_progress(f"features of {len(examples)} {name} pictures")
        features = pooled_features(network, preprocess, (example.read() for example in examples))
        sets.append((features, labels_of(examples)))
    on_progress(f"fitting: {classifier}")
    linear = fit_linear(*sets[0], sets[1], classes=len(classes), classifier=classifier)
    make_folder(out)
    data = (fingerprint(train, classes), fingerprint(val, classes))
    write_weights(out, with_linear(network, linear))
    head = replace(config, head="gap", regularizers=())
    write_record(out, Run(head, tuple(classes), False, preprocess, data, "complete"))
    return Probed(linear.strength, *(linear.accuracy(*split) for split in sets))
