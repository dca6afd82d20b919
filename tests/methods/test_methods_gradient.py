"""Gradient methods at the last features against loops from the papers, their identities, and the faults of others."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import reference_gradients as slow  # noqa: E402
from camlucida.errors import CamlucidaError, MethodError  # noqa: E402
from camlucida.explainer import Explainer  # noqa: E402
from camlucida.methods import gradient, inputs, path  # noqa: E402
from camlucida.methods.linear import cam  # noqa: E402
from camlucida.methods.registry import METHODS  # noqa: E402
from camlucida.pytorch.engine import TorchEngine  # noqa: E402
from camlucida.targets import choose  # noqa: E402
from nets import BY_NAME, CASES, Call, Case, Net, conv_body, linear, pooled  # noqa: E402

FORMULAS = {
    "gradcam": (gradient.gradcam, slow.gradcam),
    "hirescam": (gradient.hirescam, slow.hirescam),
    "xgradcam": (gradient.xgradcam, slow.xgradcam),
    "gradcam++": (gradient.gradcam_plus_plus, slow.gradcam_plus_plus),
    "layercam": (gradient.layercam, slow.layercam),
    "gradcam-elementwise": (gradient.gradcam_elementwise, slow.gradcam_elementwise),
    "eigengradcam": (gradient.eigengradcam, slow.eigengradcam),
}
EVERY = {
    **{name: compute for name, (compute, _) in FORMULAS.items()},
    "shapleycam": gradient.shapleycam,
    "smoothgradcam++": partial(path.smoothgradcam_plus_plus, samples=3),
    "integrated-gradcam": partial(path.integrated_gradcam, steps=3),
    "gradient": inputs.gradient,
    "smoothgrad": partial(inputs.smoothgrad, samples=3),
    "gradient-x-input": inputs.gradient_x_input,
    "integrated-gradients": partial(inputs.integrated_gradients, steps=3),
    "guided-backprop": inputs.guided_backprop,
    "guided-gradcam": inputs.guided_gradcam,
    "fullgrad": inputs.fullgrad,
    "fullgrad-saliency": inputs.fullgrad_saliency,
}
"""Every method of the three families, with few samples."""
GUIDED = ("guided-backprop", "guided-gradcam")
ids = {"ids": lambda case: case.name}


def maps_of(net, x, compute, classes="all"):
    """Maps and bias in the model's own precision, as arrays."""
    forward_pass = TorchEngine(net).run(x)
    made = compute(forward_pass, choose(classes, forward_pass.logits.numpy(), None))
    return made.maps.numpy(), None if made.bias is None else made.bias.numpy()


def close(got, wanted, tolerance=1e-9):
    """Equal up to a share of the largest wanted value."""
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * max(float(np.abs(wanted).max()), 1e-300))


def test_every_method_of_the_three_families_is_tested_here():
    families = tuple(f"camlucida.methods.{name}" for name in ("gradient", "path", "inputs"))
    assert {name for name, one in METHODS.items() if one.compute.__module__ in families} == set(EVERY)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("case", slow.CURVED, **ids)
def test_maps_equal_the_papers_formulas(case, name):
    net, x = case.net(), case.batch(2)
    compute, formula = FORMULAS[name]
    maps, _ = maps_of(net, x, compute, [1, 3])
    assert maps.shape == (2, 2, *case.grid)
    for b, t in np.ndindex(2, 2):
        close(maps[b, t], formula(*slow.known(case, net, x[b], (1, 3)[t])), 1e-8)


@pytest.mark.parametrize("case", slow.CURVED, **ids)
def test_shapleycam_equals_the_formula_with_the_whole_hessian(case):
    net, x = case.net(), case.batch(2)
    maps, bias = maps_of(net, x, gradient.shapleycam, [2])
    for b in range(2):
        close(maps[b, 0], slow.shapleycam(case, net, x[b], 2), 1e-8)
    if not case.prefix:
        with torch.no_grad():
            close(bias[:, 0], net.head(torch.zeros_like(net.body(x)))[:, 2].numpy())
    if case.name in ("flat", "class_token"):  # the curvature is not nothing
        plain = maps_of(net, x, gradient.gradcam, [2])[0]
        assert np.abs(maps - plain).max() > 1e-3 * np.abs(plain).max()


def test_behind_a_quadratic_head_shapleycam_is_exact_and_gradcam_is_not():
    class Quadratic(nn.Module):
        def forward(self, x):
            return x + x**2

    net = Case("quadratic", lambda: pooled(linear(), Quadratic())).net()
    x = BY_NAME["gap_linear"].batch(3)
    logits = net(x).detach().numpy()
    maps, bias = maps_of(net, x, gradient.shapleycam)
    close(maps.sum((2, 3)) + bias, logits)
    maps, bias = maps_of(net, x, gradient.gradcam)
    assert np.abs(maps.sum((2, 3)) + bias - logits).max() > 1e-3


def test_identities_behind_mean_pooling_and_a_linear_head():
    case = BY_NAME["gap_linear"]
    net, x = case.net(), case.batch(3)
    m, bias = maps_of(net, x, cam)  # logits per cell: Σ w A / (h w)
    for compute in (gradient.gradcam, gradient.hirescam, gradient.xgradcam, gradient.shapleycam):
        got = maps_of(net, x, compute)
        close(got[0], m)
        close(got[1], bias)
    a, w = net.body(x).detach().numpy(), net.head[-1].weight.detach().numpy()
    rising = np.maximum(w, 0)
    close(maps_of(net, x, gradient.layercam)[0], np.einsum("kc,bcyx->bkyx", rising, a) / 24)
    weights = rising / (2 + w * a.mean((2, 3))[:, None])
    close(maps_of(net, x, gradient.gradcam_plus_plus)[0], np.einsum("bkc,bcyx->bkyx", weights, a))


@pytest.mark.parametrize("name", ["sum_pool", "nhwc", "token_mean", "registers", "volume"])
def test_gradcam_equals_cam_behind_affine_heads_of_every_layout(name):
    case = BY_NAME[name]
    net, x = case.net(), case.batch()
    wanted = maps_of(net, x, cam)
    for compute in (gradient.gradcam, gradient.hirescam):
        for got, want in zip(maps_of(net, x, compute), wanted, strict=True):
            close(got, want)


def test_hirescam_is_exact_behind_one_linear_layer_on_the_flattened_features_and_xgradcam_has_its_sum():
    net = Case("linear", lambda: Net(conv_body(), nn.Flatten(), linear(6 * 24))).net()
    x = BY_NAME["gap_linear"].batch(2)
    maps, bias = maps_of(net, x, gradient.hirescam)
    close(maps.sum((2, 3)) + bias, net(x).detach().numpy())
    close(maps_of(net, x, gradient.xgradcam)[0].sum((2, 3)), maps.sum((2, 3)))
    assert np.abs(maps_of(net, x, gradient.gradcam)[0] - maps).max() > 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_equals_its_pictures_one_by_one_and_classes_do_not_mix(name):
    for case in (slow.CURVED[0], BY_NAME["class_token"]):
        if name in GUIDED and case.name == "class_token":
            continue
        net, x = case.net(), case.batch(3)
        x = x * torch.tensor([0.2, 1, 4], dtype=x.dtype)[:, None, None, None]
        maps, bias = maps_of(net, x, EVERY[name])
        for b in range(3):
            alone, own = maps_of(net, x[b : b + 1], EVERY[name])
            close(maps[b : b + 1], alone, 1e-8)
            if bias is not None:
                close(bias[b : b + 1], own, 1e-8)
        table = np.array([[1, 4], [0, 2], [3, 3]])  # each picture its own classes
        own, _ = maps_of(net, x, EVERY[name], table)
        for b, t in np.ndindex(3, 2):
            close(own[b, t], maps[b, table[b, t]], 1e-8)


@pytest.mark.parametrize("name", EVERY)
def test_permuted_classes_have_permuted_maps(name):
    case = slow.CURVED[0]
    net, x = case.net(), case.batch()
    before = maps_of(net, x, EVERY[name])
    order = torch.tensor([3, 1, 4, 0, 2])
    with torch.no_grad():
        for weight in net.head[-1].parameters():
            weight.copy_(weight[order])
    for got, wanted in zip(maps_of(net, x, EVERY[name]), before, strict=True):
        if wanted is not None:
            close(got, wanted[:, order], 1e-8)


@pytest.mark.parametrize("name", EVERY)
def test_every_head_kind_is_finite_and_on_the_right_grid(name):
    of_inputs = METHODS[name].compute.__module__ == inputs.__name__
    for case in CASES:
        net, x = case.net(torch.float32), case.batch(2, torch.float32)
        if name in GUIDED and not any(isinstance(module, nn.ReLU) for module in net.modules()):
            continue
        explainer = Explainer(net, method=EVERY[name])
        ex = explainer(x, [1])
        assert ex.grid == (case.shape[1:] if of_inputs else explainer.runner.facts(x).grid), case.name
        assert np.isfinite(ex.maps).all(), case.name
        assert np.isnan(ex.residual).all() == (METHODS[name].unit != "logits per cell")


@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_left_on_the_model_also_after_an_exception(name):
    case = slow.CURVED[0]
    net, x = case.net(torch.float32), case.batch(2, torch.float32)
    net.train()
    net.body[1].eval()
    modes = [module.training for module in net.modules()]
    state = copy.deepcopy(net.state_dict())
    before = x.clone()
    explainer = Explainer(net, method=EVERY[name])
    explainer(x, [0])

    def score(logits):
        if logits.requires_grad:
            raise ZeroDivisionError
        return logits[:, 0]

    with pytest.raises(ZeroDivisionError):
        explainer(x, score)
    assert modes == [module.training for module in net.modules()]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert not any(getattr(module, kind) for module in net.modules() for kind in hooks)
    assert all(parameter._backward_hooks is None for parameter in net.parameters())
    assert torch.equal(x, before)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["gradcam", "gradcam++", "layercam", "eigengradcam", "shapleycam"])
def test_the_backbone_is_run_once_and_never_backward(name):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            calls.append("forward")
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise AssertionError("backward through the backbone")

    class Watched(nn.Module):
        def forward(self, x):
            return Once.apply(x)

    calls: list[str] = []
    case = slow.CURVED[0]
    net = case.net()
    net.body.insert(0, Watched())
    engine = TorchEngine(net)
    x = case.batch(4)
    engine.prepare(x)
    calls.clear()
    forward_pass = engine.run(x)
    EVERY[name](forward_pass, choose("all", forward_pass.logits.numpy(), None))
    assert calls == ["forward"]


# Faults found in other libraries.


def test_gradcam_plus_plus_is_divided_and_sums_activations_not_activations_times_gradients():
    case = slow.CURVED[0]
    net, x = case.net(), case.batch(1)
    got = maps_of(net, x, gradient.gradcam_plus_plus, [0])[0][0, 0]
    a, g = slow.known(case, net, x[0], 0)
    undivided = np.einsum("k,kyx->yx", (g**2 * np.maximum(g, 0)).sum((1, 2)), a)
    inside = 2 * g**2 + (a * g**3).sum((1, 2), keepdims=True)
    other = np.einsum("k,kyx->yx", (np.divide(g**2, inside) * np.maximum(g, 0)).sum((1, 2)), a)
    for wrong in (undivided, other):
        assert np.abs(got - wrong).max() > 1e-4 * np.abs(got).max()


@pytest.mark.parametrize("scale", [1e-12, 1e-30])
@pytest.mark.parametrize("name", [*FORMULAS, "shapleycam", "smoothgradcam++"])
def test_small_gradients_are_not_bent_by_an_epsilon(name, scale):
    """α of Grad-CAM++ goes to 1/2 as gradients vanish; everything else scales with them, in float32 too."""
    case = slow.CURVED[0]
    net, x = case.net(torch.float32), case.batch(2, torch.float32)
    small = partial(lambda logits, factor: logits[:, :2] * factor, factor=scale)
    got = maps_of(net, x, EVERY[name], small)[0]
    if "++" not in name:
        wanted = maps_of(net, x, EVERY[name], [0, 1])[0]
    else:
        double = case.net()
        a, g = (np.array(part) for part in zip(*[slow.known(case, double, one.double(), 0) for one in x], strict=True))
        if name == "smoothgradcam++":
            g = np.stack(
                [
                    np.mean([slow.known(case, double, n, 0)[1] for n in slow.noisy(one.double(), 3, 0.15)], 0)
                    for one in x
                ]
            )
        wanted = np.einsum("bk,bkyx->byx", np.maximum(g, 0).sum((2, 3)) / 2, a)[:, None]
        got = got[:, :1]
    close(got / scale, wanted, 2e-5)


def test_channels_that_sum_to_zero_weigh_nothing_instead_of_nan():
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Flatten(), nn.Linear(12, 2)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 0.0, -2.0])[:, None, None, None])
    x = torch.tensor([[[[1.0, -1.0], [2.0, -2.0]]]], dtype=torch.float64)
    for name in FORMULAS:
        assert np.isfinite(maps_of(net, x, EVERY[name])[0]).all(), name
    assert not maps_of(net, x, gradient.xgradcam)[0].any()


def test_nan_in_the_features_is_not_hidden():
    case = slow.CURVED[0]
    net, x = case.net(torch.float32), case.batch(2, torch.float32)
    for name in ("gradcam", "gradcam++", "xgradcam", "layercam"):
        explainer = Explainer(net, method=name)
        explainer(x, [0])
        broken = x.clone()
        broken[1, 0, 0, 0] = torch.nan
        with pytest.raises(CamlucidaError, match=r"input 1 .* not finite"):
            explainer(broken, [0])


def test_one_target_explains_all_three_images():
    case = slow.CURVED[0]
    net, x = case.net(), case.batch(3)
    for name, compute in EVERY.items():
        assert all(np.abs(one).max() > 0 for one in maps_of(net, x, compute, [1])[0]), name


def test_in_place_relus_change_nothing():
    plain, inplace = (
        Case("relu", lambda i=i: Net(conv_body(inplace=i), nn.Flatten(), linear(144, 8), nn.Tanh(), linear(8))).net()
        for i in (False, True)
    )
    x = BY_NAME["gap_linear"].batch()
    for name, compute in EVERY.items():
        close(maps_of(inplace, x, compute, [0])[0], maps_of(plain, x, compute, [0])[0]), name


def test_the_sign_of_eigengradcam_is_that_of_the_evidence():
    case = slow.CURVED[0]
    net, x = case.net(), case.batch(3)
    eigen, hires = maps_of(net, x, gradient.eigengradcam)[0], maps_of(net, x, gradient.hirescam)[0]
    assert ((eigen * (hires - hires.mean((2, 3), keepdims=True))).sum((2, 3)) > 0).all()
    assert np.abs(eigen.mean((2, 3))).max() < 1e-9 * np.abs(eigen).max()
    with torch.no_grad():
        for parameter in net.head[-1].parameters():
            parameter.neg_()
    close(maps_of(net, x, gradient.eigengradcam)[0], -eigen, 1e-8)
    flat = torch.ones(1, 4, 3, dtype=torch.float64)
    assert not gradient._on_first_axis(flat).any()
    against = torch.tensor([[[1.0, -3.0], [-1.0, 3.0]]], dtype=torch.float64)  # its sum says nothing of the sign
    first = gradient._on_first_axis(against)
    close(first.abs().numpy(), np.full((1, 2), 2 * np.sqrt(2)))
    assert first[0, first.abs().argmax()] > 0


@pytest.mark.parametrize(("channels", "cells"), [(9, 40), (40, 9), (6, 6)])
def test_the_first_principal_axis_is_that_of_the_singular_value_decomposition(channels, cells, rng):
    points = rng.normal(size=(3, channels, cells)) + 0.3
    got = gradient._on_first_axis(torch.from_numpy(points)).numpy()
    for b in range(3):
        centred = (points[b] - points[b].mean(1, keepdims=True)).T
        wanted = centred @ np.linalg.svd(centred)[2][0]
        close(got[b], wanted * np.sign(wanted @ points[b].sum(0)), 1e-7)


def test_shapleycam_says_what_has_no_second_derivative_and_writes_out_what_has_one_only_in_its_kernel():
    class Distances(nn.Module):
        def forward(self, x):
            return torch.cdist(x, x) ** 2

    x = torch.randn(2, 3, 16, 24)
    net = Net(conv_body(), Distances(), nn.Flatten(), linear(6 * 4 * 4)).eval()
    with pytest.raises(MethodError, match=r"second derivatives, which this head has not: .*_cdist_backward"):
        Explainer(net, method="shapleycam", layer="body")(x, [0])
    hard, written = (
        Case("hard", lambda f=f: pooled(linear(), Call(lambda x: f(3 * x)), linear(5))).net()
        for f in (nn.functional.hardsigmoid, lambda z: (z / 6 + 0.5).clamp(0, 1))
    )
    close(maps_of(hard, x.double(), gradient.shapleycam)[0], maps_of(written, x.double(), gradient.shapleycam)[0])
