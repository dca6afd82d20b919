"""Methods that perturb the features, against loops in float64, and the traps that they must not fall into."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_methods_perturbation import BY_NAME, Seen, close, maps_of, refuses_not_a_number  # noqa: E402

import perturbed  # noqa: E402
from camlucida.errors import MethodError  # noqa: E402
from camlucida.explainer import Explainer  # noqa: E402
from camlucida.methods import features  # noqa: E402
from camlucida.methods.features import ablationcam, opticam, reciprocam  # noqa: E402
from camlucida.methods.linear import cam  # noqa: E402
from camlucida.methods.registry import find_method  # noqa: E402
from camlucida.pytorch.engine import TorchEngine  # noqa: E402
from camlucida.targets import choose  # noqa: E402
from nets import EVERY  # noqa: E402

SHOWN = (
    "hardswish",
    "vgg",
    "class_token",
    "two_tokens",
    "layer_norm",
    "gap_linear",
    "sum_pool",
    "signal",
    "signal_mean",
    "volume",
    "nhwc",
)
CLASS = 3
METHODS = {
    "ablationcam": ablationcam,
    "reciprocam": reciprocam,
    "reciprocam, gaussian": partial(reciprocam, gaussian=True),
    "opticam": partial(opticam, steps=3),
}
each_method = pytest.mark.parametrize("method", [pytest.param(method, id=name) for name, method in METHODS.items()])


@pytest.mark.parametrize("case_name", SHOWN)
@pytest.mark.parametrize("batch", [1, 7])
def test_ablation_cam_equals_the_paper(case_name, batch):
    case = BY_NAME[case_name]
    net, x = case.net(), case.batch(2)
    close(maps_of(partial(ablationcam, batch=batch), net, x)[:, 0], perturbed.ablationcam(case, net, x, CLASS))


@pytest.mark.parametrize("case_name", SHOWN)
@pytest.mark.parametrize("gaussian", [False, True])
def test_recipro_cam_equals_the_paper(case_name, gaussian):
    case = BY_NAME[case_name]
    net, x = case.net(), case.batch(2)
    wanted = perturbed.reciprocam(case, net, x, CLASS, gaussian)
    close(maps_of(partial(reciprocam, gaussian=gaussian, batch=5), net, x)[:, 0], wanted)


@pytest.mark.parametrize("case_name", ["hardswish", "class_token", "signal_mean", "volume"])
def test_opti_cam_equals_the_paper(case_name):
    case = BY_NAME[case_name]
    net, x = case.net(), case.batch(2)
    maps = maps_of(partial(opticam, steps=6, rate=0.2, batch=3), net, x, (CLASS, 1))
    for at, class_id in enumerate((CLASS, 1)):
        close(maps[:, at], perturbed.opticam(case, net, x, class_id, 6, 0.2), 1e-7)


def test_opti_cam_raises_the_score_of_its_masked_input():
    case = BY_NAME["hardswish"]
    net, x = case.net(), case.batch(2)

    def score(maps):
        return [perturbed.logits(net, one * perturbed.unit(perturbed.up(m, one.shape[1:])))[CLASS]
                for one, m in zip(x.numpy(), maps[:, 0], strict=True)]  # fmt: skip

    start, end = (score(maps_of(partial(opticam, steps=steps), net, x)) for steps in (1, 40))
    assert all(after > before for after, before in zip(end, start, strict=True))


def test_behind_a_mean_and_a_linear_layer_ablation_weighs_by_mean_feature_times_weight():
    """And Recipro-CAM's scores are class activation maps plus the bias."""
    case = BY_NAME["gap_linear"]
    net, x = case.net(), case.batch(2)
    own = perturbed.features(case, net, x)
    weight, bias = (p.detach().numpy() for p in (net.head[-1].weight, net.head[-1].bias))
    wanted = np.einsum("ck,bk,bkyx->bcyx", weight, own.mean((2, 3)), own)
    close(maps_of(ablationcam, net, x, "all"), wanted)
    forward_pass = TorchEngine(net).run(x)
    linear = cam(forward_pass, choose("all", forward_pass.logits, None)).maps.numpy()
    close(maps_of(partial(reciprocam, activation="none"), net, x, "all"), linear + bias[:, None, None])


@pytest.mark.parametrize("case_name", ["gap_linear", "hardswish", "class_token"])
def test_a_shift_of_the_bias_does_not_turn_the_ablation_map_over(case_name):
    case = BY_NAME[case_name]
    net, x = case.net(), case.batch(2)
    before = maps_of(ablationcam, net, x)
    with torch.no_grad():
        net.head[-1].bias -= 100
    close(maps_of(ablationcam, net, x), before, 1e-10)


@pytest.mark.parametrize("case_name", ["gap_linear", "layer_norm", "vgg", "class_token"])
def test_the_slot_in_the_batch_does_not_matter(case_name):
    case = BY_NAME[case_name]
    net, x = case.net(), case.batch(1).repeat(4, 1, 1, 1)
    for name, method in METHODS.items():
        maps = maps_of(method, net, x)
        assert (np.abs(maps - maps[:1]) <= 1e-12 * np.abs(maps).max()).all(), name


@each_method
@pytest.mark.parametrize("case_name", ["gap_linear", "hardswish", "vgg", "class_token"])
def test_pictures_and_targets_do_not_see_each_other(method, case_name):
    case = BY_NAME[case_name]
    net, x = case.net(), case.batch(3)
    every = maps_of(method, net, x, "all")
    for b in range(3):
        close(maps_of(method, net, x[b : b + 1], "all")[0], every[b])
    close(maps_of(partial(method, batch=4), net, x, (4,))[:, 0], every[:, 4])
    own = np.array([[2, 0], [1, 1], [4, 3]])
    close(maps_of(method, net, x, own), np.stack([every[b, row] for b, row in enumerate(own)]))
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        net.head[-1].weight.copy_(net.head[-1].weight[order])
        net.head[-1].bias.copy_(net.head[-1].bias[order])
    close(maps_of(method, net, x, "all"), every[:, order.numpy()])


@pytest.mark.parametrize("case_name", ["gap_linear", "layer_norm", "vgg", "class_token"])
def test_the_backbone_runs_once_and_the_head_sees_few_at_a_time(case_name, monkeypatch):
    case = BY_NAME[case_name]
    net, x = case.net(), case.batch(2)
    engine = TorchEngine(net)
    engine.prepare(x)
    seen, sizes = Seen(net), []
    map_over_batches = features.map_over_batches
    monkeypatch.setattr(
        features, "map_over_batches", lambda head, many: sizes.append(many.shape[:2]) or map_over_batches(head, many)
    )
    forward_pass = engine.run(x)
    targets = choose("all", forward_pass.logits, None)
    for method in (ablationcam, reciprocam):
        method(forward_pass, targets, batch=6)
    assert seen.look() == (2, 2)
    assert max(many * batch for many, batch in sizes) <= 6
    opticam(forward_pass, targets, steps=2, batch=4)
    assert seen.look() == (2 * 2 * 5, 4)


@pytest.mark.parametrize("name", ["ablationcam", "reciprocam"])
def test_torchs_own_encoder_layers_are_mapped(name):
    """Its attention's fused kernel cannot be; the result is that of one batch after the other."""
    layer = partial(torch.nn.TransformerEncoderLayer, 10, 2, 20, batch_first=True, norm_first=True)
    case = BY_NAME["class_token"]
    body, head = case.net().body, case.net().head
    torch.manual_seed(0)
    net = type(case.net())(body, layer(), *head[1:]).eval().double()
    x = case.batch(2)
    reference = getattr(perturbed, name)
    wanted = reference(case, net, x, CLASS) if name == "ablationcam" else reference(case, net, x, CLASS, False)
    close(maps_of(METHODS[name], net, x)[:, 0], wanted)


def test_heads_that_cannot_be_mapped_are_run_one_after_the_other(monkeypatch):
    case = BY_NAME["vgg"]
    net, x = case.net(), case.batch(2)
    wanted = maps_of(ablationcam, net, x)

    def refuse(_):
        raise RuntimeError("vmap: no batching rule")

    monkeypatch.setattr(torch.func, "vmap", refuse)
    close(maps_of(ablationcam, net, x), wanted)


@pytest.mark.parametrize("case", EVERY)
def test_every_head_gives_finite_maps_of_the_right_grid_and_is_left_alone(case):
    net, x = case.net(torch.float32).train(), case.batch(2, torch.float32)
    for name, method in METHODS.items():
        ex = Explainer(net, method=method)(x, [0])
        assert ex.maps.shape == (2, 1, *case.grid), name
        assert np.isnan(ex.residual).all(), name
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_scores_of_other_kinds_are_explained_too():
    """A score that is not linear in the logits takes the general way, behind an affine head too."""
    case = BY_NAME["gap_linear"]
    net, x = case.net(), case.batch(2)
    forward_pass = TorchEngine(net).run(x)
    targets = choose(lambda logits: logits.square().sum(1), forward_pass.logits, None)
    own = perturbed.features(case, net, x)
    wanted = []
    for picture in own:
        total = np.zeros(case.grid)
        for k in range(len(picture)):
            kept = np.where(np.arange(len(picture))[:, None, None] == k, 0, picture)
            with torch.no_grad():
                full, without = (float(net.head(torch.from_numpy(one)[None]).square().sum()) for one in (picture, kept))
            total += (full - without) * picture[k]
        wanted.append(total)
    close(ablationcam(forward_pass, targets).maps.numpy()[:, 0], np.stack(wanted))


@pytest.mark.parametrize("name", list(METHODS))
def test_not_a_number_is_not_hidden(name):
    refuses_not_a_number(METHODS[name])


def test_constant_features_give_finite_maps():
    case = BY_NAME["hardswish"]
    net, x = case.net(), case.batch(2)
    with torch.no_grad():
        net.body[-2].weight.zero_()
        net.body[-2].bias.fill_(0.3)
    for name, method in METHODS.items():
        assert np.isfinite(maps_of(method, net, x)).all(), name


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (partial(ablationcam, batch=0), "ablationcam: expected batch above 0, got 0"),
        (partial(reciprocam, batch=0), "reciprocam: expected batch above 0"),
        (partial(opticam, steps=0), "opticam: expected steps above 0"),
    ],
)
def test_wrong_options_say_so(method, message):
    with pytest.raises(MethodError, match=message):
        maps_of(method, BY_NAME["gap_linear"].net(), BY_NAME["gap_linear"].batch(1))


@pytest.mark.parametrize("name", ["ablationcam", "reciprocam", "opticam"])
def test_methods_are_registered_with_their_paper(name):
    assert find_method(name).paper
    assert find_method(name).unit != "logits per cell"
