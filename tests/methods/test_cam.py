"""Exact class activation maps against loops in float64, and the identities that they must hold."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import reference  # noqa: E402
from camlucida.explainer import Explainer  # noqa: E402
from camlucida.methods.linear import cam  # noqa: E402
from camlucida.pytorch.engine import TorchEngine  # noqa: E402
from camlucida.runners.runner import residuals  # noqa: E402
from camlucida.targets import Contrast, choose  # noqa: E402
from nets import BY_NAME, CLASSES, EVERY, EXACT, GRADIENT, Case  # noqa: E402

SEVERAL = tuple(
    pytest.param(BY_NAME[name], id=name) for name in ("gap_linear", "layer_norm", "hardswish", "class_token")
)


def maps_of(engine, x, classes):
    """Maps, bias and explained scores in the model's own precision, as arrays."""
    forward_pass = engine.run(x)
    targets = choose(classes, forward_pass.logits, None)
    made = cam(forward_pass, targets)
    return made.maps.numpy(), made.bias.numpy(), targets.of(forward_pass.logits).detach().numpy()


def close(got, wanted, tolerance=1e-9):
    """Equal up to a share of the largest wanted value."""
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * max(float(np.abs(wanted).max()), 1e-12))


@pytest.mark.parametrize("case", EXACT)
def test_maps_equal_the_papers_formula(case):
    net, x = case.net(), case.batch(3)
    truth = reference.known(case, net, x)
    wanted = reference.cam(truth)
    engine = TorchEngine(net)
    for classes in (None, "all"):
        maps, bias, scores = maps_of(
            engine, x, np.tile(np.arange(wanted.shape[1]), (3, 1)) if classes is None else "all"
        )
        if wanted.shape[1] == 1:  # a single logit is two classes: the formula's is class 1
            maps, bias, scores = (each[:, -1:] for each in maps_of(engine, x, [1]))
        close(maps, wanted)
        close(bias, np.tile(truth.bias, (3, 1)))
        np.testing.assert_allclose(maps.sum(tuple(range(2, maps.ndim))) + bias, scores, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", EXACT)
def test_the_result_is_exact_in_single_precision(case):
    net, x = case.net(torch.float32), case.batch(2, torch.float32)
    ex = Explainer(net)(x, "all")
    assert float(ex.residual.max()) <= 1e-5
    wanted = reference.cam(reference.known(case, net, x))
    close(ex.maps[:, -wanted.shape[1] :], wanted, 2e-6)
    with torch.no_grad():
        plain = net(x)
    if "inside" not in case.name:
        np.testing.assert_array_equal(ex.logits, plain.reshape(2, -1).numpy())


@pytest.mark.parametrize("case", GRADIENT)
@pytest.mark.parametrize("class_id", [0, 3])
def test_other_heads_give_gradient_times_features_and_their_residual(case, class_id):
    net, x = case.net(), case.batch(3)
    wanted, bias, logit = reference.gradient_times_features(case, net, x, class_id)
    for classes in ([class_id], "all"):
        maps, got_bias, scores = maps_of(TorchEngine(net), x, classes)
        at = 0 if classes != "all" else class_id
        close(maps[:, at], wanted)
        close(got_bias[:, at], bias)
        close(scores[:, at], logit)
    ex = Explainer(net)(x, [class_id])
    spread = ex.logits.max(1) - ex.logits.min(1)
    missing = np.abs(wanted.sum((1, 2)) + bias - logit)
    np.testing.assert_allclose(ex.residual[:, 0], missing / spread, atol=1e-6)
    assert ex.residual.max() > 1e-6 or case.name == "max_pool"  # the maximum is linear in the winning cells


def test_pooling_by_mean_by_sum_and_by_maximum_are_told_apart():
    mean, total, top = (BY_NAME[name].net() for name in ("gap_linear", "sum_pool", "max_pool"))
    for net in (total, top):
        net.body.load_state_dict(mean.body.state_dict())
        net.head[-1].load_state_dict(mean.head[-1].state_dict())
    x = BY_NAME["gap_linear"].batch()
    of_mean, of_total, of_top = (maps_of(TorchEngine(net), x, "all")[0] for net in (mean, total, top))
    close(of_total, 24 * of_mean)
    features = mean.body(x).detach().numpy()
    weight = mean.head[-1].weight.detach().numpy()
    winners = features == features.max((2, 3), keepdims=True)
    close(of_top, np.einsum("kc,bcyx->bkyx", weight, features * winners / winners.sum((2, 3), keepdims=True)))


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "rms_norm_by_hand", "group_norm", "cosine"])
def test_behind_a_normalization_the_bias_is_the_same_for_every_input(name):
    case = BY_NAME[name]
    net, x = case.net(), case.batch(6) * torch.logspace(-1, 1, 6, dtype=torch.float64)[:, None, None, None]
    maps, bias, scores = maps_of(TorchEngine(net), x, "all")
    close(bias, np.tile(bias[:1], (6, 1)))
    close(maps.sum((2, 3)) + bias, scores)


@pytest.mark.parametrize("case", EVERY)
def test_all_classes_equal_the_classes_one_by_one_and_the_top_k(case):
    net, x = case.net(), case.batch(3)
    engine = TorchEngine(net)
    maps, bias, scores = maps_of(engine, x, "all")
    count = maps.shape[1]
    few, few_bias, few_scores = maps_of(engine, x, list(range(count)))
    for got, wanted in ((few, maps), (few_bias, bias), (few_scores, scores)):
        close(got, wanted)
    top, top_bias, top_scores = maps_of(engine, x, 2)
    order = np.argsort(-scores, 1, kind="stable")[:, :2]
    for b, t in np.ndindex(3, 2):
        close(top[b, t], maps[b, order[b, t]])
        close(top_bias[b, t], bias[b, order[b, t]])
        assert top_scores[b, t] == pytest.approx(scores[b, order[b, t]])
    table = np.array([[1, 0], [0, 1], [1, 1]])
    own, _, _ = maps_of(engine, x, table)
    for b, t in np.ndindex(3, 2):
        close(own[b, t], maps[b, table[b, t]])


@pytest.mark.parametrize("case", EVERY)
def test_a_batch_equals_its_pictures_one_by_one(case):
    net, x = case.net(), case.batch(4)
    together = maps_of(TorchEngine(net), x, [1])
    alone = TorchEngine(net)
    for b in range(4):
        for got, wanted in zip(maps_of(alone, x[b : b + 1], [1]), together, strict=True):
            close(got, wanted[b : b + 1])


@pytest.mark.parametrize("name", ["gap_linear", "layer_norm", "cosine", "hardswish", "class_token"])
def test_permuted_classes_have_permuted_maps(name):
    case = BY_NAME[name]
    net, x = case.net(), case.batch()
    before = maps_of(TorchEngine(net), x, "all")
    order = torch.tensor([3, 1, 4, 0, 2])
    last = net.head[-1]
    with torch.no_grad():
        for weight in last.parameters():
            weight.copy_(weight[order])
    for got, wanted in zip(maps_of(TorchEngine(net), x, "all"), before, strict=True):
        close(got, wanted[:, order])


@pytest.mark.parametrize("case", SEVERAL)
def test_a_linear_score_has_the_same_combination_of_maps(case):
    net, x = case.net(), case.batch()
    maps, bias, scores = maps_of(TorchEngine(net), x, "all")
    weights = np.array([0.5, 0, -2, 1, 0.25])
    asked = torch.from_numpy(weights)
    got = maps_of(TorchEngine(net), x, lambda logits: logits @ asked)
    for one, every in zip(got, (maps, bias, scores), strict=True):
        close(one[:, 0], np.einsum("k,bk...->b...", weights, every))
    contrast = maps_of(TorchEngine(net), x, Contrast(3, 1))
    for one, every in zip(contrast, (maps, bias, scores), strict=True):
        close(one[:, 0], every[:, 3] - every[:, 1])
    several = maps_of(TorchEngine(net), x, [Contrast(3, 1), 2, Contrast(0, 0)])
    close(several[0], np.stack((maps[:, 3] - maps[:, 1], maps[:, 2], 0 * maps[:, 0]), 1))
    two = maps_of(TorchEngine(net), x, lambda logits: logits[:, [4, 2]])
    close(two[0], maps[:, [4, 2]])


@pytest.mark.parametrize("case", SEVERAL)
def test_a_nonlinear_score_has_its_gradients_map_and_a_finite_residual(case):
    net, x = case.net(torch.float32), case.batch(2, torch.float32)

    def probability(logits):
        return logits.softmax(1)[:, 2]

    ex = Explainer(net)(x, probability)
    every = Explainer(net)(x, "all")
    share = reference.softmax(every.logits)
    slope = share[:, 2:3] * (np.eye(CLASSES)[2] - share)
    close(ex.maps[:, 0], np.einsum("bk,bk...->b...", slope, every.maps), 1e-5)
    np.testing.assert_allclose(ex.scores[:, 0], share[:, 2], rtol=1e-5)
    assert np.isfinite(ex.residual).all()
    assert ex.residual.min() > 1e-6  # no decomposition of a curved score is exact
    assert ex.names == (("probability",),) * 2
    assert (ex.classes == -1).all()
    assert np.isnan(ex.probabilities).all()


def test_of_a_single_logit_class_0_is_the_negative_of_class_1():
    for name in ("binary", "binary_flat"):
        case = BY_NAME[name]
        ex = Explainer(case.net())(case.batch(3), "all")
        assert ex.classes.tolist() == [[0, 1]] * 3
        assert ex.names[0] == ("negative", "positive")
        for each in (ex.maps, ex.bias, ex.scores):
            np.testing.assert_array_equal(each[:, 0], -each[:, 1])
        np.testing.assert_array_equal(ex.scores[:, 1], ex.logits[:, 0])
        np.testing.assert_allclose(ex.probabilities.sum(1), 1, rtol=1e-6)
        assert ex.residual.max() < 1e-6
        top = Explainer(case.net())(case.batch(3), 1)
        assert top.classes[:, 0].tolist() == (ex.logits[:, 0] > 0).astype(int).tolist()
        contrast = Explainer(case.net())(case.batch(3), Contrast("positive", "negative"))
        np.testing.assert_allclose(contrast.maps[:, 0], 2 * ex.maps[:, 1], rtol=1e-5)


def test_the_residual_is_what_is_missing_over_the_spread_of_the_logits():
    ex = Explainer(BY_NAME["vgg"].net())(BY_NAME["vgg"].batch(4), "all")
    for b, t in np.ndindex(4, CLASSES):
        missing = abs(float(ex.maps[b, t].astype(np.float64).sum()) + float(ex.bias[b, t]) - float(ex.scores[b, t]))
        spread = max(map(float, ex.logits[b])) - min(map(float, ex.logits[b]))
        assert ex.residual[b, t] == pytest.approx(missing / spread, rel=1e-4)


def test_of_a_single_logit_the_residual_is_over_its_size(monkeypatch):
    case = BY_NAME["binary"]
    runner = Explainer(case.net()).runner
    made = runner.explain(case.batch(), [1], None)
    shifted = type(made)(made.logits, made.targets, made.scores, made.maps, made.bias + 0.25, made.facts)
    np.testing.assert_allclose(residuals(shifted), 0.25 / np.abs(made.logits), rtol=1e-4)


def test_a_map_lies_where_the_evidence_is():
    """One bright square, and a class that counts brightness: the map's maximum is at the square."""
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 4, 4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(2, 2),
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.stack((torch.ones(1, 4, 4), -torch.ones(1, 4, 4))))
        net[0].bias.zero_()
        net[4].weight.copy_(torch.eye(2))
    for row, column in ((0, 0), (1, 5), (4, 2)):
        x = torch.zeros(1, 1, 20, 28)
        x[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
        ex = Explainer(net)(x, [0])
        wanted = np.zeros((5, 7))
        wanted[row, column] = 16 / 35
        np.testing.assert_allclose(ex.maps[0, 0], wanted, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 4e-3)])
@pytest.mark.parametrize("name", ["gap_linear", "layer_norm", "token_mean"])
def test_half_precision_models_have_maps_near_the_double_ones(name, dtype, tolerance):
    case: Case = BY_NAME[name]
    exact, _, _ = maps_of(TorchEngine(case.net()), case.batch(), "all")
    ex = Explainer(case.net(dtype))(case.batch(), "all")
    assert ex.maps.dtype == np.float32
    close(ex.maps, exact, tolerance)
    assert float(ex.residual.max()) < tolerance
