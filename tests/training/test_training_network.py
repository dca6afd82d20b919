"""Backbones reach the asked stride, cut classifiers are what they were cut from, and explain agrees with maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import camlucida as cl
from camlucida.errors import TrainingError
from camlucida.training.config import TrainConfig
from camlucida.training.heads import Criterion
from camlucida.training.network import Network, make_network

OWN_FILE = '''
import torch
from torch import nn

class Net(nn.Module):
    """Four resolutions, a branch that only training takes where asked, hidden layers behind the pooling."""

    def __init__(self, aside=False):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(True), nn.Dropout(0.1))
        self.third = nn.Sequential(nn.Conv2d(12, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.GELU())
        self.fourth = nn.Sequential(nn.Conv2d(16, 20, 3, 2, 1), nn.BatchNorm2d(20), nn.ReLU())
        self.hidden = nn.Linear(20, 32)
        self.out = nn.Linear(32, 4)
        self.aside = nn.Conv2d(8, 8, 1) if aside else None

    def forward(self, x):
        x = self.stem(x)
        if self.aside is not None and self.training:
            x = x + self.aside(x)
        x = self.fourth(self.third(self.second(x)))
        return self.out(self.hidden(x.mean((2, 3))).relu())

def plain():
    torch.manual_seed(5)
    return Net()

def two_ways():
    return Net(aside=True)

def tokens():
    torch.manual_seed(5)
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 16, 8, 8)
            self.blocks = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.LayerNorm(16))
            self.out = nn.Linear(16, 4)
        def forward(self, x):
            return self.out(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))
    return Tokens()

def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
'''


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN_FILE)
    return path


def network(**settings: Any) -> Network:
    usual: dict[str, Any] = {"backbone": "small:8-12-16", "size": 32, "stride": 8}
    return make_network(TrainConfig(**(usual | settings)), 5).eval()


@pytest.mark.parametrize("backbone", ["small:6-8", "residual:6-8-10"])
@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("size", [32, 36])
def test_own_networks_have_the_asked_stride(backbone: str, stride: int, size: int) -> None:
    net = network(backbone=backbone, stride=stride, size=size)
    logits, maps = net.maps(torch.zeros(1, 3, size, size))
    assert maps.shape == (1, 5, *net.backbone.grid_hw)
    assert net.backbone.grid_hw == (-(-size // stride),) * 2
    assert [stage.shape[1] for stage in net.backbone.stages(torch.zeros(1, 3, size, size))] == list(
        net.backbone.channels
    )
    torch.testing.assert_close(net(torch.zeros(1, 3, size, size)), logits)


def test_the_usual_networks() -> None:
    sizes = {}
    for backbone in ("small", "residual"):
        net = network(backbone=backbone)
        assert net.maps(torch.zeros(1, 3, 32, 32))[1].shape == (1, 5, 4, 4)
        sizes[backbone] = sum(parameter.numel() for parameter in net.parameters())
    assert sizes == {"small": 463589, "residual": 2768485}


def test_the_grid_is_halved_early_and_then_kept() -> None:
    net = network(backbone="small:8-8-8-8", stride=4)
    assert [stage.shape[2] for stage in net.backbone.stages(torch.zeros(1, 3, 32, 32))] == [16, 8, 8, 8]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 4},
        {"backbone": "residual:8-12-16"},
        {"units": 24},
        {"head": "sum"},
        {"backbone": "own.py:plain", "stride": 8},
        {"backbone": "own.py:plain", "stride": 8, "units": 16},
        {"backbone": "own.py:plain", "stride": 16, "units": 12},
        {"backbone": "own.py:tokens", "stride": 8},
    ],
)
def test_explain_finds_the_same_exact_maps(
    settings: dict[str, Any], own_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_file.parent)
    net = network(**settings)
    images = torch.randn(3, 3, 32, 32)
    logits, maps = net.maps(images)
    found = cl.explain(images, net, classes="all")
    assert found.residual.max() <= 1e-5
    np.testing.assert_allclose(found.maps, maps.detach().numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.logits, logits.detach().numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.bias, net.head.bias().detach().numpy()[None].repeat(3, 0), rtol=0, atol=1e-6)


def test_a_cut_backbone_gives_the_backbones_own_values(own_file: Path) -> None:
    net = network(backbone=f"{own_file}:plain", stride=8)
    namespace: dict[str, Any] = {}
    exec(OWN_FILE, namespace)
    whole = namespace["plain"]().eval()
    images = torch.randn(2, 3, 32, 32)
    second = whole.second(whole.stem(images))
    stages = net.backbone.stages(images)
    torch.testing.assert_close(stages[0], whole.stem(images))
    torch.testing.assert_close(stages[1], second)
    torch.testing.assert_close(stages[2], whole.third(second))
    assert len(stages) == 3
    torch.testing.assert_close(net.backbone(images), stages[-1])
    assert net.backbone.channels == (8, 12, 16)


def test_what_the_cut_leaves_out_is_frozen_and_not_saved(own_file: Path) -> None:
    net = network(backbone=f"{own_file}:plain", stride=8)
    unused = {name for name in net.state_dict() if name not in net.used_state()}
    behind = ("trunk.net.fourth.", "trunk.net.hidden.", "trunk.net.out.")
    assert unused == {name for name in net.state_dict() if name.startswith(behind)}
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in net.named_parameters() if name.startswith(behind)}
    net.train()
    loss, logits = net.loss(torch.randn(4, 3, 32, 32), torch.eye(5)[:4], Criterion())
    loss.backward()
    assert logits.shape == (4, 5)
    assert {name for name, parameter in net.named_parameters() if parameter.grad is None} == frozen
    again = network(backbone=f"{own_file}:plain", stride=8, seed=9)
    again.load_used_state(net.used_state())
    torch.testing.assert_close(again(torch.ones(1, 3, 32, 32)), net.eval()(torch.ones(1, 3, 32, 32)))


def test_building_changes_no_statistics_and_no_generator(own_file: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    net = network(backbone=f"{own_file}:plain", stride=8)
    assert torch.equal(torch.rand(1), expected)
    assert all(int(count) == 0 for name, count in net.named_buffers() if name.endswith("num_batches_tracked"))
    assert float(net.backbone.get_buffer("net.stem.1.running_mean").abs().max()) == 0


class Doubled(nn.Module):
    """Stands for a regularizer's layer."""

    def forward(self, features: Tensor) -> Tensor:
        return features * 2


@pytest.mark.parametrize("backbone", ["small:8-12-16", "own.py:plain", "own.py:tokens"])
def test_layers_between_stages(backbone: str, own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_file.parent)
    net = network(backbone=backbone)
    images = torch.randn(2, 3, 32, 32)
    before = net.backbone.stages(images)
    last = len(before) - 1
    net.backbone.between[str(last)] = Doubled()
    torch.testing.assert_close(net.backbone(images), 2 * before[-1])
    if last:
        net.backbone.between.clear()
        net.backbone.between["0"] = Doubled()
        after = net.backbone.stages(images)
        torch.testing.assert_close(after[0], 2 * before[0])
        assert not torch.allclose(after[1], before[1])


@pytest.mark.parametrize("backbone", ["small:8-12-16", "own.py:plain", "own.py:tokens"])
def test_networks_can_be_exported(backbone: str, own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_file.parent)
    net = network(backbone=backbone, units=16)
    images = torch.randn(2, 3, 32, 32)
    both = cl.with_maps(net, images)
    program = torch.export.export(both, (images,), strict=False).module()
    for made, expected in zip(program(images), net.maps(images), strict=True):
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-6)


def test_the_added_convolution_is_the_papers() -> None:
    net = network(units=24)
    convolution, activation = net.added
    assert (convolution.kernel_size, convolution.stride, convolution.padding) == ((3, 3), (1, 1), (1, 1))
    assert convolution.weight.shape == (24, 16, 3, 3)
    assert isinstance(activation, nn.ReLU)
    assert net.head.linear.in_features == 24


def test_seeds_decide_the_weights() -> None:
    states = [network(seed=seed, units=8).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["head.linear.weight"], states[2]["head.linear.weight"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"backbone": "large"}, r"^backbone: expected small, small:32-64-128, residual, timm:NAME, .* got 'large'$"),
        ({"backbone": "small:8-x"}, r"^backbone: expected small:32-64-128, got 'small:8-x'$"),
        ({"backbone": "small:8-0"}, r"^backbone: expected widths above 0, got 8-0$"),
        ({"backbone": "small:8", "stride": 8}, r"^backbone: 1 stages cannot reach stride=8; give at least 2 widths$"),
        ({"backbone": "own.py:plain", "stride": 32}, r"^backbone: own.py:plain has no stage of stride=32; it has 2, "),
        ({"backbone": "own.py:flat"}, r"^backbone: own.py:flat: no spatial features lead to the logits"),
        ({"backbone": "own.py:two_ways"}, r"^backbone: it takes another way while training"),
        ({"backbone": "timm:no_such_net"}, r"^backbone: timm:no_such_net could not be made: .*no_such_net"),
    ],
)  # fmt: skip
def test_refused(settings: dict[str, Any], says: str, own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_file.parent)
    if settings["backbone"].startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(TrainingError, match=says):
        network(**settings)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"trunk.parts.0.0.0.weight": None}, r"^weights: the weights lack trunk.parts.0.0.0.weight; are they of"),
        ({"more": torch.zeros(1)}, r"^weights: the network has no more; are they of another"),
        ({"head.linear.bias": torch.zeros(3)}, r"^weights: head.linear.bias has shape \(3,\), expected \(5,\)"),
    ],
)
def test_weights_must_fit(changes: dict[str, Any], says: str | None) -> None:
    net = network()
    state = {name: value for name, value in (net.used_state() | changes).items() if value is not None}
    if says is None:
        net.load_used_state(state)
        return
    with pytest.raises(TrainingError, match=says):
        net.load_used_state(state)


@pytest.mark.parametrize(("name", "stride"), [("timm:test_resnet", 4), ("timm:test_vit", 16)])
def test_zoo_backbones(name: str, stride: int) -> None:
    pytest.importorskip("timm")
    net = network(backbone=name, stride=stride, size=96, pretrained=False)
    images = torch.randn(2, 3, 96, 96)
    logits, maps = net.maps(images)
    assert maps.shape[2:] == (96 // stride, 96 // stride)
    torch.testing.assert_close(maps.sum((2, 3)) + net.head.bias(), logits, rtol=1e-4, atol=1e-5)
