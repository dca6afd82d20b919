"""Fine-grained recognition: map → box → crop → features again → classifier (Zhou et al., CVPR 2016, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camlucida.boxes import localize
from camlucida.data.record import Dataset, Record
from camlucida.errors import TrainingError
from camlucida.images.picture import Picture
from camlucida.images.preprocess import Preprocess
from camlucida.training import linear_probe
from camlucida.training.linear_probe import Classifier, Linear
from camlucida.training.network import Network

Boxes = Sequence[tuple[int, int, int, int]]


@dataclass(frozen=True)
class FineGrained:
    """Accuracies on the test pictures, in [0, 1], and how good the boxes were.

    Attributes:
        whole: of features of whole pictures.
        map_crop: of features of the crops to the map's boxes.
        true_crop: of features of the crops to the true boxes; NaN where not every picture has one.
        box_iou: share of test pictures whose box from the map overlaps a true box by IoU of at least 0.5; NaN likewise.
        pictures: how many test pictures.
    """

    whole: float
    map_crop: float
    true_crop: float
    box_iou: float
    pictures: int


def fine_grained(
    model: str,
    train: Dataset,
    test: Dataset,
    *,
    classifier: Classifier = "svm",
    threshold: float = 0.2,
    size: int = 224,
    stride: int = 32,
    on_progress: Callable[[str], None] = lambda message: None,
) -> FineGrained:
    """The paper's three rows: features of the whole picture, of the map's box, of the true box; a classifier on each.

    The map is that of the class which the first classifier guesses, in training as in testing: no box is used but to
    report what true boxes would have given.

    Args:
        model: a run's folder, or a backbone with its published weights.
        train: pictures to fit on, one label each.
        test: pictures to report on.
        classifier: "svm" or "logistic".
        threshold: of the box, a share of the map's maximum.
        size: pixels of the input, where ``model`` is a backbone.
        stride: pixels between the features' cells, where ``model`` is a backbone.
        on_progress: called with what is being done.

    Raises:
        TrainingError: a picture has several labels, or a class has no example.
        ImageError: a picture cannot be read.
    """
    network, _, preprocess = linear_probe.probe_base(model, size, stride)
    sets = (train, test)
    labels = [linear_probe.labels_of(data.examples) for data in sets]
    if not all(map(len, labels)):
        raise TrainingError("fine-grained recognition needs pictures to train on and to test on")

    def fitted(what: str, boxes: Sequence[Boxes] | None) -> tuple[Linear, list[NDArray[np.float32]]]:
        features = []
        for i, data in enumerate(sets):
            on_progress(f"{what}: features of {len(data.records)} pictures")
            crops = _pictures(data.records, None if boxes is None else boxes[i])
            features.append(linear_probe.pooled_features(network, preprocess, crops))
        linear = linear_probe.fit_linear(features[0], labels[0], classes=len(train.classes), classifier=classifier)
        return linear, features

    first, features = fitted("whole pictures", None)
    guesses = [(values @ first.weight.T + first.bias).argmax(1) for values in features]
    mapper = linear_probe.with_linear(network, first)
    drawn = [_map_boxes(mapper, preprocess, *pair, threshold) for pair in zip(sets, guesses, strict=True)]
    second, cropped = fitted("boxes of the maps", drawn)
    true_crop = overlap = float("nan")
    if all(len(record.truth.boxes) for data in sets for record in data.records):
        truth = [_true_boxes(data.records) for data in sets]
        third, exact = fitted("true boxes", truth)
        true_crop = third.accuracy(exact[1], labels[1])
        hits = [localize.iou([box], [true]).max() >= 0.5 for box, true in zip(drawn[1], truth[1], strict=True)]
        overlap = float(np.mean(hits))
    tested = labels[1]
    whole, map_crop = first.accuracy(features[1], tested), second.accuracy(cropped[1], tested)
    return FineGrained(whole, map_crop, true_crop, overlap, len(tested))


def _pictures(records: Sequence[Record], boxes: Boxes | None) -> Iterator[Picture]:
    """The pictures, cropped to their boxes if there are any."""
    for i, record in enumerate(records):
        picture = record.example.read()
        if boxes is not None:
            x0, y0, x1, y1 = boxes[i]
            picture = Picture(np.ascontiguousarray(picture.pixels[y0:y1, x0:x1]), picture.source)
        yield picture


def _map_boxes(
    mapper: Network, preprocess: Preprocess, data: Dataset, guesses: NDArray[np.int64], threshold: float
) -> Boxes:
    """The box of each picture's map of its guessed class; the whole picture where the map has no positive evidence."""
    boxes: list[tuple[int, int, int, int]] = []
    for batch, views in linear_probe.input_batches(mapper, preprocess, _pictures(data.records, None)):
        _, maps = mapper.maps(batch)
        for grid, view in zip(maps.numpy(), views, strict=True):
            largest = localize.boxes(view.project(grid[guesses[len(boxes)]]), threshold)
            x0, y0, x1, y1 = largest[0].tolist() if len(largest) else (0, 0, view.image_hw[1], view.image_hw[0])
            boxes.append((x0, y0, x1, y1))
    return boxes


def _true_boxes(records: Sequence[Record]) -> Boxes:
    """The first true box of each picture, in whole pixels of it, at least one."""
    boxes = []
    for record in records:
        picture = record.example.read().pixels.shape[:2]
        x0, y0, x1, y1 = record.truth.boxes_at(picture, picture)[0]
        left, top = min(int(x0), picture[1] - 1), min(int(y0), picture[0] - 1)
        boxes.append((left, top, max(left + 1, int(np.ceil(x1))), max(top + 1, int(np.ceil(y1)))))
    return boxes
