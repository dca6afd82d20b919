"""ACoL, SPG and TS-CAM against slow versions written from their papers, a pixel at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from shapes_toy import SIZE, batch, trained
from torch import Tensor
from torch.nn import functional as F

from camlucida.errors import TrainingError
from camlucida.training.backbones.transformers import OwnTransformer, TokenBackbone, token_backbone
from camlucida.training.config import TrainConfig
from camlucida.training.heads import Criterion, Head, make_head
from camlucida.training.heads.wsol_heads import FEW, SPG, ACoL, erased, guidance, minmax, of_targets, seeds
from camlucida.training.network import Network, make_network

TOY = {
    "acol": TrainConfig(backbone="small:8-16-24", head="acol", size=SIZE, stride=4),
    "spg": TrainConfig(backbone="small:8-16-24", head="spg", size=SIZE, stride=4),
    "tscam": TrainConfig(backbone="vit:32-2-4", head="tscam", size=SIZE, stride=4),
}


def _slow_minmax(grid: np.ndarray) -> np.ndarray:
    low, high = grid.min(), grid.max()
    return np.array([[(v - low) / (high - low) if high > low else 0.0 for v in row] for row in grid])


def _cross_entropy(logits: Sequence[float], target: Sequence[float]) -> float:
    total = math.log(sum(math.exp(v) for v in logits))
    return -sum(t * (v - total) for t, v in zip(target, logits, strict=True))


def _double(head: Head) -> Head:
    return head.double()


# ACoL


def test_acol_loss_equals_the_papers() -> None:
    head = _double(make_head("acol:threshold=0.6", 6, 3, (5, 4)))
    assert isinstance(head, ACoL)
    features = torch.rand(2, 6, 5, 4, dtype=torch.float64)
    labels = [2, 0]
    targets = torch.eye(3, dtype=torch.float64)[labels]
    loss, logits = head.loss(features, (), targets, Criterion())
    expected = 0.0
    for i, label in enumerate(labels):
        first = head.first(features[i : i + 1])[0].detach().numpy()
        attention = _slow_minmax(first[label])
        copy = features[i].clone()
        for y in range(5):
            for x in range(4):
                if attention[y, x] >= 0.6:
                    copy[:, y, x] = 0
        second = head.second(copy[None])[0].detach().numpy()
        expected += _cross_entropy(first.mean((1, 2)), targets[i].tolist())
        expected += _cross_entropy(second.mean((1, 2)), targets[i].tolist())
        np.testing.assert_allclose(logits[i].detach(), first.mean((1, 2)), atol=1e-12)
    assert loss.item() == pytest.approx(expected / 2, abs=1e-6)  # losses are taken in float32


def test_acol_maps_are_the_larger_of_both_classifiers_each_scaled() -> None:
    head = _double(make_head("acol", 6, 3, (5, 4)))
    assert isinstance(head, ACoL)
    features = torch.rand(2, 6, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        maps = head.maps(features)
        for i in range(2):
            for c in range(3):
                first = _slow_minmax(head.first(features[i : i + 1])[0, c].numpy())
                mask = torch.from_numpy(first < 0.7)
                second = _slow_minmax(head.second(features[i : i + 1] * mask)[0, c].numpy())
                np.testing.assert_allclose(maps[i, c], np.maximum(first, second), atol=1e-12)
    assert head.bias() is None


def test_acol_erases_by_the_share_of_each_target() -> None:
    maps = torch.tensor([[[[0.0, 4.0]], [[2.0, 0.0]]]])
    assert of_targets(maps, torch.tensor([[1.0, 0.0]])).tolist() == [[[[0.0, 4.0]]]]
    assert of_targets(maps, torch.tensor([[0.5, 0.5]])).tolist() == [[[[1.0, 2.0]]]]
    nothing = minmax(of_targets(maps, torch.zeros(1, 2)))  # a picture without a label loses nothing
    assert erased(torch.ones(1, 3, 1, 2), nothing).sum() == 6


def test_no_gradient_runs_through_what_is_erased() -> None:
    head = make_head("acol", 4, 2, (4, 4))
    assert isinstance(head, ACoL)
    features = torch.rand(1, 4, 4, 4, requires_grad=True)
    attention = minmax(head.first(features)[:, :1].detach())
    erased(features, attention).sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad[0, 0] == 0, attention[0, 0] >= 0.7)


# SPG


def _slow_seeds(attention: np.ndarray, high: float, low: float) -> np.ndarray:
    """1 object, 0 background, nan open."""
    if (attention > high).sum() < FEW * attention.size:
        high = 0.7 * attention.max()
    answer = np.full(attention.shape, np.nan)
    for place, value in np.ndenumerate(attention):
        if value > high:
            answer[place] = 1
        if value < low:
            answer[place] = 0
    return answer


@pytest.mark.parametrize(("high", "low", "top"), [(0.7, 0.1, 1.0), (0.5, 0.05, 0.4), (0.9, 0.6, 0.3)])
def test_seeds_and_guidance_equal_the_papers(high: float, low: float, top: float) -> None:
    attention, logits = torch.rand(3, 1, 6, 5, dtype=torch.float64) * top, torch.randn(3, 1, 6, 5, dtype=torch.float64)
    thing, sure = seeds(attention, high, low)
    losses = []
    for i in range(3):
        expected = _slow_seeds(attention[i, 0].numpy(), high, low)
        np.testing.assert_array_equal(sure[i, 0], ~np.isnan(expected))
        np.testing.assert_array_equal(thing[i, 0], expected == 1)
        for place, value in np.ndenumerate(expected):
            if not np.isnan(value):
                p = 1 / (1 + math.exp(-logits[i, 0][place].item()))
                losses.append(-math.log(p if value else 1 - p))
    assert guidance(logits, attention, high, low).item() == pytest.approx(np.mean(losses), abs=1e-6)


def test_guidance_of_nothing_sure_is_nothing() -> None:
    assert guidance(torch.randn(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5), 0.4999, 0.1).isfinite()
    flat = torch.zeros(1, 1, 2, 2)
    assert guidance(torch.randn(1, 1, 2, 2), flat, 0.7, 0.0).item() == 0.0


def _spg() -> tuple[Network, SPG]:
    network = make_network(TrainConfig(backbone="small:4-6-8", head="spg", size=SIZE, stride=8), 3).double().eval()
    assert isinstance(network.head, SPG)
    return network, network.head


def _bilinear(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    def weights(outputs: int, cells: int) -> np.ndarray:
        matrix = np.zeros((outputs, cells))
        for i in range(outputs):
            place = min(max((i + 0.5) * cells / outputs - 0.5, 0), cells - 1)
            low = int(place)
            matrix[i, low] += 1 - (place - low)
            matrix[i, min(low + 1, cells - 1)] += place - low
        return matrix

    return weights(size[0], grid.shape[0]) @ grid @ weights(size[1], grid.shape[1]).T


def test_spg_loss_is_classification_and_three_lessons() -> None:
    network, head = _spg()
    images = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    labels = [1, 2]
    targets = torch.eye(3, dtype=torch.float64)[labels]
    loss, logits = network.loss(images, targets, Criterion())
    with torch.no_grad():
        stages = network.backbone.stages(images)
        size = (stages[-2].shape[2], stages[-2].shape[3])
        planes = head.classifier(stages[-1]).numpy()
        raw = [
            head.shared(head.first_branch(stages[-2])),
            head.shared(head.second_branch(stages[-1])),
            head.last(stages[-1]),
        ]
    answers = [np.stack([_bilinear(grid, size) for grid in one[:, 0].numpy()]) for one in raw]
    sigmoid = [1 / (1 + np.exp(-answer)) for answer in answers]
    class_maps = np.stack([_slow_minmax(_bilinear(planes[i, label], size)) for i, label in enumerate(labels)])
    lessons = [
        (answers[1], class_maps, 0.7, 0.01), (answers[0], sigmoid[1], 0.5, 0.05),
        (answers[2], (sigmoid[0] + sigmoid[1]) / 2, 0.7, 0.1),
    ]  # fmt: skip
    expected = np.mean([_cross_entropy(planes[i].mean((1, 2)), targets[i].tolist()) for i in range(2)])
    for answer, teacher, high, low in lessons:
        marks = np.stack([_slow_seeds(one, high, low) for one in teacher])
        p = 1 / (1 + np.exp(-answer))
        losses = -np.where(marks == 1, np.log(p), np.log(1 - p))[~np.isnan(marks)]
        expected += losses.mean() if losses.size else 0.0
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(logits.detach(), planes.mean((2, 3)), atol=1e-12)


def test_spg_maps_are_exact_and_its_branches_are_for_training_alone() -> None:
    network, head = _spg()
    images = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    logits, maps = network.maps(images)
    bias = head.bias()
    assert bias is not None
    torch.testing.assert_close(maps.sum((2, 3)) + bias, logits)
    for branch in (head.first_branch, head.second_branch, head.shared, head.last):
        torch.nn.init.zeros_(branch[0].weight if hasattr(branch[0], "weight") else branch[0][0].weight)
    torch.testing.assert_close(network(images), logits)


# TS-CAM


def _slow_attention(backbone: OwnTransformer, images: Tensor) -> tuple[np.ndarray, Tensor]:
    """Where the class token looks: layers' and heads' softmax rows by hand; and the tokens after the last layer."""
    patches = (backbone.stem(images) + backbone.places).flatten(2).transpose(1, 2)
    x = torch.cat([backbone.class_token.expand(len(images), -1, -1), patches], 1)
    rows = []
    for layer in backbone.layers:
        width = x.shape[2]
        size = width // layer.heads
        q, k, v = layer.qkv(layer.norms[0](x)).chunk(3, 2)
        mixed = torch.zeros_like(x)
        for h in range(layer.heads):
            part = slice(h * size, (h + 1) * size)
            weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size), 2)
            mixed[..., part] = weights @ v[..., part]
            rows.append(weights[:, 0, 1:].numpy())
        x = x + layer.project(mixed)
        x = x + layer.hidden(layer.norms[1](x))
    return np.mean(rows, 0), backbone.norm(x)


def test_tscam_maps_are_semantics_times_the_class_tokens_attention() -> None:
    network = make_network(TOY["tscam"], 3).double().eval()
    backbone = network.backbone
    assert isinstance(backbone, OwnTransformer)
    images = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        torch.nn.init.normal_(backbone.class_token)
        logits, maps = network.maps(images)
        looks, tokens = _slow_attention(backbone, images)
        grid = tokens[:, 1:].transpose(1, 2).reshape(2, -1, 8, 8)
        semantic = F.conv2d(grid, network.head.semantic.weight, network.head.semantic.bias, padding=1)
    expected = semantic * torch.from_numpy(looks.reshape(2, 1, 8, 8))
    torch.testing.assert_close(maps, expected, atol=1e-7, rtol=1e-5)  # attention is kept in float32
    torch.testing.assert_close(logits, semantic.mean((2, 3)))
    torch.testing.assert_close(network(images), logits)


def test_training_and_evaluation_give_equal_logits() -> None:
    network = make_network(TOY["tscam"], 3).eval()
    for module in network.backbone.stem.modules():
        module.eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    expected = network(images)
    network.backbone.training = False
    with torch.no_grad():
        watched = network.backbone(images)
        network.backbone.training = True  # the backbone alone: its normalizations stay in evaluation
        plain = network.backbone(images)
    torch.testing.assert_close(plain[:, :-1], watched[:, :-1])
    assert not plain[:, -1].any()
    torch.testing.assert_close(network(images), expected)


def test_tokens_keep_their_places_at_other_sizes() -> None:
    backbone = token_backbone(TOY["tscam"]).eval()
    assert backbone(torch.zeros(1, 3, SIZE + 16, SIZE)).shape == (1, 33, 12, 8)


def test_timm_transformers_give_their_attention() -> None:
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    assert timm
    config = TrainConfig(backbone="timm:vit_tiny_patch16_224", head="tscam", size=48, stride=16, pretrained=False)
    network = make_network(config, 3).eval()
    assert isinstance(network.backbone, TokenBackbone)
    with torch.no_grad():
        features = network.backbone(torch.randn(2, 3, 48, 48))
    assert features.shape == (2, 193, 3, 3)
    looks = features[:, -1].sum((1, 2))
    assert ((looks > 0.8) & (looks < 1)).all()  # the class token's row sums to 1 with what it gives itself


# All of them


@pytest.mark.parametrize("name", TOY)
def test_a_small_network_learns_with_it_and_points_at_the_thing(name: str) -> None:
    network, accuracy = trained(TOY[name], steps=100 if name == "tscam" else 60)
    assert accuracy > 0.9
    images, targets, boxes = batch(2000, 100)
    with torch.no_grad():
        _, maps = network.maps(images)
    of_class = maps[torch.arange(100), targets.argmax(1)]
    inside = torch.zeros(100, SIZE, SIZE)
    for mask, (x0, y0, x1, y1) in zip(inside, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    laid = F.interpolate(of_class[:, None], size=(SIZE, SIZE), mode="bilinear")[:, 0]
    within, without = ((laid * part).sum((1, 2)) / part.sum((1, 2)) for part in (inside, 1 - inside))
    assert (within > without).float().mean() > 0.9


def test_without_its_own_loss_the_class_token_of_a_new_transformer_learns_nothing() -> None:
    network = make_network(TrainConfig(backbone="vit:32-2-4", head="tscam:token=0", size=SIZE, stride=4), 3)
    images, targets = torch.randn(2, 3, SIZE, SIZE), torch.eye(3)[:2]
    loss, logits = network.loss(images, targets, Criterion())
    assert loss.item() == pytest.approx(F.cross_entropy(logits, targets).item())
    taught = make_network(TOY["tscam"], 3)
    both, _ = taught.loss(images, targets, Criterion())
    own = F.cross_entropy(taught.head.of_token(taught.backbone.tokens(images)[:, 0]), targets)
    assert both.item() == pytest.approx(loss.item() + own.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"head": "acol:threshold=0"}, r"acol: threshold is a share of the map's range in \(0, 1\], got 0"),
        ({"head": "spg:low=0.8"}, "spg: expected thresholds 0 <= low < high < 1, got low 0.8, high 0.7"),
        ({"head": "spg", "backbone": "small:16", "stride": 4}, "spg: guides the last two stages, but this backbone"),
        ({"head": "tscam"}, "backbone: tscam needs a transformer, vit, vit:128-6-4 .*, got 'small'"),
        ({"head": "tscam", "backbone": "vit:30-2-4"}, "needs heads that divide the width, got 30-2-4"),
        ({"head": "tscam", "backbone": "vit:32-2"}, "got 'vit:32-2'"),
        ({"head": "tscam", "backbone": "vit", "size": 36}, "a transformer needs a multiple of stride=8, got 36"),
        ({"head": "tscam:token=-1", "backbone": "vit"}, "tscam: token is a weight of at least 0, got -1"),
        ({"head": "tscam", "backbone": "vit", "units": 8}, "take units=0, not 8"),
    ],
)
def test_what_is_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make_network(TrainConfig(**config), 3)  # type: ignore[arg-type]
