"""Layers by name, module and depth; stages against what hooks see; fusion against loops and the paper's formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import camlucida as cl  # noqa: E402
from camlucida.errors import CamlucidaError, TargetError  # noqa: E402
from camlucida.methods.fusion import UNIT, fused  # noqa: E402
from camlucida.pytorch.engine import TorchEngine  # noqa: E402
from camlucida.pytorch.model_call import ModelCall  # noqa: E402
from camlucida.pytorch.stages import find_splits, resolved  # noqa: E402
from nets import BY_NAME, Block, Call, Tokens  # noqa: E402


class Residual(nn.Module):
    def __init__(self, wide: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(wide, wide, 3, 1, 1), nn.Conv2d(wide, wide, 3, 1, 1)

    def forward(self, x):
        return F.relu(x + self.two(F.relu(self.one(x))))


class Pyramid(nn.Module):
    """Normalizes its input itself, then three resolutions, with a skip and padding on the way, as in real networks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.first = Residual(4)
        self.down = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 5, 3, 2), nn.ReLU())
        self.stages = nn.Sequential(Residual(5), Residual(5))
        self.last = nn.Sequential(nn.Conv2d(5, 6, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.first(self.stem((x - 0.1) / 2))
        return self.head(self.last(self.stages(self.down(x))).mean((2, 3)))


PLACES = ("first", "stages", "last")
GRIDS = ((12, 16), (6, 8), (3, 4))


@pytest.fixture
def net():
    torch.manual_seed(3)
    net = Pyramid().eval().double()
    net.stem[1].running_mean.normal_(0, 0.3)
    return net


@pytest.fixture
def x():
    return torch.randn(3, 3, 24, 32, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def seen(net, x, *names):
    """What modules give, and the logits, with gradients."""
    kept = {}
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda _m, _a, out, name=name: kept.__setitem__(name, out))
        for name in names
    ]
    logits = net(x.clone().requires_grad_())
    for hook in hooks:
        hook.remove()
    return kept, logits


def slow_layercam(net, x, name, class_id):
    kept, logits = seen(net, x, name)
    (gradient,) = torch.autograd.grad(logits[:, class_id].sum(), kept[name])
    return (gradient.relu() * kept[name]).sum(1).detach().numpy()


def upsampled(m, grid):
    """Half-pixel bilinear, cell by cell."""
    made = np.zeros(grid)
    for y in range(grid[0]):
        for x in range(grid[1]):
            v, u = ((i + 0.5) * m.shape[a] / grid[a] - 0.5 for a, i in enumerate((y, x)))
            v, u = min(max(v, 0), m.shape[0] - 1), min(max(u, 0), m.shape[1] - 1)
            top, left = int(v), int(u)
            low, right = min(top + 1, m.shape[0] - 1), min(left + 1, m.shape[1] - 1)
            a, b = v - top, u - left
            made[y, x] = (1 - a) * ((1 - b) * m[top, left] + b * m[top, right]) + a * (
                (1 - b) * m[low, left] + b * m[low, right]
            )
    return made


def slow_fusion(maps, gamma=2.0):
    """One picture's maps, each h×w, as the paper says: scale the shallow, normalize the others, take the maximum."""
    finest = max((m.shape for m in maps), key=math.prod)
    coarsest = min(math.prod(m.shape) for m in maps)
    made = np.zeros(finest)
    for m in maps:
        m = np.maximum(m, 0)
        if m.max() > 0:
            m = np.tanh(gamma * m / m.max()) if math.prod(m.shape) >= 16 * coarsest else m / m.max()
        made = np.maximum(made, upsampled(m, finest))
    return made


# --- stages -----------------------------------------------------------------------------------------------------------


def test_stages_are_the_last_values_at_each_resolution(net, x):
    engine = TorchEngine(net, "stages")
    kept, logits = seen(net, x, *PLACES)
    for at, name in enumerate(PLACES):
        forward_pass = engine.run(x, at)
        assert torch.equal(forward_pass.features, kept[name].detach())
        assert torch.allclose(forward_pass.head(forward_pass.features), logits, rtol=0, atol=1e-12)
        assert torch.equal(forward_pass.again(x.flip(0)).features, kept[name].detach().flip(0))
    assert tuple(split.layout.grid for split in engine.prepare(x)) == GRIDS


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["gap_linear", "inplace", "nhwc", "class_token", "token_mean", "signal", "volume"])
def test_the_last_stage_is_the_default_everywhere(name, dtype):
    case = BY_NAME[name]
    net, batch = case.net(dtype), case.batch(2, dtype)
    default, stages = TorchEngine(net).run(batch), TorchEngine(net, "stages")
    assert torch.equal(stages.run(batch).features, default.features)
    assert stages.prepare(batch)[-1] == default.split
    assert torch.equal(TorchEngine(net, -1).run(batch).features, default.features)
    cells = [math.prod(split.layout.grid) for split in stages.prepare(batch)]
    assert cells == sorted(set(cells), reverse=True)


def test_a_plain_vision_transformer_has_one_stage():
    case = BY_NAME["class_token"]
    net, batch = case.net(torch.float32), case.batch(2, torch.float32)
    every, last = (cl.explain(batch, net, "gradcam", [1], layer=layer) for layer in ("stages", "last"))
    assert np.array_equal(every.maps, last.maps)
    assert every.origin == last.origin


def test_stages_of_tokens_with_a_class_token_in_front():
    """Tokens at two resolutions: only looking where changes show tells their grids."""

    class Merge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.reduce, self.coarse = Tokens(1, patch=2, grid=(8, 12)), nn.Linear(40, 10), Block(10)

        def forward(self, x):
            tokens = self.fine(x)
            grid = tokens[:, 1:].reshape(-1, 4, 2, 6, 2, 10).permute(0, 1, 3, 2, 4, 5).reshape(-1, 24, 40)
            return self.coarse(torch.cat((tokens[:, :1], self.reduce(grid)), 1))

    torch.manual_seed(0)
    net = nn.Sequential(Merge(), nn.LayerNorm(10), Call(lambda x: x[:, 1:].mean(1)), nn.Linear(10, 5)).eval()
    batch = torch.randn(2, 3, 16, 24)
    engine = TorchEngine(net, "stages")
    assert [(split.layout.grid, split.layout.prefix) for split in engine.prepare(batch)] == [((8, 12), 1), ((4, 6), 0)]
    kept, _ = seen(net, batch, "0.fine")
    fine = kept["0.fine"].detach()[:, 1:].transpose(1, 2).unflatten(2, (8, 12))
    assert torch.equal(engine.run(batch, 0).features, fine)


# --- choosing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "places"),
    [
        (None, ("last",)),
        ("last", ("last",)),
        (-1, ("last",)),
        (2, ("last",)),
        (-2, ("stages",)),
        (0, ("first",)),
        ("first", ("first",)),
        ("stem", ("stem",)),
        ([-1, "first"], ("first", "last")),
        (("first", "last", "first", -1), ("first", "last")),
        (["stages", "stem"], ("stem", *PLACES)),
    ],
)
def test_what_a_layer_means(net, x, layer, places):
    engine = TorchEngine(net, layer)
    kept, _ = seen(net, x, *places)
    splits = engine.prepare(x)
    assert len(splits) == len(places)
    for at, name in enumerate(places):
        assert torch.equal(engine.run(x, at).features, kept[name].detach())


def test_a_module_named_like_a_depth_is_given_as_itself(net, x):
    assert resolved(net, net.stages) == (net.stages,)
    assert resolved(net, "stages") == ("stages",)
    (split,) = TorchEngine(net, net.stages).prepare(x)
    assert split.layout.grid == GRIDS[1]


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        ("layer4", r"no layer 'layer4'; its layers begin with: stem, stem\.0"),
        ([], "the list is empty"),
        (["first", "frist"], "no layer 'frist'"),
        (nn.ReLU(), r"given layer \(ReLU\) is not part of the model"),
        (True, r"given layer \(bool\) is not part"),
        (
            3,
            r"layer=3: there is no such stage; input \(3, 24, 32\) passes through 3, with grids 12×16, 6×8, 3×4",
        ),
        ([-4], "layer=-4: there is no such stage"),
        ("head", "named layer gave tensors of shapes"),
    ],
)
def test_layers_that_are_none(net, x, layer, match):
    with pytest.raises(CamlucidaError, match=match):
        cl.explain(x, net, "gradcam", [1], layer=layer)
    assert not any(module._forward_hooks for module in net.modules())


def test_an_onnx_model_has_its_last_layer_alone():
    assert cl.Explainer(layer="last")(cl.sample()).grid == (10, 10)
    with pytest.raises(CamlucidaError, match="no layers to choose"):
        cl.Explainer(layer="stages")


def test_splits_are_found_once_a_shape(net, x, monkeypatch):
    engine = TorchEngine(net, "stages")
    engine.run(x)
    monkeypatch.setattr("camlucida.pytorch.engine.find_splits", lambda *_: pytest.fail("searched again"))
    engine.run(x[:1], 0)
    assert len(find_splits(ModelCall(net), x, (-1, "last"))) == 1


# --- fusion -----------------------------------------------------------------------------------------------------------


def test_several_layers_fuse_as_in_the_paper(net, x):
    made = cl.explain(x, net, "layercam", [1, 3], layer="stages")
    assert made.maps.shape == (3, 2, *GRIDS[0])
    for t, class_id in enumerate((1, 3)):
        layers = [slow_layercam(net, x, name, class_id) for name in PLACES]
        for i in range(3):
            wanted = slow_fusion([layer[i] for layer in layers])
            assert np.abs(made.maps[i, t] - wanted).max() <= 1e-6
    assert np.isnan(made.bias).all()
    assert np.isnan(made.residual).all()
    assert made.origin.unit == UNIT
    assert made.origin.features == "NCHW 4×12×16 + NCHW 5×6×8 + NCHW 6×3×4"
    assert np.allclose(made.scores, net(x)[:, [1, 3]].detach())


def test_one_layer_stays_a_decomposition(net, x):
    made = cl.explain(x, net, "cam", [1], layer=["last"])
    assert made.residual.max() <= 1e-6
    assert made.origin.unit == "logits per cell"


def test_a_batch_fuses_like_its_pictures_alone(net, x):
    explainer = cl.Explainer(net, method="gradcam", layer=["first", "last"])
    together = explainer(x, [0])
    for i in range(3):
        assert np.abs(explainer(x[i : i + 1], [0]).maps[0] - together.maps[i]).max() <= 1e-6


@pytest.mark.parametrize("space", [1, 2, 3])
def test_fusion_of_any_number_of_directions(space, rng):
    fine, coarse = torch.from_numpy(rng.normal(size=(2, 3, *(8,) * space))), torch.ones(2, 3, *(2,) * space).double()
    coarse[0] = -1
    made = fused([coarse, fine])
    share = (2 * fine.relu() / fine.relu().flatten(2).amax(2).reshape(2, 3, *(1,) * space)).tanh()
    assert torch.allclose(made[0], share[0])
    assert torch.equal(made[1], torch.ones_like(made[1]))  # a constant stays one wherever it is interpolated
    assert fused([fine, fine])[0].max() == 1  # no layer is shallow beside its like
    assert torch.allclose(fused([fine * 1e-20, coarse]), made)


def test_fusion_keeps_the_finest_of_each_direction():
    assert fused([torch.ones(1, 1, 2, 8), torch.ones(1, 1, 4, 4)]).shape == (1, 1, 4, 8)


@pytest.mark.parametrize(
    "shapes", [[], [(1, 2, 3), (1, 1, 3)], [(1, 2, 3), (1, 2, 3, 3)], [(2, 3)], [(1, 1, 2, 2, 2, 2)]]
)
def test_maps_that_cannot_be_fused(shapes):
    with pytest.raises(CamlucidaError, match=r"fusion: expected maps \(B, T, \*grid\) of one B and T"):
        fused([torch.ones(shape) for shape in shapes])


def test_number_of_stage_is_a_target_error(net, x):
    with pytest.raises(TargetError):
        TorchEngine(net, 7).run(x)


class GrowsItsList(nn.Module):
    """Dense connections kept in one list that grows after each call that read it, as DenseNet's are."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.steps = nn.ModuleList(nn.Conv2d(4 * (i + 1), 4, 3, 1, 1) for i in range(2))
        self.last = nn.Conv2d(12, 6, 3, 2, 1)
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        made = [F.max_pool2d(self.stem(x).relu(), 2)]
        for step in self.steps:
            made.append(step(torch.cat(made, 1)).relu())
        return self.linear(self.last(torch.cat(made, 1)).relu().mean((2, 3)))


def test_a_list_that_the_network_extends_later_is_replayed_as_it_was():
    net, x = GrowsItsList().eval(), torch.randn(2, 3, 16, 16)
    assert [cl.explain(x, net, layer=n, method="gradcam").grid for n in (-1, -2, -3)] == [(4, 4), (8, 8), (16, 16)]
    assert np.isfinite(cl.explain(x, net, layer="stages", method="gradcam").maps).all()
