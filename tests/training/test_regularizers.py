"""HaS, CutMix and ADL against slow versions written from their papers, and the rates at which they drop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from shapes_toy import SIZE, trained
from torch import Tensor
from torch.nn import functional as F

from camlucida.errors import TrainingError
from camlucida.training.config import TrainConfig
from camlucida.training.network import make_network
from camlucida.training.regularizers import (
    ADL,
    MIXED,
    REGULARIZERS,
    AttentionDropout,
    CutMix,
    HaS,
    hidden,
    make_regularizers,
    rectangle,
)

SIZES = [(24, 24), (17, 31), (30, 9)]


def _batch(count: int = 6, size: tuple[int, int] = (24, 24), classes: int = 4) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(0.3, 1, (count, 3, *size)).astype(np.float32))
    return images, F.one_hot(torch.arange(count) % classes, classes).float()


@pytest.mark.parametrize("size", SIZES)
def test_has_hides_whole_patches_and_puts_the_mean_there(size: tuple[int, int]) -> None:
    images, targets = _batch(size=size)
    before = images.clone()
    made, same = HaS(0.5, parts=4).batch(images, targets, np.random.default_rng(3))
    draws = np.random.default_rng(3)
    side = math.ceil(min(size) / 4)
    expected = images.clone()
    mean = images.double().mean((0, 2, 3)).float()
    for i in range(len(images)):
        for y in range(0, size[0], side):
            for x in range(0, size[1], side):
                if draws.random() < 0.5:
                    expected[i, :, y : y + side, x : x + side] = mean[:, None, None]
    torch.testing.assert_close(made, expected)
    assert torch.equal(images, before)
    assert same is targets


def test_has_hides_at_its_rate_whatever_the_patches() -> None:
    rng = np.random.default_rng(0)
    for parts in (4, 5, 7, 14):
        shares = [hidden((56, 56), parts, 0.3, rng).mean() for _ in range(600)]
        assert np.mean(shares) == pytest.approx(0.3, abs=4 * np.std(shares) / math.sqrt(600))


def test_has_mixes_the_papers_patch_sizes() -> None:
    assert sorted({math.ceil(224 / parts) for parts in MIXED if parts}) == [16, 32, 45, 56]
    images, targets = torch.ones(400, 1, 28, 28), torch.zeros(400, 1)
    images[:, :, 0, 0] = 1.5  # so that the mean is another number
    made, _ = HaS(rate=1.0).batch(images, targets, np.random.default_rng(0))
    whole = (made == images).flatten(1).all(1).float().mean().item()
    assert whole == pytest.approx(1 / len(MIXED), abs=0.08)


@pytest.mark.parametrize("size", SIZES)
def test_rectangles_have_the_pictures_shape_and_are_cut_at_its_edges(size: tuple[int, int]) -> None:
    height, width = size
    for seed in range(50):
        rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
        x0, y0, x1, y1 = rectangle(size, 0.4, rng)
        row, column = int(again.integers(height)), int(again.integers(width))
        inside = [
            (y, x)
            for y in range(height)
            for x in range(width)
            if -(int(height * 0.4**0.5) // 2) <= y - row < int(height * 0.4**0.5) // 2
            and -(int(width * 0.4**0.5) // 2) <= x - column < int(width * 0.4**0.5) // 2
        ]
        assert sorted(inside) == [(y, x) for y in range(y0, y1) for x in range(x0, x1)]


def test_cutmix_pastes_one_rectangle_and_mixes_labels_by_its_pixels() -> None:
    images, targets = _batch(size=(17, 31))
    kept = images.clone(), targets.clone()
    seen = set()
    for seed in range(40):
        made, mixed = CutMix().batch(images, targets, np.random.default_rng(seed))
        changed = (made != images).any(1)
        moved = [i for i in range(len(images)) if changed[i].any()]
        assert torch.allclose(mixed.sum(1), torch.ones(len(mixed)), atol=1e-6)
        areas = {int(changed[i].sum()) for i in moved}
        assert len(areas) <= 1  # the same rectangle for all
        share = areas.pop() / (17 * 31) if areas else 0.0
        for i in range(len(images)):
            sources = [
                j for j in range(len(images)) if torch.equal(made[i], torch.where(changed[i], images[j], images[i]))
            ]
            assert any(
                torch.allclose(mixed[i], (1 - share) * targets[i] + share * targets[j], atol=1e-6) for j in sources
            )
        seen.add(round(share, 1))
    assert len(seen) > 5  # from nothing to all, as Beta(1, 1) has it
    assert torch.equal(images, kept[0])
    assert torch.equal(targets, kept[1])


def test_cutmix_mixes_as_often_as_asked() -> None:
    images, targets = _batch(4, (8, 8))
    rng = np.random.default_rng(0)
    same = sum(CutMix(rate=0.3).batch(images, targets, rng)[0] is images for _ in range(1000))
    assert same / 1000 == pytest.approx(0.7, abs=0.06)


@pytest.mark.parametrize("drop", [True, False])
def test_adl_layer_equals_the_papers_equations(drop: bool) -> None:
    layer = AttentionDropout(0.8).train()
    layer.drop = drop
    features = torch.rand(3, 5, 4, 6, dtype=torch.float64)
    expected = features.clone()
    for i in range(3):
        looks = np.array([[features[i, :, y, x].mean().item() for x in range(6)] for y in range(4)])
        for y in range(4):
            for x in range(6):
                factor = float(looks[y, x] < 0.8 * looks.max()) if drop else 1 / (1 + math.exp(-looks[y, x]))
                expected[i, :, y, x] *= factor
    torch.testing.assert_close(layer(features), expected)
    assert layer.eval()(features) is features


def test_adl_drops_the_strongest_cell_and_draws_at_its_rate() -> None:
    network = make_network(TrainConfig(backbone="small:8-8-8", size=32), 3)
    adl = ADL(rate=0.75)
    names = list(network.state_dict())
    adl.attach(network.backbone)
    assert list(network.state_dict()) == names  # no weights: a run opens the same with and without
    assert sorted(network.backbone.between) == ["1", "2"]
    rng, drops = np.random.default_rng(0), []
    for _ in range(1000):
        adl.draw(network.backbone, rng)
        drops += [layer.drop for layer in network.backbone.between.values() if isinstance(layer, AttentionDropout)]
    assert np.mean(drops) == pytest.approx(0.75, abs=0.04)

    for layer in network.backbone.between.values():
        assert isinstance(layer, AttentionDropout)
        layer.drop = True
    features = network.train().backbone(torch.rand(2, 3, 32, 32))
    assert (features.sum(1).flatten(1) == 0).any(1).all()
    features = network.eval().backbone(torch.rand(2, 3, 32, 32))
    assert not (features.sum(1).flatten(1) == 0).any()


def test_adl_is_refused_by_transformers() -> None:
    network = make_network(TrainConfig(backbone="vit:16-1-2", head="tscam", size=32), 3)
    with pytest.raises(TrainingError, match="adl: its layers stand between stages of convolutions"):
        ADL().attach(network.backbone)


@pytest.mark.parametrize("name", REGULARIZERS)
def test_equal_generators_give_equal_batches(name: str) -> None:
    (regularizer,) = make_regularizers([name])
    images, targets = _batch()
    first = regularizer.batch(images, targets, np.random.default_rng([7, 3]))
    again = regularizer.batch(images, targets, np.random.default_rng([7, 3]))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_small_network_learns_with_it(name: str) -> None:
    (regularizer,) = make_regularizers([f"{name}:rate=0.4"])
    _, accuracy = trained(TrainConfig(backbone="small:8-16-24", size=SIZE, stride=4), regularizer)
    assert accuracy > 0.9


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["dropblock"], "there is no 'dropblock'; expected one of has, adl, cutmix"),
        (["has:size=3"], "has has no option 'size'; it has rate, parts"),
        (["has", "has:rate=0.1"], "has is named twice"),
        (["has:rate=1.5"], r"has: rate is a probability in \[0, 1\], got 1.5"),
        (["has:parts=2.5"], "has: parts counts patches along a side, 0 or more, got 2.5"),
        (["adl:threshold=0"], r"adl: threshold is a share of the maximum in \(0, 1\], got 0"),
        (["adl:rate=-1"], "adl: rate is a probability"),
        (["cutmix:beta=0"], "cutmix: beta must be above 0, got 0"),
        (["cutmix:rate=2"], "cutmix: rate is a probability"),
        (["cutmix:beta"], "expected name:option=number"),
    ],
)
def test_what_is_refused(specs: list[str], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make_regularizers(specs)
