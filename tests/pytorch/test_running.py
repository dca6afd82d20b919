"""Models that are hard to run: fixed numbers of inputs, several arguments, autocast, scripts, compilers.

Truths are textbook maps, or the plain network that computes the same.
"""

from __future__ import annotations

import threading
import time
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import camlucida as cl  # noqa: E402
from camlucida.errors import CamlucidaError, FeaturesNotFoundError, MethodError, ModelError  # noqa: E402
from camlucida.explainer import Explainer, explain  # noqa: E402
from camlucida.pytorch.engine import TorchEngine  # noqa: E402
from camlucida.pytorch.model_call import Arguments, ModelCall, portions  # noqa: E402
from camlucida.pytorch.tape import Tape  # noqa: E402

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
META = torch.linspace(-1, 1, 12).reshape(4, 3)


class Net(nn.Module):
    """Features, their mean, a head; ``way`` is how the network runs them."""

    def __init__(self, way=None, more=0, **parts):
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU())
        self.head = nn.Linear(16 + more, 5)
        self.way = way
        for name, part in parts.items():
            self.register_buffer(name, part)

    def forward(self, *args, **kwargs):
        if self.way is None:
            return self.head(self.body(*args).mean((2, 3)))
        return self.way(self, *args, **kwargs)


def truth(net, x=X):
    """The textbook's maps of the network's own weights."""
    with torch.no_grad():
        features = net.body(x)
        return torch.einsum("kc,bchw->bkhw", net.head.weight[:, :16], features) / features[0, 0].numel()


def exact(explanation, net, x=X, tolerance=1e-5):
    np.testing.assert_allclose(explanation.maps, truth(net, x), rtol=1e-3, atol=tolerance)
    assert explanation.residual.max() <= max(1e-4, 100 * tolerance)


# --- a fixed number of inputs -----------------------------------------------------------------------------------------


def only(count):
    def way(n, x):
        if len(x) != count:
            raise ValueError(f"expected a batch of {count}")
        return n.head(n.body(x).mean((2, 3)))

    return way


FIXED = {
    "one_demanded": (only(1), {}),
    "three_demanded": (only(3), {}),
    "asserted": (lambda n, x: n.head(n.body(x).mean((2, 3)).view(1, 16)), {}),
    "buffer_of_one_row": (
        lambda n, x: n.head(torch.cat((n.body(x).mean((2, 3)), n.meta), 1)), {"more": 3, "meta": META[:1]}
    ),
    "rows_of_three_flattened": (lambda n, x: n.head(n.body(x).mean((2, 3)).reshape(48).view(3, 16)), {}),
    "unflattened_by_a_constant": (lambda n, x: n.head(n.body(x).reshape(1, 16, 64).mean(2)), {}),
    "first_row_alone": (lambda n, x: n.head(n.body(x)[0].mean((1, 2)))[None], {}),
    "squeezed_batch": (lambda n, x: n.head(n.body(x).squeeze(0).mean((1, 2)))[None], {}),
    "squeezed_logits": (lambda n, x: n.head(n.body(x).mean((2, 3))).squeeze(0), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", FIXED)
def test_models_of_a_fixed_number_of_inputs(name):
    """Three are explained to those that take three, four or one to the others; each as if alone."""
    way, parts = FIXED[name]
    net = Net(way, **parts).eval()
    count = 3 if "three" in name else 1
    exact(explain(X[:count], net, classes="all"), net, X[:count])
    if count == 1:
        exact(explain(X, net, classes="all"), net)  # one after the other
    ids = np.array([[1], [3], [0], [2]])[:count]
    np.testing.assert_array_equal(explain(X[:count], net, classes=ids).classes, ids)


def test_more_inputs_than_run_at_once_are_filled_up():
    net = Net(only(3)).eval()
    explainer = Explainer(net)
    exact(explainer(X[:3], "all"), net, X[:3])
    exact(explainer(X, "all"), net)
    exact(explainer(X[:1], "all"), net, X[:1])
    assert explainer(X, lambda logits: logits[:, 1] - logits[:, 2]).scores.shape == (4, 1)
    assert list(portions(4, 3, filled=True)) == [([0, 1, 2], 3), ([3, 3, 3], 1)]


def test_methods_of_scores_run_in_such_portions_too():
    plain, fixed = Net().eval(), Net(only(1)).eval()
    for method in ("occlusion", "gradient", "scorecam", "eigencam"):
        one, other = (explain(X[:1], net, method=method, classes=[2]) for net in (plain, fixed))
        np.testing.assert_allclose(other.maps, one.maps, rtol=1e-3, atol=1e-5, err_msg=method)


def test_one_picture_at_a_time_whose_calls_differ_is_refused():
    def way(n, x):
        if len(x) != 1:
            raise ValueError("expected a batch of 1")
        features = n.body(x)
        pooled = features.mean((2, 3)) if float(x[0, 0, 0, 0]) < float(x[0, 0, 0, -1]) else features.amax((2, 3))
        return n.head(pooled)

    with pytest.raises(FeaturesNotFoundError, match=r"differs from picture to picture.*rise and occlusion"):
        explain(X[:1], Net(way).eval())


def test_a_model_that_fails_on_any_number_says_why_itself():
    net = Net(lambda n, x: n.head(n.body(x))).eval()
    with pytest.raises(ModelError, match=r"the model failed on input \(4, 3, 32, 32\): RuntimeError: mat1 and mat2"):
        explain(X, net)


# --- several arguments ------------------------------------------------------------------------------------------------


def with_metadata(n, x, meta):
    return n.head(torch.cat((n.body(x).mean((2, 3)), meta), 1))


def named(n, input_ids=None, pixel_values=None, scale=1.0):
    return scale * n.head(n.body(pixel_values).mean((2, 3))) + input_ids.float().mean(1, keepdim=True)


CALLS = {
    "positional": (with_metadata, 3, {"inputs": (META,)}),
    "array": (with_metadata, 3, {"inputs": [META.numpy()]}),
    "by_name": (with_metadata, 3, {"forward_kwargs": {"meta": META}}),
    "pictures_second": (lambda n, meta, x: with_metadata(n, x, meta), 3, {"inputs": (META,), "explain_input": 1}),
    "pictures_named": (lambda n, meta, x: with_metadata(n, x, meta), 3, {"inputs": (META,), "explain_input": "x"}),
    "nested": (lambda n, x, more: with_metadata(n, x, more["meta"][0]), 3, {"inputs": ({"meta": [META]},)}),
    "flag": (lambda n, x, double: n.head(n.body(x).mean((2, 3))) * (2 if double else 1), 0, {"inputs": (False,)}),
}


@pytest.mark.parametrize("method", ["cam", "occlusion", "gradient", "scorecam"])
@pytest.mark.parametrize("name", CALLS)
def test_what_goes_with_the_pictures(name, method):
    """Each picture goes with its own row, in the method's further passes too: alone it is the same."""
    way, more, given = CALLS[name]
    net = Net(way, more).eval()
    explainer = Explainer(net, method=method)
    together = explainer(X, [1, 4], **given)
    with torch.no_grad():
        placed = {**given.get("forward_kwargs", {})}
        positional = [torch.as_tensor(one) if isinstance(one, np.ndarray) else one for one in given.get("inputs", ())]
        plain = net(*positional, X) if "explain_input" in given else net(X, *positional, **placed)
    np.testing.assert_allclose(together.logits, plain, rtol=1e-5, atol=1e-5)
    for i in (0, 3):
        own = {key: Arguments((value,)).rows([i], 4).inputs[0] if key != "explain_input" else value
               for key, value in given.items()}  # fmt: skip
        if name == "array":
            own = {"inputs": [META.numpy()[i : i + 1]]}
        alone = explainer(X[i : i + 1], [1, 4], **own)
        np.testing.assert_allclose(together.maps[i], alone.maps[0], rtol=1e-3, atol=1e-5)
    if method == "cam":
        np.testing.assert_allclose(together.maps, truth(net)[:, [1, 4]], rtol=1e-3, atol=1e-5)


def test_pixel_values_are_found_by_their_name():
    class Named(Net):
        def forward(self, input_ids=None, pixel_values=None, scale=1.0):
            return named(self, input_ids, pixel_values, scale)

    net = Named().eval()
    ids = torch.arange(8).reshape(4, 2)
    explanation = explain(X, net, classes="all", forward_kwargs={"input_ids": ids})
    np.testing.assert_allclose(explanation.maps, truth(net), rtol=1e-3, atol=1e-5)


def test_pictures_in_batches_go_with_their_rows():
    """Twenty pictures run in two batches; each keeps its own row."""
    net = Net(with_metadata, 3).eval()
    pixels = list(np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8))
    meta = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    explainer = Explainer(net, preprocess=cl.Preprocess((32, 32)))
    every = explainer(pixels, [1], inputs=(meta,))
    alone = explainer(pixels[18], [1], inputs=(meta[18:19],))
    np.testing.assert_allclose(every.scores[18], alone.scores[0], rtol=1e-5)


def test_without_them_the_error_says_how():
    message = r"several arguments, and 'meta' was not given: give .*inputs=\(…\) or forward_kwargs=.*explain_input="

    class Two(Net):
        def forward(self, x, meta):
            return with_metadata(self, x, meta)

    with pytest.raises(ModelError, match=message + r".*forward\(x, meta\)"):
        explain(X, Two(more=3).eval())
    with pytest.raises(ModelError, match="this one takes pictures alone"):
        explain(cl.sample(), inputs=(META,))
    with pytest.raises(ModelError, match=r"the values that go with the pictures are for 4; explain one picture"):
        ModelCall(Two(more=3), Arguments((META,)), 4)(X[:3])


# --- precision inside the pass ----------------------------------------------------------------------------------------


def under(**state):
    def way(n, x):
        with torch.autocast("cpu", torch.bfloat16, **state):
            return n.head(n.body(x).mean((2, 3)))

    return way


def body_under(n, x):
    with torch.autocast("cpu", torch.bfloat16):
        features = n.body(x)
    return n.head(features.mean((2, 3)).float())


def islands(n, x):
    with torch.autocast("cpu", torch.bfloat16):
        pooled = n.body(x).mean((2, 3))
        with torch.autocast("cpu", enabled=False):
            return n.head(pooled.float()) + 0 * n.head(pooled.float())


def normed(n, x):
    with torch.autocast("cpu", torch.bfloat16):
        return n.head(nn.functional.layer_norm(n.body(x).mean((2, 3)), (16,)).relu())


AUTOCAST = {
    "whole": under(), "without_its_cache": under(cache_enabled=False), "off": under(enabled=False),
    "body": body_under, "islands": islands,
    "cast_at_the_end": lambda n, x: under()(n, x).float(),
}  # fmt: skip


@pytest.mark.parametrize("name", AUTOCAST)
def test_autocast_inside_the_model(name):
    net = Net(AUTOCAST[name]).eval()
    explanation = explain(X, net, classes="all")
    exact(explanation, net, tolerance=1e-5 if name == "off" else 5e-3)
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("way", [under(), normed], ids=["whole", "normed"])
def test_autocast_around_the_model_and_methods_that_replay(way):
    net = Net(way).eval()
    for method in ("gradcam++", "ablationcam", "scorecam", "reciprocam"):
        assert np.isfinite(explain(X[:1], net, method=method).maps).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert np.isfinite(explain(X[:1], Net().eval()).maps).all()


# --- calls that hide, refuse or compile -------------------------------------------------------------------------------


class Swish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        return function(*args, **kwargs)


def scripted_body():
    net = Net()
    net.body = quietly(torch.jit.script, net.body)
    return net


def scripted_head():
    net = Net()
    net.head = quietly(torch.jit.script, net.head)
    return net


def traced_convolution():
    net = Net()
    net.body[0] = quietly(torch.jit.trace, net.body[0], X)
    return net


def two_scripts():
    net = Net()
    net.body = nn.Sequential(*(quietly(torch.jit.script, part) for part in net.body))
    return net


def inference_weights():
    with torch.inference_mode():
        return Net()


def compiled():
    net = Net()
    net.compile(backend="eager")
    return net


def compiled_part():
    net = Net()
    net.body.compile(backend="eager")
    return net


def checkpointed(reentrant):
    return Net(lambda n, x: n.head(checkpoint(n.body, x, use_reentrant=reentrant).mean((2, 3))))


SAME = {
    "scripted_body": scripted_body, "scripted_head": scripted_head, "traced_convolution": traced_convolution,
    "two_scripts": two_scripts, "inference_weights": inference_weights, "compiled": compiled,
    "compiled_part": compiled_part, "checkpoint": lambda: checkpointed(False),
    "reentrant_checkpoint": lambda: checkpointed(True),
}  # fmt: skip


WATCHED = ("scripted_body", "two_scripts", "traced_convolution")


@pytest.mark.parametrize("name", SAME)
def test_such_models_are_explained_as_the_plain_one(name):
    """Maps by features, by gradients of the inputs and by scores alone; nothing is left behind."""
    net, plain = SAME[name]().eval(), Net().eval()
    hooks = [len(module._forward_hooks) for module in net.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if name == "reentrant_checkpoint" else "error")  # torch's own, without gradients
        exact(explain(X, net, classes="all"), plain)
        for method in ("occlusion", "gradient", "fullgrad", "guided-backprop"):
            if name == "reentrant_checkpoint" and method != "occlusion":
                continue
            if name in WATCHED and method in ("fullgrad", "guided-backprop"):
                continue  # these methods watch calls that are inside
            one, other = (explain(X[:2], each, method=method, classes=[3]) for each in (plain, net))
            np.testing.assert_allclose(other.maps, one.maps, rtol=1e-3, atol=1e-5, err_msg=method)
    assert [len(module._forward_hooks) for module in net.modules()] == hooks


def test_a_compiled_model_costs_no_compilation():
    net = compiled().eval()
    begun = time.perf_counter()
    with torch.no_grad():
        net(X)
    explain(X, net)
    frames = torch._dynamo.utils.counters["frames"]["total"]
    explain(X[:, :, :24, :24].contiguous(), net)
    assert torch._dynamo.utils.counters["frames"]["total"] == frames
    assert time.perf_counter() - begun < 60


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_gradients_that_cannot_be_had_say_why():
    with pytest.raises(MethodError, match=r"checkpoints are reentrant.*use_reentrant=False; or .*rise or occlusion"):
        explain(X, checkpointed(True).eval(), method="gradient")
    hidden = Net(lambda n, x: n.head(n.body(x.detach()).mean((2, 3)))).eval()
    with pytest.raises(MethodError, match=r"no gradient leads from the model's scores to its inputs.*rise"):
        explain(X, hidden, method="gradient")
    assert explain(X[:1], hidden, method="occlusion").maps.any()


def in_numpy(n, x):
    return torch.from_numpy(n.head(n.body(x).mean((2, 3))).detach().numpy() * 1)


HIDDEN = {
    "numpy": in_numpy,
    "vmap": lambda n, x: torch.func.vmap(lambda f: n.head(f.mean((1, 2))))(n.body(x)),
    "list_of_numbers": lambda n, x: torch.tensor(n.head(n.body(x).mean((2, 3))).tolist()),
    "no_space": lambda n, x: n.head(x.flatten(1)[:, :16]),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_methods_of_scores_run_where_no_features_can_be_found(name):
    net = Net(HIDDEN[name]).eval()
    with pytest.raises(CamlucidaError, match="rise and occlusion") as caught:
        explain(X, net)
    assert "\n" not in str(caught.value)
    explanation = explain(X[:1], net, method="occlusion", classes=[1])
    with torch.no_grad():
        logits = net(X[:1])
    assert explanation.grid == (16, 16)
    np.testing.assert_allclose(explanation.logits, logits, rtol=1e-5)
    assert (explanation.origin.head, explanation.origin.features) == ("not looked at", "not looked at")
    assert np.isfinite(explain(X[:1], net, method="rise").maps).all()


def test_a_function_of_the_users_own_runs_whether_or_not_it_reads_features():
    from camlucida.methods.forward_pass import Maps

    def scores_alone(forward_pass, targets):
        return Maps(targets.of(forward_pass.logits)[:, :, None, None].expand(-1, -1, 2, 2), None)

    def features_too(forward_pass, targets):
        return Maps(forward_pass.features.sum(1, keepdim=True).expand(-1, targets.ids.shape[1], -1, -1), None)

    hidden = Net(in_numpy).eval()
    assert explain(X, hidden, method=scores_alone).grid == (2, 2)
    assert explain(X, Net().eval(), method=features_too).grid == (8, 8)
    with pytest.raises(FeaturesNotFoundError):
        explain(X, hidden, method=features_too)


def test_scripts_are_seen_by_the_thread_that_watches_alone():
    net = scripted_body().eval()
    engine, seen = TorchEngine(net), []

    def watch():
        with torch.no_grad(), Tape([X]) as tape:
            ModelCall(net)(X)
        seen.append([step.name for step in tape.steps])

    threads = [threading.Thread(target=watch) for _ in range(4)]
    for thread in threads:
        thread.start()
    engine.run(X)
    for thread in threads:
        thread.join()
    assert seen == [["scripted", "mean", "linear"]] * 4


@pytest.mark.parametrize("classes", [torch.tensor([[1], [3], [0], [2]]), torch.tensor([[1], [3], [0], [2]]).int()])
def test_classes_as_tensors(classes):
    net = Net().eval()
    np.testing.assert_array_equal(explain(X, net, classes=classes).classes, classes.numpy())
    np.testing.assert_array_equal(explain(X, net, classes=classes[:, 0][:2]).classes, [[1, 3]] * 4)
    np.testing.assert_array_equal(explain(X, net, classes=torch.tensor(2)).classes, explain(X, net, classes=2).classes)
