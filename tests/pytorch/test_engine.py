"""Where the engine cuts a network, on what it refuses to guess, and that it stays right in threads and over time."""

from __future__ import annotations

import dataclasses
import gc
import threading
import tracemalloc
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from camlucida.errors import CamlucidaError, FeaturesNotFoundError, ModelError, TargetError  # noqa: E402
from camlucida.explainer import Explainer, explain  # noqa: E402
from camlucida.pytorch.engine import TorchEngine  # noqa: E402
from camlucida.pytorch.state import unwrapped  # noqa: E402
from nets import BY_NAME, CHANNELS, EVERY, Attended, Block, Call, Net, Tokens, conv_body, linear, pooled  # noqa: E402

CONV = BY_NAME["gap_linear"]


def single(case=CONV, size=2):
    """A network and a batch in float32."""
    return case.net(torch.float32), case.batch(size, torch.float32)


def same(one, other, tolerance=0.0):
    """Two explanations are alike in every number."""
    for name in ("logits", "scores", "maps", "bias"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=tolerance, atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("size", [1, 3])
def test_grid_layout_and_kind(case, size):
    net, x = case.net(), case.batch(size)
    forward_pass = TorchEngine(net).run(x)
    assert (forward_pass.split.layout.grid, forward_pass.split.layout.name, forward_pass.split.kind) == (
        case.grid,
        case.layout,
        case.kind,
    )
    with torch.no_grad():
        wanted = case.on_grid(net.body(x))
    torch.testing.assert_close(forward_pass.features, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("case", EVERY)
def test_the_recorded_head_gives_the_models_logits_for_these_and_other_features(case):
    net, x = case.net(), case.batch()
    forward_pass = TorchEngine(net).run(x)
    head = net.head[:-1] if "inside" in case.name else net.head
    with torch.no_grad():
        features = net.body(x)
        wanted = head(features).reshape(2, -1)
        torch.testing.assert_close(forward_pass.logits, wanted, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(forward_pass.head(forward_pass.features), wanted, rtol=1e-12, atol=1e-12)
        if not case.prefix:
            other = torch.randn_like(features)
            torch.testing.assert_close(
                forward_pass.head(case.on_grid(other)), head(other).reshape(2, -1), rtol=1e-12, atol=1e-12
            )


@pytest.mark.parametrize(("name", "activation"), [("softmax_inside", "softmax"), ("sigmoid_inside", "sigmoid")])
def test_a_final_activation_is_left_out_of_the_logits_and_kept_for_the_probabilities(name, activation):
    net, x = single(BY_NAME[name])
    ex = Explainer(net)(x, "all")
    assert ex.origin.activation == activation
    np.testing.assert_allclose(ex.probabilities, net(x).detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("case", EVERY)
def test_the_body_named_as_layer_gives_what_was_found_without_a_name(case):
    net, x = single(case)
    found = Explainer(net)(x, [1])
    same(Explainer(net, layer="body")(x, [1]), found)
    same(Explainer(net, layer=net.body)(x, [1]), found)


def test_an_earlier_layer_has_its_own_grid_and_gradient_times_features():
    net, x = single()
    ex = Explainer(net, layer="body.2")(x, [1])
    assert ex.grid == (8, 12)
    with torch.enable_grad():
        features = net.body[:3](x).detach().requires_grad_()
        logit = net.head(net.body[3:](features))[:, 1].sum()
    (gradient,) = torch.autograd.grad(logit, features)
    np.testing.assert_allclose(ex.maps[:, 0], (gradient * features).sum(1).detach().numpy(), atol=1e-6)


def test_of_a_module_called_twice_the_last_call_counts():
    case = BY_NAME["reused"]
    net, x = case.net(), case.batch()
    for layer in ("body.block", net.body.block, "body.block.1"):
        torch.testing.assert_close(TorchEngine(net, layer).run(x).features, net.body(x).detach(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        ("body.9", TargetError, r"the model has no layer 'body.9'; its layers begin with: body, body.0, .*head"),
        (nn.ReLU(), TargetError, r"the given layer \(ReLU\) is not part of the model"),
        (
            "head",
            FeaturesNotFoundError,
            r"the named layer gave tensors of shapes \[\(2, 5\)\], which are no spatial features",
        ),
        ("spare", FeaturesNotFoundError, r"the named layer gave nothing in this pass"),
    ],
)
def test_messages_about_layers(layer, error, message):
    net, x = single()
    net.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(error, match=message) as caught:
        Explainer(net, layer=layer)(x)
    assert "\n" not in str(caught.value)


def test_a_network_without_space_says_what_was_seen():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 24, 8), nn.ReLU(), nn.Linear(8, 5))
    message = (
        r"no spatial features lead to the logits \(2, 5\) of input \(2, 3, 16, 24\); .*had shapes \[\(2, 1152\), "
        r"\(2, 8\), \(2, 8\), \(2, 5\)\]; name the layer whose output to use with layer='…', one of 0, 1, 2, 3"
    )
    with pytest.raises(FeaturesNotFoundError, match=message):
        explain(CONV.batch(), net)


def test_torchscript_has_scores_and_no_features(recwarn):
    net, x = single()
    script = torch.jit.trace(net, x)
    with pytest.raises(FeaturesNotFoundError, match=r"pass the module that was scripted, or methods that need scores"):
        explain(x, script)
    same(explain(x, script, method="occlusion"), explain(x, net, method="occlusion"), 1e-6)
    recwarn.clear()  # torch deprecates its own tracing


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_tokens_in_an_order_of_their_own_are_never_laid_out_as_if_in_rows(prefix, seed):
    """Shuffled tokens cannot be put on a grid: the patches before the shuffle are the last features, or none are."""
    torch.manual_seed(seed)
    body = Tokens(prefix, depth=0)
    body.order = torch.randperm(24)
    last = [nn.LayerNorm(10), Call(lambda x: x.mean(1))] if not prefix else [Block(10), Call(lambda x: x[:, 0])]
    refused_or_of(Net(body, *last, linear(10)).eval(), CONV.batch(2, torch.float32), "body.patch")


def test_columns_before_rows_are_laid_as_rows_before_columns():
    body = nn.Sequential(conv_body(), Call(lambda x: x.transpose(2, 3).flatten(2)), Attended())
    net = Net(body, Call(lambda x: x.sum(2)), linear()).eval()
    x = torch.randn(2, 3, 32, 32)
    ex = explain(x, net, classes="all")
    with torch.no_grad():
        tokens = net.body(x)
        side = int(tokens.shape[2] ** 0.5)
        maps = torch.einsum("kc,bcn->bkn", net.head[-1].weight, tokens).reshape(2, -1, side, side).transpose(2, 3)
    assert np.abs(ex.maps - maps.numpy()).max() <= 1e-5 * np.abs(ex.maps).max()


def refused_or_of(net, x, layer):
    """The maps are of the layer whose grid is the picture's, or the network is refused."""
    try:
        ex = explain(x, net)
    except FeaturesNotFoundError:
        return
    same(ex, explain(x, net, layer=layer), 1e-6)


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    features: torch.Tensor


Named = namedtuple("Named", "logits features")


def outputs():
    return {
        "tuple": lambda logits, features: (logits, features),
        "features first": lambda logits, features: [features, logits],
        "dict": lambda logits, features: {"features": features, "logits": logits},
        "torchvision": lambda logits, features: {"aux": 0 * logits, "out": logits},
        "dataclass": lambda logits, features: Output(logits, features),
        "named tuple": lambda logits, features: Named(logits, features),
        "nested": lambda logits, features: {"result": (features, [logits])},
        "loss first": lambda logits, features: (None, logits),
    }


class Wrapped(nn.Module):
    def __init__(self, net, pack):
        super().__init__()
        self.net, self.pack = net, pack

    def forward(self, x):
        features = self.net.body(x)
        return self.pack(self.net.head(features), features)


@pytest.mark.parametrize("name", outputs())
def test_logits_are_found_in_what_a_model_returns(name):
    net, x = single()
    same(Explainer(Wrapped(net, outputs()[name]))(x, "all"), Explainer(net)(x, "all"))


def test_a_model_that_returns_no_logits_is_refused():
    net, x = single()
    with pytest.raises(ModelError, match=r"no logits of shape \(batch, classes\); it returned a tensor \(2, 6, 4, 6\)"):
        explain(x, net.body)


def test_a_model_that_squeezes_the_batch_away_is_not_misread():
    net = Net(conv_body(), nn.AdaptiveAvgPool2d(1), Call(torch.squeeze), linear()).eval()
    explainer = Explainer(net)
    batch = CONV.batch(2, torch.float32)
    both = explainer(batch, "all")
    assert both.logits.shape == (2, 5)
    same(explainer(batch[:1], "all"), both[:1], 1e-5)


@pytest.mark.parametrize("shape", [(0, 3, 16, 24), (3, 24), (2, 3, 0, 24)])
def test_an_input_that_is_no_batch_is_refused(shape):
    net, _ = single()
    with pytest.raises(ModelError, match=r"expected a batch \(B, C, \*space\) of at least one input, got shape"):
        TorchEngine(net).run(torch.zeros(shape))


@pytest.mark.parametrize("fault", [RuntimeError("two\nlines"), KeyError("absent"), ZeroDivisionError()])
def test_what_a_model_raises_becomes_one_line_with_its_cause(fault):
    net, x = single()

    def fail(features):
        raise fault

    net.head = Call(fail)
    with pytest.raises(
        ModelError, match=rf"the model failed on input \(2, 3, 16, 24\): {type(fault).__name__}"
    ) as caught:
        explain(x, net)
    assert caught.value.__cause__ is fault
    assert "\n" not in str(caught.value)


def test_the_wrong_number_of_channels_is_a_model_error():
    net, _ = single()
    with pytest.raises(ModelError, match=r"the model failed on input \(2, 4, 16, 24\): .*channels"):
        explain(torch.zeros(2, 4, 16, 24), net)


@pytest.mark.parametrize("first", ["zeros", "ones", "one picture", "two alike"])
@pytest.mark.parametrize("name", ["gap_linear", "layer_norm", "class_token", "sum_pool", "token_mean"])
def test_what_comes_first_does_not_decide_what_comes_later(first, name):
    """The split is found once for a shape: a black first picture must not spoil it."""
    net, x = single(BY_NAME[name])
    explainer = Explainer(net)
    explainer({"zeros": 0 * x, "ones": 0 * x + 1, "one picture": x[:1], "two alike": x[:1].repeat(2, 1, 1, 1)}[first])
    same(explainer(x, "all"), Explainer(net)(x, "all"), 1e-6)


def test_two_input_sizes_with_one_explainer():
    net, x = single()
    explainer = Explainer(net)
    large = torch.randn(2, 3, 32, 16)
    for _ in range(2):
        assert explainer(x).grid == (4, 6)
        assert explainer(large).grid == (8, 4)
    same(explainer(large, "all"), Explainer(net)(large, "all"))


@pytest.mark.parametrize("name", ["gap_linear", "layer_norm", "class_token", "cached_table"])
def test_two_threads_give_what_one_gives(name):
    case = BY_NAME[name]
    net = case.net(torch.float32).train()
    batches = [case.batch(2, torch.float32) * (1 + n) for n in range(8)]
    wanted = [Explainer(case.net(torch.float32))(batch, 2) for batch in batches]
    explainer = Explainer(net)
    with ThreadPoolExecutor(2) as threads:
        for _ in range(6):
            for got, one in zip(threads.map(lambda batch: explainer(batch, 2), batches), wanted, strict=True):
                same(got, one, 1e-6)
    assert all(module.training for module in net.modules())


def test_a_thousand_calls_leave_no_hook_and_no_memory():
    net = Net(nn.Conv2d(3, 4, 3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(4)).eval()
    x = torch.randn(1, 3, 8, 8)
    explainer = Explainer(net)

    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    for _ in range(50):
        explainer(x)
    tracemalloc.start()
    before, count = tracemalloc.get_traced_memory()[0], tensors()
    for _ in range(1000):
        explainer(x)
    assert tensors() == count
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 200_000  # 200 bytes a call
    for module in net.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks


@pytest.mark.parametrize("name", ["gap_linear", "layer_norm", "hardswish", "class_token", "zero_head"])
def test_changed_weights_are_seen_at_once(name):
    net, x = single(BY_NAME[name])
    explainer = Explainer(net)
    explainer(x, "all")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    same(explainer(x, "all"), Explainer(net)(x, "all"), 1e-6)


def test_a_head_of_zeros_that_is_trained_later_gets_its_true_kind():
    net = pooled(linear(CHANNELS, 8), nn.Hardswish(), linear(8)).eval()
    x = CONV.batch(2, torch.float32)
    trained = {name: value.clone() for name, value in net.state_dict().items()}
    nn.init.zeros_(net.head[-1].weight)
    explainer = Explainer(net)
    explainer(x, "all")
    net.load_state_dict(trained)
    same(explainer(x, "all"), Explainer(net)(x, "all"), 1e-6)


def test_the_backbone_runs_without_gradients():
    seen = []

    def watch(x):
        seen.append(torch.is_grad_enabled())
        return x

    net, x = single()
    net.body = nn.Sequential(*net.body[:3], Call(watch), *net.body[3:])
    explainer = Explainer(net)
    for classes in (1, "all", lambda logits: logits.softmax(1)[:, 0]):
        explainer(x, classes)
    assert seen == [False] * 5  # one to find the split, one to see where its cells lie, one for each call


@pytest.mark.parametrize("name", ["gap_linear", "layer_norm", "vgg", "class_token", "inplace"])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_callers_in_any_gradient_mode_get_the_same(name, mode):
    net, x = single(BY_NAME[name])
    wanted = Explainer(net)(x, 2)
    with mode():
        same(Explainer(net)(x.clone(), 2), wanted)
        same(Explainer(net)(x.clone(), lambda logits: logits[:, :2]), Explainer(net)(x, [0, 1]), 1e-6)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_models_whose_forward_sets_its_own_gradient_mode(mode):
    net, x = single()
    wanted = Explainer(net)(x, 2)

    class Own(Net):
        def forward(self, x):
            with mode():
                return super().forward(x)

    same(Explainer(Own(net.body, net.head).eval())(x, 2), wanted, 1e-6)


def test_the_callers_input_stays_even_if_the_model_changes_it():
    net, x = single()

    class Normalizing(Net):
        def forward(self, x):
            return super().forward(x.sub_(0.5).div_(0.25))

    own = Normalizing(net.body, net.head).eval()
    kept = x.clone()
    ex = Explainer(own)(x, 2)
    torch.testing.assert_close(x, kept, rtol=0, atol=0)
    same(ex, Explainer(net)((kept - 0.5) / 0.25, 2))


@pytest.mark.parametrize("wrapping", ["compile", "data parallel", "compile in place"])
@pytest.mark.filterwarnings("ignore")  # torch's compiler, when it meets the tape
def test_wrapped_models_are_looked_through(wrapping):
    net, x = single()
    wanted = Explainer(net)(x, 2)
    wrapped = {
        "compile": lambda: torch.compile(net, backend="eager"),
        "data parallel": lambda: nn.DataParallel(net),
        "compile in place": lambda: net.compile(backend="eager") or net,
    }[wrapping]()
    same(Explainer(wrapped)(x, 2), wanted, 1e-6)
    assert unwrapped(wrapped) is net


def test_memory_layout_frozen_weights_and_training_mode_change_nothing():
    net, x = single()
    wanted = Explainer(net)(x, "all")
    same(Explainer(net)(x.to(memory_format=torch.channels_last), "all"), wanted, 1e-6)
    same(Explainer(net.to(memory_format=torch.channels_last))(x, "all"), wanted, 1e-6)
    same(Explainer(net.requires_grad_(False))(x, "all"), wanted, 1e-6)
    same(Explainer(net.train())(x, "all"), wanted, 1e-6)  # neither dropout nor batch statistics
    same(Explainer(net)(x.double(), "all"), wanted, 1e-6)
    same(Explainer(net)(x.numpy(), "all"), wanted, 1e-6)
    same(Explainer(net)(x.clone().requires_grad_(), "all"), wanted, 1e-6)


def test_a_model_that_takes_another_way_each_time_is_refused():
    turns = iter(range(1000))

    def wander(x):
        for _ in range(next(turns) % 3):
            x = x.tanh()
        return x

    net, x = single()
    net.head = nn.Sequential(Call(wander), *net.head)
    with pytest.raises(
        FeaturesNotFoundError, match=r"the model's calls differ from pass to pass for input \(2, 3, 16, 24\)"
    ):
        explain(x, net)


def test_nan_in_the_input_is_named():
    net, x = single()
    explainer = Explainer(net)
    explainer(x)
    x[1, 0, 0, 0] = float("nan")
    for each in (explainer, Explainer(net)):
        with pytest.raises(CamlucidaError, match=r"not finite.*NaN in its input"):
            each(x)


def test_overlapping_first_calls_trace_once_and_agree():
    net, x = single()
    explainer = Explainer(net)
    start = threading.Barrier(2)

    def call(_):
        start.wait()
        return explainer(x, 2)

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(call, range(2))
    same(one, other)
