"""Examples as tensors: decoded once, augmented by keys, in an order that no number of workers or processes changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from camlucida.data.record import Example
from camlucida.errors import TrainingError
from camlucida.images.preprocess import Preprocess
from camlucida.training.augment import AUGMENTS, Pixels
from camlucida.training.config import TrainConfig

IN_MEMORY = 4 * 2**30
"""Bytes of decoded pictures that are kept; of larger sets every picture is decoded each time."""

_ROOM = 1.5  # crops are cut out of pictures whose short side is at most so many times the size


class Key(NamedTuple):
    """Which picture, in which epoch, at how many pixels: all that decides what a network sees of it."""

    epoch: int
    size: int
    at: int


class Batch(NamedTuple):
    """Pictures (B, H, W, 3) uint8, targets (B, K) float32 in {0, 1} / shares, and their indices (B,)."""

    pictures: Tensor
    targets: Tensor
    indices: Tensor


def multi_label(examples: Sequence[Example], classes: int) -> bool:
    """Whether any picture has several classes or none; else each has one.

    Raises:
        TrainingError: there is no example, or a label is no class.
    """
    if not examples:
        raise TrainingError("there is no picture to train on")
    for example in examples:
        if any(not 0 <= label < classes for label in example.labels):
            raise TrainingError(f"{example.id}: label {example.labels} is outside of the {classes} classes")
    return any(len(example.labels) != 1 for example in examples)


class Pictures(Dataset[tuple[Pixels, NDArray[np.float32], int]]):
    """Examples by ``Key``.

    Validation pictures are as ``preprocess`` makes them. Training pictures are too, then augmented; for "crops" they
    keep their own shape, and only what is larger than needed is shrunk. Targets are 1 at the labels.

    Raises:
        ImageError: a picture cannot be read.
    """

    def __init__(
        self, examples: Sequence[Example], classes: int, preprocess: Preprocess, config: TrainConfig, training: bool
    ) -> None:
        self.examples, self.classes, self.preprocess = examples, classes, preprocess
        self.seed = config.seed
        self.augment = AUGMENTS[config.augment if training else "none"]
        self.whole = training and config.augment == "crops"
        self._kept: list[Pixels] | None = None
        pixels = round(config.size * (_ROOM if self.whole else 1)) ** 2
        if len(examples) * pixels * 3 <= IN_MEMORY:
            with ThreadPoolExecutor() as threads:
                self._kept = list(threads.map(self._read, range(len(examples))))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: Key) -> tuple[Pixels, NDArray[np.float32], int]:
        """The picture (size×size×3), its target (K,) and its index."""
        picture = self._read(key.at) if self._kept is None else self._kept[key.at]
        augmented = self.augment(picture, key.size, np.random.default_rng([self.seed, key.epoch, key.at]))
        target = np.zeros(self.classes, np.float32)
        target[list(self.examples[key.at].labels)] = 1
        return augmented, target, key.at

    def _read(self, index: int) -> Pixels:
        pixels = self.examples[index].read().pixels
        if not self.whole:
            return seen(pixels, self.preprocess)
        most = _ROOM * self.preprocess.size_hw[0]
        scale = most / min(pixels.shape[:2])
        if scale >= 1:
            return pixels
        size_wh = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
        shrunk: Pixels = cv2.resize(pixels, size_wh, interpolation=cv2.INTER_AREA)
        return shrunk


def seen(pixels: Pixels, preprocess: Preprocess) -> Pixels:
    """What a network is shown of a picture, before it is normalized: h×w×3 uint8.

    >>> seen(np.full((4, 8, 3), 7, np.uint8), Preprocess((2, 2)))[0, 0].tolist()
    [7, 7, 7]
    """
    plain = replace(preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)) if preprocess.fit != "pad" else preprocess
    values, _ = plain(pixels)
    mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (plain.mean, plain.std))
    bytes_ = np.rint((values * std + mean) * 255).astype(np.uint8)
    return np.ascontiguousarray(bytes_.transpose(1, 2, 0))


def normalized(pictures: Tensor, preprocess: Preprocess) -> Tensor:
    """Pictures (B, H, W, 3) uint8 to inputs (B, 3, H, W) float32, channels last in memory; as ``Preprocess`` does."""
    mean, std = (torch.tensor(numbers, device=pictures.device) for numbers in (preprocess.mean, preprocess.std))
    return ((pictures.float() / 255 - mean) / std).permute(0, 3, 1, 2)


@dataclass(eq=False)
class TrainingKeys(Sampler[list[Key]]):
    """The batches of one epoch for one process: an order keyed by (seed, epoch), each global batch shared in turns.

    What is left over behind the last full batch is left out of this epoch. The ``first`` batches are skipped: they were
    done before a kill.
    """

    count: int
    config: TrainConfig
    epoch: int
    first: int = 0
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return steps_of(self.count, self.config)

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self.config.seed, self.epoch]).permutation(self.count)
        size, steps = self.config.size_in(self.epoch), len(self)
        batch = batch_of(self.count, self.config)
        for step in range(self.first, steps):
            own = order[step * batch : (step + 1) * batch][self.rank :: self.world]
            yield [Key(self.epoch, size, int(index)) for index in own]


def validation_keys(count: int, config: TrainConfig, rank: int = 0, world: int = 1) -> list[list[Key]]:
    """Batches of every picture once, in order, shared by the processes in turns."""
    keys = [Key(0, config.size, index) for index in range(rank, count, world)]
    batch = max(1, 2 * config.batch // world)
    return [keys[start : start + batch] for start in range(0, len(keys), batch)]


def batch_of(count: int, config: TrainConfig) -> int:
    """Pictures a step: ``config.batch``, or as many as there are and all processes can share."""
    return min(config.batch, count // config.devices * config.devices)


def steps_of(count: int, config: TrainConfig) -> int:
    """Steps an epoch.

    Raises:
        TrainingError: there are fewer pictures than two a process.
    """
    batch = batch_of(count, config)
    if batch < 2 * config.devices:
        raise TrainingError(f"{count} pictures for devices={config.devices}: training needs at least two a process")
    return count // batch


def loader(pictures: Pictures, keys: Iterable[list[Key]], workers: int) -> DataLoader[Batch]:
    """Batches in the order of ``keys``."""
    return DataLoader(cast("Dataset[Batch]", pictures), batch_sampler=keys, num_workers=workers, collate_fn=_collated)


def _collated(items: Sequence[tuple[Pixels, NDArray[np.float32], int]]) -> Batch:
    pictures, targets, indices = zip(*items, strict=True)
    return Batch(torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(targets)), torch.tensor(indices))


def fingerprint(examples: Sequence[Example], classes: Sequence[str]) -> str:
    """A short name for which pictures with which labels these are: 16 hexadecimal digits.

    >>> fingerprint([], ["cat"]) == fingerprint([], ["dog"])
    False
    """
    digest = hashlib.sha256(repr(list(classes)).encode())
    for example in examples:
        digest.update(repr((example.id, example.labels)).encode())
    return digest.hexdigest()[:16]
