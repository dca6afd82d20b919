"""Methods at the inputs against plain autograd, replaced modules and decompositions by hand."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_methods_gradient import close, maps_of  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import reference_gradients as slow  # noqa: E402
from camlucida.errors import MethodError  # noqa: E402
from camlucida.explainer import Explainer  # noqa: E402
from camlucida.methods import inputs  # noqa: E402
from camlucida.methods.gradient import gradcam  # noqa: E402
from nets import BY_NAME, Call, Case, Net, Squeeze, conv_body, linear, pooled  # noqa: E402

FLAT, SIGNAL, VOLUME = slow.CURVED[:3]
NETS = (FLAT, SIGNAL, VOLUME, BY_NAME["hardswish"], BY_NAME["class_token"])
ids = {"ids": lambda case: case.name}


def plain(net, x, class_id):
    """The gradient of one logit of one input (C, *space), and the logit."""
    leaf = x[None].clone().requires_grad_()
    logit = net(leaf)[0, class_id]
    return torch.autograd.grad(logit, leaf)[0][0].numpy(), float(logit.detach())


@pytest.mark.parametrize("case", NETS, **ids)
def test_gradients_equal_plain_autograd(case):
    net, x = case.net(), case.batch(2)
    maps, _ = maps_of(net, x, inputs.gradient, [1, 3])
    smooth, _ = maps_of(net, x, partial(inputs.smoothgrad, samples=3, noise=0.2), [1, 3])
    times, bias = maps_of(net, x, inputs.gradient_x_input, [1, 3])
    for b, t in np.ndindex(2, 2):
        class_id = (1, 3)[t]
        g, _ = plain(net, x[b], class_id)
        close(maps[b, t], np.abs(g).max(0))
        close(times[b, t], (g * x[b].numpy()).sum(0))
        assert bias[b, t] == pytest.approx(plain(net, torch.zeros_like(x[b]), class_id)[1])
        close(smooth[b, t], np.abs(np.mean([plain(net, n, class_id)[0] for n in slow.noisy(x[b], 3, 0.2)], 0)).max(0))


@pytest.mark.parametrize("baseline", [0.0, -1.5])
@pytest.mark.parametrize("case", NETS, **ids)
def test_integrated_gradients_equal_the_midpoint_rule(case, baseline):
    net, x = case.net(), case.batch(2)
    maps, bias = maps_of(net, x, partial(inputs.integrated_gradients, steps=4, baseline=baseline), [2])
    for b in range(2):
        start = torch.full_like(x[b], baseline)
        mean = np.mean([plain(net, start + (i + 0.5) / 4 * (x[b] - start), 2)[0] for i in range(4)], 0)
        close(maps[b, 0], (mean * (x[b] - start).numpy()).sum(0))
        assert bias[b, 0] == pytest.approx(plain(net, start, 2)[1])


def test_integrated_gradients_close_the_gap_with_more_steps():
    net, x = FLAT.net(), FLAT.batch(2)
    gaps = [
        Explainer(net, method=partial(inputs.integrated_gradients, steps=n))(x, "all").residual.max() for n in (2, 300)
    ]
    assert gaps[1] < 2e-3 < gaps[0]


def test_gradient_x_input_is_complete_without_biases():
    net = Net(
        nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU()),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5, False),
    )
    ex = Explainer(net, method="gradient-x-input")(torch.randn(3, 3, 12, 16), "all")
    assert ex.residual.max() < 1e-5
    assert not ex.bias.any()


@pytest.mark.parametrize("case", [FLAT, SIGNAL, VOLUME, BY_NAME["gap_linear"], BY_NAME["inplace"]], **ids)
def test_guided_backpropagation_equals_that_of_replaced_modules(case):
    net, x = case.net(), case.batch(2)
    other = slow.guided(copy.deepcopy(net))
    maps, _ = maps_of(net, x, inputs.guided_backprop, [1, 3])
    product, _ = maps_of(net, x, inputs.guided_gradcam, [1, 3])
    cams = np.maximum(maps_of(net, x, gradcam, [1, 3])[0], 0)
    for b, t in np.ndindex(2, 2):
        wanted = np.abs(plain(other, x[b], (1, 3)[t])[0]).max(0)
        close(maps[b, t], wanted)
        close(product[b, t], wanted * slow.resized(cams[b, t], case.shape[1:]))
        assert np.abs(maps[b, t] - np.abs(plain(net, x[b], (1, 3)[t])[0]).max(0)).max() > 1e-3 * wanted.max()


@pytest.mark.parametrize(
    "relu",
    [
        F.relu,
        torch.relu,
        torch.Tensor.relu,
        lambda x: (2 * x / 2).relu_(),
        lambda x: F.relu(x * 1, inplace=True),
        lambda x: torch.relu_(x * 1),
        lambda x: F.threshold(x, 0, 0),
        lambda x: x.clamp(min=0),
        lambda x: torch.clamp_min(x, 0),
        lambda x: F.relu6(x / 100) * 100,
        lambda x: F.hardtanh(x / 100, 0.0, 6.0) * 100,
    ],
)
def test_every_way_to_call_a_relu_is_guided(relu):
    torch.manual_seed(3)
    net = Net(
        nn.Sequential(nn.Conv2d(3, 6, 3, 2), Call(relu), nn.Conv2d(6, 6, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        linear(),
    )
    net = net.double().eval()
    x = torch.randn(1, 3, 11, 15, dtype=torch.float64)
    other = copy.deepcopy(net)
    other.body[1] = Call(slow.Guided.apply)
    close(maps_of(net, x, inputs.guided_backprop, [1])[0][0, 0], np.abs(plain(other, x[0], 1)[0]).max(0))


@pytest.mark.parametrize("name", ["guided-backprop", "guided-gradcam"])
def test_guided_backpropagation_refuses_models_without_relu(name):
    case = BY_NAME["class_token"]
    with pytest.raises(MethodError, match=r"needs a model with ReLUs, and this one calls none .* try smoothgrad"):
        Explainer(case.net(), method=name)(case.batch(1), [0])


def by_hand(net, x, class_id):
    """Those of conv, norm, relu, conv, relu, flatten, linear, relu, linear: those with places, and the rest."""
    conv, norm, _, second, _ = net.body
    first, last = net.head[1], net.head[3]
    dims = [1] * (x.ndim - 1)
    leaf = x[None].clone().requires_grad_()
    z1 = conv(leaf)
    z2 = norm(z1)
    z3 = second(z2.relu())
    z4 = first(z3.relu().flatten(1))
    logit = last(z4.relu())[0, class_id]
    g = torch.autograd.grad(logit, (leaf, z1, z2, z3, z4))
    with torch.no_grad():
        shift = norm.bias - norm.running_mean * norm.weight / torch.sqrt(norm.running_var + norm.eps)
        places = [g[0] * leaf, g[1] * conv.bias.reshape(-1, *dims), g[2] * shift.reshape(-1, *dims),
                  g[3] * second.bias.reshape(-1, *dims)]  # fmt: skip
        rest = float((g[4] * first.bias).sum() + last.bias[class_id])
    return [place[0].numpy() for place in places], rest, float(logit.detach())


@pytest.mark.parametrize(
    ("space", "shape", "grid"), [(1, (3, 48), (12,)), (2, (3, 16, 24), (4, 6)), (3, (3, 8, 12, 16), (2, 3, 4))]
)
@pytest.mark.parametrize("inplace", [False, True])
def test_fullgrad_equals_the_decomposition_by_hand(space, shape, grid, inplace):
    count = 6 * int(np.prod(grid))
    make = lambda: Net(conv_body(space, inplace=inplace), nn.Flatten(), linear(count, 8), nn.ReLU(inplace), linear(8))  # noqa: E731
    case = Case("relu", make, shape=shape, grid=grid)
    net, x = case.net(), case.batch(2)
    maps, bias = maps_of(net, x, inputs.fullgrad, [1, 3])
    shown, none = maps_of(net, x, inputs.fullgrad_saliency, [1, 3])
    assert none is None
    for b, t in np.ndindex(2, 2):
        places, rest, logit = by_hand(net, x[b], (1, 3)[t])
        share = [place[0].size / x[b, 0].numel() for place in places]
        wanted = sum(slow.resized(place.sum(0), shape[1:]) * part for place, part in zip(places, share, strict=True))
        close(maps[b, t], wanted, 1e-8)
        assert bias[b, t] == pytest.approx(rest)
        assert maps[b, t].sum() + bias[b, t] == pytest.approx(logit, rel=1e-9)
        layers = [np.abs(place) for place in places]
        layers = [(layer - layer.min()) / (layer.max() - layer.min()) for layer in layers]  # the layer as a whole
        close(shown[b, t], sum(slow.resized(layer.sum(0), shape[1:]) for layer in layers), 1e-8)


class Residual(nn.Module):
    """What networks are made of today: gates, skips, activations of every kind, constants, uneven strides."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.gate, self.scale = Squeeze(6), nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x):
        x = F.silu((x - 0.3) / 0.7, inplace=False)
        x = F.gelu(self.one(x))
        x = x + self.scale * self.gate(F.hardswish(self.two(x)))
        x = F.leaky_relu(2 - x) + 0.1
        return F.max_pool2d(F.softplus(1 - x), 3, 2)


def test_fullgrad_is_complete_for_convolutional_networks_of_any_kind_also_where_grids_do_not_divide_the_input():
    net = Case("residual", lambda: pooled(linear(), nn.Tanh(), linear(5), body=Residual())).net()
    x = torch.randn(3, 3, 27, 37, dtype=torch.float64)
    maps, bias = maps_of(net, x, inputs.fullgrad)
    close(maps.sum((2, 3)) + bias, net(x).detach().numpy(), 1e-9)
    times, zero = maps_of(net, x, inputs.gradient_x_input)
    assert np.abs(times.sum((2, 3)) + zero - net(x).detach().numpy()).max() > 1e-3


def test_the_logits_of_a_model_that_ends_in_a_softmax_are_explained_and_not_its_probabilities():
    case = BY_NAME["softmax_inside"]
    net, x = case.net(), case.batch(2)
    bare = copy.deepcopy(net)
    bare.head = bare.head[:-1]
    for compute in (inputs.gradient, inputs.gradient_x_input, inputs.guided_backprop, inputs.fullgrad):
        for got, wanted in zip(maps_of(net, x, compute), maps_of(bare, x, compute), strict=True):
            if wanted is not None:
                close(got, wanted)


def test_a_model_that_normalizes_its_input_in_place_is_explained():
    class InPlace(nn.Module):
        def forward(self, x):
            return x.sub_(0.5).div_(0.2)

    plain_net = Case(
        "plain", lambda: pooled(linear(), body=nn.Sequential(Call(lambda x: (x - 0.5) / 0.2), conv_body()))
    ).net()
    net = copy.deepcopy(plain_net)
    net.body[0] = InPlace()
    x = BY_NAME["gap_linear"].batch(2)
    for compute in (inputs.gradient, inputs.fullgrad, partial(inputs.integrated_gradients, steps=2)):
        close(maps_of(net, x, compute)[0], maps_of(plain_net, x, compute)[0])
