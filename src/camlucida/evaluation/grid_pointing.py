"""The grid pointing game: mosaics of pictures that the model knows well, and which tile each class's map points at.

Böhle, Fritz and Schiele, "Convolutional Dynamic Alignment Networks for Interpretable Classifications", CVPR 2021: tiles
are pictures of different classes, classified rightly and with most confidence; the network sees the mosaic at the size
of all its tiles, so each tile as large as the pictures it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from camlucida.data.record import Record
from camlucida.errors import ImageError, ModelError
from camlucida.evaluation.class_matching import class_ids
from camlucida.evaluation.explained import Explained
from camlucida.explainer import Explainer
from camlucida.metrics import GridPointing

TILES = 2


@dataclass(frozen=True)
class Known:
    """A picture that the model classifies rightly: the index of its record, its class in the data, the model's
    confidence, and whether the class is a thing that lies somewhere; a background class ("none") is not.
    """

    index: int
    label: int
    confidence: float
    thing: bool = True


def known_of(pictures: Sequence[Explained], located: bool) -> list[Known]:
    """The pictures of one class each that the model classifies rightly. Where some records are ``located`` (have boxes
    or masks), a picture without any holds no thing.
    """
    return [
        Known(one.index, one.labels[0], one.probabilities[0], one.record.truth.located or not located)
        for one in pictures
        if len(one.labels) == 1 and one.ranks[0] == 0
    ]


def layouts(known: Sequence[Known], count: int, seed: int) -> list[tuple[Known, ...]]:
    """So many mosaics of TILES² pictures; none where fewer than two classes are known, or no thing.

    Of each class the most confident half is used. With four classes or more all tiles are of different classes. With
    two or three, one thing's class has one tile and the others share the rest; then only that one is asked for (see
    ``asked``). Tiles lie in random order.
    """
    by_class: dict[int, list[Known]] = {}
    for one in sorted(known, key=lambda one: (-one.confidence, one.index)):
        by_class.setdefault(one.label, []).append(one)
    pools = [pool[: (len(pool) + 1) // 2] for pool in by_class.values()]
    things = [place for place, pool in enumerate(pools) if pool[0].thing]
    if len(pools) < 2 or not things:
        return []
    rng = np.random.default_rng(seed)
    mosaics = []
    for _ in range(count):
        first = things[rng.integers(len(things))]
        others = rng.permutation([place for place in range(len(pools)) if place != first])
        few = len(pools) < TILES**2
        places = [first, *(rng.choice(others, TILES**2 - 1) if few else others[: TILES**2 - 1])]
        tiles = [pools[place][rng.integers(len(pools[place]))] for place in places]
        mosaics.append(tuple(tiles[place] for place in rng.permutation(TILES**2)))
    return mosaics


def asked(mosaic: Sequence[Known]) -> list[int]:
    """The tiles that hold a thing whose class is on no other tile."""
    labels = [one.label for one in mosaic]
    return [place for place, one in enumerate(mosaic) if one.thing and labels.count(one.label) == 1]


def play(
    explainer: Explainer,
    classes: Sequence[str],
    records: Sequence[Record],
    mosaics: Sequence[tuple[Known, ...]],
    batch: int,
) -> Iterator[tuple[dict[str, NDArray[Any]], tuple[int, int]]]:
    """The counters of ``GridPointing`` for each mosaic, and the size at which the network saw a tile.

    A model of fixed input size sees the whole mosaic at that size, its tiles at half. ``batch`` counts pictures that go
    through the model at once: of mosaics, which are four times as large, a quarter.
    """
    if not mosaics:
        return
    labels = sorted({tile.label for mosaic in mosaics for tile in mosaic})
    sample = explainer.preprocess(records[mosaics[0][0].index].example.read().pixels)[0]
    ids = class_ids(classes, labels, explainer.class_names, explainer.runner.predict(sample[None]).shape[1])
    whole = True
    step = max(1, batch // TILES**2)
    for start in range(0, len(mosaics), step):
        some = mosaics[start : start + step]
        try:
            inputs = np.stack([_mosaic(explainer, records, one) for one in some])
        except ImageError:  # gone since it was read the first time
            continue
        asked_ids = np.array([[ids[tile.label] for tile in one] for one in some], np.int64)
        if whole:
            try:
                batch_maps = explainer.runner.explain(inputs, asked_ids, explainer.class_names)
            except ModelError:
                if start:
                    raise
                whole = False
        if not whole:
            batch_maps = explainer.runner.explain(_halved(inputs), asked_ids, explainer.class_names)
        tile_hw = (inputs.shape[2] // TILES, inputs.shape[3] // TILES)
        for mosaic, maps in zip(some, batch_maps.maps, strict=True):
            metric = GridPointing(TILES)
            places = asked(mosaic)
            metric.update([maps[place] for place in places], places)
            yield metric.counters, tile_hw if whole else (tile_hw[0] // TILES, tile_hw[1] // TILES)


def _mosaic(explainer: Explainer, records: Sequence[Record], mosaic: Sequence[Known]) -> NDArray[np.float32]:
    tiles = [explainer.preprocess(records[one.index].example.read().pixels)[0] for one in mosaic]
    return np.block([tiles[start : start + TILES] for start in range(0, TILES**2, TILES)])


def _halved(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    size_wh = (inputs.shape[3] // TILES, inputs.shape[2] // TILES)
    planes = [[cv2.resize(plane, size_wh, interpolation=cv2.INTER_AREA) for plane in one] for one in inputs]
    return np.array(planes, np.float32)
