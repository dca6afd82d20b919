"""Pictures by keys: the same for any worker, process and restart, and as evaluation will see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_runs import SIZE, config, examples

from camlucida.data.record import Example
from camlucida.errors import TrainingError
from camlucida.images.preprocess import Fit, Preprocess
from camlucida.training import example_batches
from camlucida.training.augment import AUGMENTS
from camlucida.training.config import Augment
from camlucida.training.example_batches import (
    Batch,
    Key,
    Pictures,
    TrainingKeys,
    fingerprint,
    loader,
    multi_label,
    normalized,
    seen,
    steps_of,
    validation_keys,
)  # fmt: skip


def pictures(augment: Augment, count: int = 20, training: bool = True) -> Pictures:
    settings = config(augment=augment)
    return Pictures(examples(count), 3, Preprocess((SIZE, SIZE), "stretch"), settings, training)


def epochs(augment: Augment, workers: int, world: int, first: int = 0) -> dict[tuple[int, int], NDArray[np.uint8]]:
    """Every picture that two epochs show, by (epoch, index)."""
    shown = {}
    source, settings = pictures(augment), config(augment=augment)
    for epoch in (0, 1):
        for rank in range(world):
            keys = TrainingKeys(20, settings, epoch, first, rank, world)
            for batch in loader(source, keys, workers):
                for picture, target, index in zip(*batch, strict=True):
                    assert target.tolist() == [float(int(index) % 3 == c) for c in range(3)]
                    shown[epoch, int(index)] = picture.numpy()
    return shown


@pytest.mark.parametrize("augment", list(AUGMENTS))
def test_the_same_pictures_for_any_number_of_workers_and_processes(augment: Augment) -> None:
    alone = epochs(augment, 0, 1)
    assert len(alone) == 2 * 16  # two full batches of eight, four pictures left out
    for workers, world in ((2, 1), (0, 2), (1, 4)):
        others = epochs(augment, workers, world)
        assert others.keys() == alone.keys()
        assert all(np.array_equal(others[key], alone[key]) for key in alone)
    if augment != "none":
        both = [index for index in range(20) if (0, index) in alone and (1, index) in alone]
        assert any(not np.array_equal(alone[0, index], alone[1, index]) for index in both)


def test_batches_over_processes_are_one_process_batches() -> None:
    settings = config()
    whole = [[key.at for key in keys] for keys in TrainingKeys(36, settings, 5)]
    parts = [[[key.at for key in keys] for keys in TrainingKeys(36, settings, 5, 0, rank, 2)] for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(batch) for batch in whole]
    assert list(TrainingKeys(36, settings, 5, 2)) == list(TrainingKeys(36, settings, 5))[2:]
    assert [key.at for keys in TrainingKeys(36, settings, 4) for key in keys] != [at for batch in whole for at in batch]
    assert len({at for batch in whole for at in batch}) == 32


def test_validation_sees_every_picture_once() -> None:
    seen_by = [[key.at for keys in validation_keys(13, config(), rank, 3) for key in keys] for rank in range(3)]
    assert sorted(at for one in seen_by for at in one) == list(range(13))


def test_sizes_follow_the_schedule() -> None:
    settings = config(epochs=4, sizes=((0.0, 12), (0.5, 16)))
    sizes = [{key.size for keys in TrainingKeys(20, settings, epoch) for key in keys} for epoch in range(4)]
    assert sizes == [{12}, {12}, {16}, {16}]
    batch = next(iter(loader(pictures("crops"), TrainingKeys(20, settings, 1), 0)))
    assert isinstance(batch, Batch)
    assert batch.pictures.shape == (8, 12, 12, 3)
    assert {key.size for keys in validation_keys(20, settings) for key in keys} == {SIZE}


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_what_is_validated_is_what_preprocess_makes(fit: Fit, rng: np.random.Generator) -> None:
    preprocess = Preprocess((24, 24), fit, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    picture = rng.integers(0, 256, (31, 50, 3), np.uint8)
    ours = normalized(torch.from_numpy(seen(picture, preprocess))[None], preprocess)[0]
    np.testing.assert_allclose(ours.numpy(), preprocess(picture)[0], rtol=0, atol=2e-6)


def test_the_batch_is_channels_last() -> None:
    images = normalized(torch.zeros(2, 8, 8, 3, dtype=torch.uint8), Preprocess((8, 8)))
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_large_sets_are_decoded_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = pictures("crops")
    monkeypatch.setattr(example_batches, "IN_MEMORY", 1000)
    fresh = pictures("crops")
    assert kept._kept is not None
    assert fresh._kept is None
    for at in (0, 7):
        assert np.array_equal(kept[Key(1, 16, at)][0], fresh[Key(1, 16, at)][0])


def test_dihedral_draws_all_eight_symmetries() -> None:
    corner = np.zeros((8, 8, 3), np.uint8)
    corner[0, 1] = 255  # where it goes names the symmetry
    found = {
        tuple(np.argwhere(AUGMENTS["dihedral"](corner, 8, np.random.default_rng(seed))[..., 0])[0].tolist())
        for seed in range(200)
    }
    assert found == {(0, 1), (1, 0), (0, 6), (6, 0), (7, 1), (1, 7), (7, 6), (6, 7)}


@pytest.mark.parametrize("augment", list(AUGMENTS))
def test_augmentations_leave_the_picture_alone(augment: Augment, rng: np.random.Generator) -> None:
    picture = rng.integers(0, 256, (30, 44, 3), np.uint8)
    before = picture.copy()
    for seed in range(30):
        made = AUGMENTS[augment](picture, 24, np.random.default_rng(seed))
        assert made.shape == (24, 24, 3)
        assert made.dtype == np.uint8
        assert np.array_equal(made, AUGMENTS[augment](picture, 24, np.random.default_rng(seed)))
    assert np.array_equal(picture, before)


def test_shifts_reach_a_twelfth_and_mirror_the_edge() -> None:
    ramp = np.repeat(np.arange(24, dtype=np.uint8)[None, :, None], 24, 0).repeat(3, 2)
    starts = set()
    for seed in range(300):
        made = AUGMENTS["dihedral"](ramp, 24, np.random.default_rng(seed))[..., 0].astype(int)
        row = made[12] if np.ptp(made[12]) else made[:, 12]
        row = row if row[12] < row[13] else row[::-1]
        shift = int(row[12]) - 12
        expected = [abs(v) if v < 24 else 46 - v for v in range(shift, shift + 24)]
        assert row.tolist() == expected
        starts.add(shift)
    assert starts == {-2, -1, 0, 1, 2}


def labelled(*labels: tuple[int, ...]) -> Sequence[Example]:
    return [Example(str(i), Path(), one) for i, one in enumerate(labels)]


def test_labels_are_single_or_several() -> None:
    assert not multi_label(labelled((0,), (2,)), 3)
    assert multi_label(labelled((0,), (0, 2)), 3)
    assert multi_label(labelled((0,), ()), 3)
    both = [replace(example, labels=(0, 2)) for example in examples(2)]
    target = Pictures(both, 3, Preprocess((SIZE, SIZE)), config(), training=False)[Key(0, SIZE, 1)][1]
    assert target.tolist() == [1, 0, 1]


def test_refused() -> None:
    with pytest.raises(TrainingError, match=r"^there is no picture to train on$"):
        multi_label([], 3)
    with pytest.raises(TrainingError, match=r"^0: label \(3,\) is outside of the 3 classes$"):
        multi_label(labelled((3,)), 3)
    with pytest.raises(TrainingError, match=r"^1 pictures for devices=1: training needs at least two a process$"):
        steps_of(1, config())
    assert steps_of(5, config()) == 1  # fewer than a batch: all of them


def test_fingerprint_sees_labels_and_ids() -> None:
    one = fingerprint(labelled((0,), (1,)), ["a", "b"])
    assert one == fingerprint(labelled((0,), (1,)), ["a", "b"])
    assert one != fingerprint(labelled((1,), (0,)), ["a", "b"])
    assert one != fingerprint(labelled((0,), (1,)), ["b", "a"])
