"""Methods that hide parts of the input, against loops in float64, and the traps that they must not fall into."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import perturbed  # noqa: E402
from camlucida.errors import CamlucidaError, MethodError  # noqa: E402
from camlucida.explainer import Explainer  # noqa: E402
from camlucida.methods.baselines import centre, random  # noqa: E402
from camlucida.methods.blackbox import occlusion, rise  # noqa: E402
from camlucida.methods.masked_inputs import blurred, confidences  # noqa: E402
from camlucida.methods.perturbation import faster_scorecam, groupcam, iscam, scorecam, sscam  # noqa: E402
from camlucida.methods.registry import find_method  # noqa: E402
from camlucida.pytorch.engine import TorchEngine  # noqa: E402
from camlucida.targets import Contrast, choose  # noqa: E402
from nets import BY_NAME as NETS  # noqa: E402
from nets import EVERY, Call, Net, conv_body, linear  # noqa: E402

SIGNAL = replace(
    NETS["signal"], name="signal_mean", make=lambda: Net(conv_body(1), Call(lambda x: x.mean(2)), linear())
)
BY_NAME = {**NETS, SIGNAL.name: SIGNAL}
SHOWN = ("hardswish", "vgg", "class_token", "signal", "signal_mean", "volume", "nhwc")
CLASS = 3


def refuses_not_a_number(method):
    """Pixels that are no numbers are an error that names their input."""
    case = BY_NAME["hardswish"]
    net, x = case.net(torch.float32), case.batch(2, torch.float32)
    explainer = Explainer(net, method=method)
    explainer(x, [CLASS])
    x[1, 0, 5, 5] = torch.nan
    with pytest.raises(CamlucidaError, match=r"of input 1 .* is not finite"):
        explainer(x, [CLASS])


def maps_of(method, net, x, classes=(CLASS,)):
    """Maps in the model's own precision, as an array."""
    engine = TorchEngine(net)
    forward_pass = engine.run(x)
    made = method(
        forward_pass,
        choose(classes if isinstance(classes, str | np.ndarray) else list(classes), forward_pass.logits, None),
    )
    assert made.bias is None
    return made.maps.numpy()


def close(got, wanted, tolerance=1e-9):
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * max(float(np.abs(wanted).max()), 1e-12))


def noisy(net, on, samples, deviation, seed, class_id):
    """f of noisy masked inputs, as the method says its noise is drawn."""

    def score(picture, mask, channel):
        total = 0.0
        for sample in range(samples):
            generator = torch.Generator().manual_seed((((seed * 7919 + sample) << 16) + channel) % 2**32)
            shape = (1, *mask.shape) if on == "masks" else picture.shape
            noise = deviation * torch.randn(shape, generator=generator).double().numpy()
            masked = picture * (mask + noise) if on == "masks" else picture * mask + noise
            total += perturbed.logits(net, masked)[class_id] / samples
        return total

    return score


def integrated(net, steps, class_id):
    """The mean of f(c X∘H) - f(0), with c the running sum of i / N from 0; the caller takes f(0) away once."""

    def score(picture, mask, _):
        base, scale, total = perturbed.logits(net, 0 * picture)[class_id], 0.0, 0.0
        for i in range(steps):
            scale += i / steps
            total += (perturbed.logits(net, scale * picture * mask)[class_id] - base) / steps
        return total + base

    return score


def loudest(count):
    return lambda own: sorted(range(len(own)), key=lambda k: -own[k].var())[:count]


def wanted_of(name, case, net, x):
    """What the papers say, and the method that must give it."""
    masked = partial(perturbed.scorecam, case, net, x, CLASS)
    return {
        "scorecam": lambda: (partial(scorecam, batch=4), masked()),
        "scorecam, probabilities": lambda: (
            partial(scorecam, activation="softmax"),
            masked_by_probability(case, net, x),
        ),
        "faster-scorecam": lambda: (partial(faster_scorecam, channels=3), masked(among=loudest(3))),
        "sscam, masks": lambda: (
            partial(sscam, samples=3, deviation=0.7, seed=5, batch=4),
            masked(noisy(net, "masks", 3, 0.7, 5, CLASS)),
        ),
        "sscam, inputs": lambda: (
            partial(sscam, on="inputs", samples=2, deviation=0.3),
            masked(noisy(net, "inputs", 2, 0.3, 0, CLASS)),
        ),
        "iscam": lambda: (partial(iscam, steps=4), masked(integrated(net, 4, CLASS))),
        "rise": lambda: (
            partial(rise, samples=7, cells=3, keep=0.6, seed=2, batch=3),
            perturbed.rise(net, x, CLASS, 7, 3, 0.6, 2),
        ),
        "occlusion": lambda: (
            partial(occlusion, window=5, stride=3, fill=0.1, batch=7),
            perturbed.occlusion(net, x, CLASS, 5, 3, 0.1),
        ),
    }[name]()


def masked_by_probability(case, net, x):
    def score(picture, mask, _):
        shift = perturbed.logits(net, 0 * picture)[CLASS] - perturbed.softmax(perturbed.logits(net, 0 * picture))[CLASS]
        return perturbed.softmax(perturbed.logits(net, picture * mask))[CLASS] + shift

    return perturbed.scorecam(case, net, x, CLASS, score)


@pytest.mark.parametrize("case_name", SHOWN)
@pytest.mark.parametrize(
    "name",
    [
        "scorecam",
        "scorecam, probabilities",
        "faster-scorecam",
        "sscam, masks",
        "sscam, inputs",
        "iscam",
        "rise",
        "occlusion",
    ],
)
def test_maps_equal_the_paper(name, case_name):
    if case_name == "volume" and name == "occlusion":
        pytest.skip("hundreds of windows; the next test has one of a volume")
    case = BY_NAME[case_name]
    net, x = case.net(), case.batch(2)
    method, wanted = wanted_of(name, case, net, x)
    close(maps_of(method, net, x)[:, 0], wanted)


def test_occlusion_of_a_volume_with_its_own_windows():
    case = BY_NAME["volume"]
    net, x = case.net(), case.batch(1)
    close(maps_of(partial(occlusion, window=6, stride=4), net, x)[:, 0], perturbed.occlusion(net, x, CLASS, 6, 4, 0.0))
    assert maps_of(occlusion, BY_NAME["square"].net(), torch.randn(1, 3, 20, 20, dtype=torch.float64)).shape == (
        1,
        1,
        20,
        20,
    )


@pytest.mark.parametrize("case_name", SHOWN)
def test_group_cam_upsampled_is_the_papers_map(case_name):
    case = BY_NAME[case_name]
    net, x = case.net(), case.batch(2)
    maps = maps_of(partial(groupcam, groups=3, percentile=60, deviation=2, radius=4, batch=4), net, x, (CLASS, 1))
    for at, class_id in enumerate((CLASS, 1)):
        wanted = perturbed.groupcam(case, net, x, class_id, 3, 60, 2, 4)
        close(np.stack([perturbed.up(one, x.shape[2:]) for one in maps[:, at]]), wanted)


def test_a_blur_wider_than_the_picture_is_cut_off():
    x = torch.randn(2, 3, 5, 9, dtype=torch.float64)
    close(blurred(x, 50, 25).numpy(), np.stack([perturbed.blur(one, 50, 25) for one in x.numpy()]))


METHODS = {
    "scorecam": scorecam,
    "faster-scorecam": partial(faster_scorecam, channels=3),
    "sscam": partial(sscam, samples=2),
    "sscam on inputs": partial(sscam, samples=2, on="inputs"),
    "iscam": partial(iscam, steps=3),
    "groupcam": partial(groupcam, groups=3, radius=3),
    "rise": partial(rise, samples=6),
    "occlusion": partial(occlusion, window=8, stride=8),
    "random": random,
    "centre": centre,
}
each_method = pytest.mark.parametrize("method", [pytest.param(method, id=name) for name, method in METHODS.items()])


@each_method
@pytest.mark.parametrize("case_name", ["hardswish", "class_token"])
def test_pictures_targets_and_chunks_do_not_see_each_other(method, case_name):
    case = BY_NAME[case_name]
    net, x = case.net(), case.batch(3)
    every = maps_of(method, net, x, "all")
    for b in range(3):
        close(maps_of(method, net, x[b : b + 1], "all")[0], every[b])
    close(maps_of(method, net, x.flip(0), "all"), every[::-1])
    for class_id in (0, 4):
        close(maps_of(method, net, x, (class_id,))[:, 0], every[:, class_id])
    own = np.array([[2, 0], [1, 1], [4, 3]])
    close(maps_of(method, net, x, own), np.stack([every[b, row] for b, row in enumerate(own)]))
    if "batch" in getattr(method, "func", method).__kwdefaults__:
        close(maps_of(partial(method, batch=1), net, x, "all"), every)


@each_method
def test_permuted_classes_permute_the_maps(method):
    case = BY_NAME["gap_linear"]
    net, x = case.net(), case.batch(2)
    before = maps_of(method, net, x, "all")
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        net.head[-1].weight.copy_(net.head[-1].weight[order])
        net.head[-1].bias.copy_(net.head[-1].bias[order])
    close(maps_of(method, net, x, "all"), before[:, order.numpy()])


@pytest.mark.parametrize("case", EVERY)
def test_every_head_gives_finite_maps_of_the_right_grid_and_is_left_alone(case):
    net, x = case.net(torch.float32).train(), case.batch(2, torch.float32)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    engine = TorchEngine(net)
    from camlucida.pytorch.state import evaluating

    with evaluating(net):
        forward_pass = engine.run(x)
        targets = choose([0], forward_pass.logits, None)
        for name, method in METHODS.items():
            maps = method(forward_pass, targets).maps
            grid = {"rise": x.shape[2:], "occlusion": tuple(-(-size // 8) for size in x.shape[2:])}.get(name, case.grid)
            assert maps.shape == (2, 1, *grid), name
            assert maps.dtype == torch.float32, name
            assert torch.isfinite(maps).all(), name
    assert all(module.training for module in net.modules())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


class Seen:
    """How many inputs came through a network, and how many at once, since the last look."""

    def __init__(self, net):
        self.sizes = []
        net.body.register_forward_pre_hook(lambda _, args: self.sizes.append(len(args[0])))

    def look(self):
        sizes, self.sizes = self.sizes, []
        return sum(sizes), max(sizes, default=0)


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        (scorecam, 2 * 6 + 1),
        (partial(faster_scorecam, channels=2), 2 * 2 + 1),
        (partial(sscam, samples=3), 2 * 6 * 3 + 1),
        (partial(iscam, steps=4), 2 * 6 * 3 + 1),
        (partial(rise, samples=10), 2 * 10),
        (partial(occlusion, window=4, stride=4), 2 * 24),
        (random, 0),
        (centre, 0),
    ],
)
@pytest.mark.parametrize("classes", [[0], "all"])
def test_batch_bounds_what_is_in_the_network_and_targets_share_the_passes(method, passes, classes):
    case = BY_NAME["square"] if passes == 0 else BY_NAME["hardswish"]
    net, x = case.net(), case.batch(2)
    forward_pass = TorchEngine(net).run(x)
    targets = choose(classes, forward_pass.logits, None)
    seen = Seen(net)
    if passes:
        method = partial(method, batch=5)
    method(forward_pass, targets)
    total, most = seen.look()
    assert total <= passes
    assert total >= passes - 2 * 2 * 3  # some of the six channels may be constant
    assert most <= 5


def test_constant_channels_mask_nothing_cost_nothing_and_do_not_divide_by_zero():
    case = BY_NAME["hardswish"]
    net, x = case.net(), case.batch(2)
    last = net.body[-2]
    with torch.no_grad():
        for channel, value in ((1, 0.0), (4, 0.7)):
            last.weight[channel] = 0
            last.bias[channel] = value
    forward_pass = TorchEngine(net).run(x)
    assert (forward_pass.features[:, 4] == forward_pass.features[0, 4, 0, 0]).all()
    seen = Seen(net)
    targets = choose([CLASS], forward_pass.logits, None)
    close(scorecam(forward_pass, targets).maps.numpy()[:, 0], perturbed.scorecam(case, net, x, CLASS))
    assert seen.look()[0] <= 2 * 4 + 1 + 2 * (1 + 2 * 6)  # ours, and the reference's own
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(0.3)
    for name, method in METHODS.items():
        assert np.isfinite(maps_of(method, net, x)).all(), name
    close(maps_of(scorecam, net, x), np.full((2, 1, *case.grid), 0.3))
    assert (maps_of(METHODS["groupcam"], net, x) == 0).all()


def test_masks_are_scaled_after_upsampling_and_half_pixel():
    """The two common mistakes give other maps, so the equality with the paper's loops rules them out."""
    case = BY_NAME["hardswish"]
    net, x = case.net(), case.batch(1)
    right = maps_of(scorecam, net, x)[0, 0]

    def wrong(prepare):
        increase = []
        for own in perturbed.features(case, net, x)[0]:
            masked = x * prepare(torch.from_numpy(own)[None, None])
            with torch.no_grad():
                increase.append(float(net(masked)[0, CLASS]))
        return sum(
            weight * own
            for weight, own in zip(perturbed.softmax(increase), perturbed.features(case, net, x)[0], strict=True)
        )

    def scaled(one):
        span = one.max() - one.min()
        return (one - one.min()) / span if span > 0 else 0 * one

    up = torch.nn.functional.interpolate
    close(right, wrong(lambda one: scaled(up(one, x.shape[2:], mode="bilinear"))), 1e-9)
    for prepare in (
        lambda one: up(scaled(one), x.shape[2:], mode="bilinear"),
        lambda one: scaled(up(one, x.shape[2:], mode="bilinear", align_corners=True)),
    ):
        assert np.abs(right - wrong(prepare)).max() > 1e-6 * np.abs(right).max()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("random", "centre")])
def test_not_a_number_is_not_hidden(name):
    refuses_not_a_number(METHODS[name])


class Views(torch.nn.Module):
    """Flattens by ``view``, which refuses features with channels last."""

    def forward(self, x):
        return x.view(len(x), -1)


def test_pictures_go_through_with_channels_last_where_the_model_takes_it():
    case = BY_NAME["vgg"]
    net, x = case.net(torch.float32), case.batch(2, torch.float32)
    forward_pass = TorchEngine(net).run(x)
    assert forward_pass.fast_format == torch.channels_last
    maps = maps_of(scorecam, net, x)
    close(maps, maps_of(scorecam, case.net(), case.batch(2)), 1e-5)
    viewing = type(net)(net.body, Views(), *net.head[1:]).eval()
    assert TorchEngine(viewing).run(x).fast_format == torch.contiguous_format
    close(maps_of(scorecam, viewing, x), maps, 1e-5)


def test_a_final_softmax_in_the_model_does_not_change_the_maps():
    case = BY_NAME["softmax_inside"]
    net, x = case.net(), case.batch(2)
    for name in ("scorecam", "groupcam", "rise", "occlusion"):
        inside = maps_of(METHODS[name], net, x, "all")
        bare = type(net)(net.body, *net.head[:-1])
        close(inside, maps_of(METHODS[name], bare, x, "all"))


def test_confidences_of_one_logit_of_contrasts_and_of_general_scores():
    logits = torch.tensor([[1.2], [-0.3]], dtype=torch.float64)
    p = logits.sigmoid()
    both = choose("all", logits, None)
    close(confidences(both, logits, "sigmoid").numpy(), torch.cat((1 - p, p), 1).numpy())
    contrast = choose(Contrast(1, 0), logits, None)
    close(confidences(contrast, logits, "sigmoid").numpy(), (2 * p - 1).numpy())
    wide = torch.randn(2, 4, dtype=torch.float64)
    mixed = choose([2, Contrast(0, 3)], wide, None)
    q = wide.softmax(1)
    close(confidences(mixed, wide, "softmax").numpy(), torch.stack((q[:, 2], q[:, 0] - q[:, 3]), 1).numpy())
    close(confidences(mixed, wide, "none").numpy(), torch.stack((wide[:, 2], wide[:, 0] - wide[:, 3]), 1).numpy(), 1e-7)
    own = choose(lambda z: z.square().sum(1), wide, None)
    close(confidences(own, wide, "softmax").numpy(), wide.square().sum(1, keepdim=True).numpy())


def test_rise_masks_have_the_stated_mean():
    """E[m] = p: with a network that always says 1 the map is 1 everywhere, up to chance."""
    forward_pass = TorchEngine(BY_NAME["square"].net()).run(BY_NAME["square"].batch(1))
    one = choose(lambda logits: torch.ones(len(logits), dtype=logits.dtype), forward_pass.logits, None)
    maps = rise(forward_pass, one, samples=600, keep=0.3, activation="none", batch=100).maps
    assert float((maps - 1).abs().mean()) < 0.1
    assert float(maps.mean()) == pytest.approx(1, abs=0.03)


def test_baselines_are_what_they_say():
    case = BY_NAME["gap_linear"]
    net, x = case.net(), case.batch(2)
    maps = maps_of(random, net, x, "all")
    assert (maps == maps[0, 0]).all()
    assert 0 <= maps.min() < maps.max() < 1
    assert (maps_of(partial(random, seed=1), net, x, "all") != maps).any()
    prior = maps_of(centre, net, x)[0, 0]
    wanted = [
        [np.exp(-(((y + 0.5) / 4 - 0.5) ** 2 + ((column + 0.5) / 6 - 0.5) ** 2) / (2 * 0.25**2)) for column in range(6)]
        for y in range(4)
    ]
    close(prior, np.array(wanted))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (partial(scorecam, batch=0), "expected batch above 0, got 0"),
        (partial(faster_scorecam, channels=0), "faster-scorecam: expected channels above 0"),
        (partial(sscam, on="weights"), "sscam: expected on='masks' or 'inputs', got 'weights'"),
        (partial(iscam, steps=1), "iscam: expected steps above 1, got 1"),
        (partial(rise, samples=-1), "rise: expected samples above 0, got -1"),
        (partial(occlusion, stride=0), "occlusion: expected stride above 0"),
    ],
)
def test_wrong_options_say_so(method, message):
    with pytest.raises(MethodError, match=message):
        maps_of(method, BY_NAME["gap_linear"].net(), BY_NAME["gap_linear"].batch(1))


@pytest.mark.parametrize(
    "name", ["scorecam", "faster-scorecam", "sscam", "iscam", "groupcam", "rise", "occlusion", "random", "centre"]
)
def test_methods_are_registered_with_their_paper(name):
    found = find_method(name)
    assert found.paper
    assert found.summary.startswith(("M", "Score-CAM"))
    assert found.unit != "logits per cell"
