"""ONNX classifiers of any origin: the same maps as PyTorch by every method without gradients, on every kind of file."""

from __future__ import annotations

import re
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import camlucida as cl
from camlucida.errors import FeaturesNotFoundError, MethodError, ModelError
from camlucida.explainer import Explainer
from camlucida.methods.blackbox import occlusion, rise
from camlucida.methods.forward_pass import Maps
from camlucida.methods.perturbation import iscam, sscam
from camlucida.methods.registry import METHODS, WITHOUT_GRADIENTS, find_method
from camlucida.targets import choose
from nets import BY_NAME, CASES, Call, Net, conv_body, linear, pooled
from onnx_files import close, export

onnx = pytest.importorskip("onnx")
from camlucida.onnx.graph_cut import route_of, sizes_read  # noqa: E402
from camlucida.onnx.onnx_pass import OnnxClassifier, OnnxPass  # noqa: E402
from camlucida.onnx.session import OnnxSession  # noqa: E402

FREE = {name for name, method in METHODS.items() if not {"gradients", "attention"} & set(method.needs)}
"""The methods that need no gradient; all others but cam must say that they do."""
CHEAP = {"rise": partial(rise, samples=8), "sscam": partial(sscam, samples=2), "iscam": partial(iscam, steps=3)}
NORMALIZED = {case.name for case in CASES if case.kind == "normalized"}
SHAPES = """gap_linear squeeze_excitation binary_flat softmax_inside sigmoid_inside signal volume nhwc layer_norm vgg
    max_pool attention_pool registers class_token two_tokens_mean"""


# --- the same maps ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES.split())
def test_every_method_without_gradients_is_the_same_as_on_pytorch(name, tmp_path):
    case = BY_NAME[name]
    net, x = case.net(torch.float32), case.batch(3, torch.float32)
    model = cl.open_model(export(net, x, tmp_path / "net.onnx", dynamic="token" not in name and name != "registers"))
    for method in sorted(FREE):
        if method == "dff" and name in NORMALIZED:
            with pytest.raises(MethodError, match=r"dff needs the statistics of the normalization .* held fixed"):
                Explainer(model, method="dff")(x.numpy(), [0, 1])
        else:
            close(model, net, x.numpy(), CHEAP.get(method, method))


def test_every_method_of_the_registry_works_or_says_why(tmp_path):
    case = BY_NAME["gap_linear"]
    net, x = case.net(torch.float32), case.batch(1, torch.float32)
    model = cl.open_model(export(net, x, tmp_path / "net.onnx"))
    for name in sorted(METHODS.keys() - FREE - {"cam"}):
        with pytest.raises(
            MethodError, match=rf"net.onnx: {name.replace('+', '.')} needs a network's gradients .* or rise"
        ):
            Explainer(model, method=name)(x.numpy(), [0])
    with pytest.raises(
        MethodError, match=r"no maps among its outputs \(\d+\); make them with: camlucida export .*onnx"
    ):
        Explainer(model)
    assert len(FREE) == 14
    assert set(re.split(", | or ", WITHOUT_GRADIENTS)) < FREE
    assert find_method("cam").name not in FREE


@pytest.mark.parametrize("name", sorted(METHODS.keys() - FREE))
def test_what_methods_say_they_need_they_ask_for(name, tmp_path):
    """A method that the table keeps from ONNX files would be refused by their passes too."""
    case = BY_NAME["gap_linear"]
    x = case.batch(1, torch.float32)
    network = OnnxSession(export(case.net(torch.float32), x, tmp_path / "net.onnx").read_bytes(), "net")
    classifier = OnnxClassifier(network, (tmp_path / "net.onnx").read_bytes(), next(iter(network.outputs)))

    def refuse():
        raise MethodError("asked for")

    with pytest.raises(MethodError, match="asked for"):
        METHODS[name].compute(OnnxPass(classifier, x, refuse), choose([0], torch.zeros(1, 5), None))


def test_a_function_of_the_users_own_is_refused_where_it_asks_for_gradients(tmp_path):
    def own(forward_pass, targets):
        return Maps(forward_pass.gradients(targets.of)[0].sum(2), None)

    case = BY_NAME["gap_linear"]
    x = case.batch(1, torch.float32)
    model = cl.open_model(export(case.net(torch.float32), x, tmp_path / "net.onnx"))
    with pytest.raises(MethodError, match=r"net.onnx: own needs a network's gradients .* or rise"):
        Explainer(model, method=own)(x.numpy(), [0])


@pytest.mark.parametrize("name", ["gap_linear", "class_token"])
def test_a_file_of_one_picture_runs_one_by_one(name, tmp_path):
    case = BY_NAME[name]
    net, x = case.net(torch.float32), case.batch(3, torch.float32)
    path = export(net, x[:1], tmp_path / "one.onnx", dynamic=False)
    assert OnnxSession(path.read_bytes(), "one").batch == 1
    for method in ("occlusion", "scorecam", "ablationcam", "eigencam"):
        close(cl.open_model(path), net, x.numpy(), method)


def test_the_exporter_that_compiles(tmp_path):
    case = BY_NAME["nhwc"]
    net, x = case.net(torch.float32), case.batch(2, torch.float32)
    shapes = ({0: torch.export.Dim("n")},)
    torch.onnx.export(net, (x,), tmp_path / "n.onnx", dynamo=True, verbose=False, dynamic_shapes=shapes,
                      external_data=False)  # fmt: skip
    for method in ("occlusion", "scorecam", "reciprocam"):
        close(cl.open_model(tmp_path / "n.onnx"), net, case.batch(3, torch.float32).numpy(), method)


def test_a_file_of_a_fixed_batch_is_filled_up(tmp_path):
    case = BY_NAME["gap_linear"]
    net, x = case.net(torch.float32), case.batch(6, torch.float32)
    network = OnnxSession(export(net, x[:4], tmp_path / "four.onnx", dynamic=False).read_bytes(), "four")
    (found,) = network.run(list(network.outputs), x.numpy())
    np.testing.assert_allclose(found, net(x).detach().numpy(), atol=1e-5)
    (found,) = network.run(list(network.outputs), x[:1].numpy())
    np.testing.assert_allclose(found, net(x[:1]).detach().numpy(), atol=1e-5)


def test_a_head_that_reads_the_size_of_the_batch(tmp_path):
    """Its size is a value beside the features, which the head is given too."""

    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.last = conv_body(), linear(6 * 24)

        def forward(self, x):
            return self.last(self.body(x).reshape(x.shape[0], -1))

    torch.manual_seed(0)
    net, x = Sized().eval(), torch.randn(3, 3, 16, 24)
    path = export(net, x, tmp_path / "sized.onnx")
    network = OnnxSession(path.read_bytes(), "sized")
    route = route_of(path.read_bytes(), "sized", network.input, next(iter(network.outputs)))
    relu = next(node.output[0] for node in reversed(route.nodes) if node.op_type == "Relu")
    assert relu in route.bottlenecks()
    assert len(sizes_read(route, relu)) == 1
    for method in ("ablationcam", "reciprocam", "dff"):
        close(cl.open_model(path), net, x.numpy(), method)


def test_methods_that_are_wrapped_and_scores_that_are_curved(tmp_path):
    case = BY_NAME["gap_linear"]
    net, x = case.net(torch.float32), case.batch(2, torch.float32)
    model = cl.open_model(export(net, x, tmp_path / "net.onnx"))
    close(model, net, x.numpy(), cl.smoothed("scorecam"))
    close(model, net, x.numpy(), "occlusion", [cl.Contrast(2, 0)])
    wanted, found = (Explainer(one, method="occlusion")(x, cl.log_odds(1)) for one in (net, model))
    np.testing.assert_allclose(found.maps, wanted.maps, atol=1e-4 * np.abs(wanted.maps).max())


# --- what files take and give -----------------------------------------------------------------------------------------


def test_half_precision(tmp_path):
    case = BY_NAME["gap_linear"]
    net, x = case.net(torch.float32).half(), case.batch(2, torch.float32)
    path = export(net, x.half(), tmp_path / "half.onnx")
    assert OnnxSession(path.read_bytes(), "half").dtype is np.float16
    close(cl.open_model(path), net.float(), x.numpy(), "scorecam", tolerance=5e-3)
    close(cl.open_model(path), net.float(), x.numpy().astype(np.float16), "eigencam", tolerance=5e-3)


def test_pictures_with_channels_last_and_in_whole_numbers(tmp_path):
    torch.manual_seed(0)
    net = pooled(linear()).eval()
    last = Net(Call(lambda x: x.permute(0, 3, 1, 2)), net)
    bytes_ = Net(Call(lambda x: x.float() / 255), net)
    x = torch.randint(0, 256, (3, 3, 16, 24)).float()
    model = cl.open_model(export(last, x.permute(0, 2, 3, 1), tmp_path / "last.onnx"))
    assert model.preprocess.size_hw == (16, 24)
    for method in ("occlusion", "eigencam", "ablationcam"):
        close(model, net, x.numpy(), method)
    whole = cl.open_model(export(bytes_, x.to(torch.uint8), tmp_path / "bytes.onnx"))
    found = Explainer(whole, method="eigencam")(x.numpy(), [0])
    wanted = Explainer(net, method="eigencam")((x / 255).numpy(), [0])
    np.testing.assert_allclose(found.maps, wanted.maps, atol=1e-4 * np.abs(wanted.maps).max())


def test_any_height_and_width(tmp_path):
    torch.manual_seed(0)
    net, x = Net(conv_body(), Call(lambda x: x.mean((2, 3))), linear()).eval(), torch.randn(2, 3, 16, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"pictures": {0: "n", 2: "h", 3: "w"}}
        torch.onnx.export(net, (x,), tmp_path / "any.onnx", dynamo=False, input_names=["pictures"], dynamic_axes=axes)
    model = cl.open_model(tmp_path / "any.onnx")
    assert model.preprocess.size_hw == (224, 224)
    explainer = Explainer(model, method="fem")
    assert [explainer(np.ones((1, 3, *size), np.float32)).grid for size in ((16, 24), (32, 20))] == [(4, 6), (8, 5)]


def test_which_output_is_meant(tmp_path):
    torch.manual_seed(0)
    body = conv_body().eval()

    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.last = body, linear()

        def forward(self, x):
            features = self.body(x)
            return features, self.last(features.mean((2, 3))), features.mean((2, 3))

    net, x = Many().eval(), torch.randn(2, 3, 16, 24)
    path = export(net, x, tmp_path / "many.onnx", output_names=["features", "scores", "vector"])
    found = Explainer(path, method="eigencam")(x.numpy())
    np.testing.assert_allclose(found.logits, net(x)[1].detach().numpy(), atol=1e-5)
    path = export(net, x, tmp_path / "named.onnx", output_names=["features", "vector", "logits"])
    found = Explainer(path, method="eigencam")(x.numpy())
    np.testing.assert_allclose(found.logits, net(x)[2].detach().numpy(), atol=1e-5)
    path = export(Net(body, nn.ReLU()), x, tmp_path / "none.onnx")
    with pytest.raises(ModelError, match=r"none of its outputs is of shape \(pictures, classes\): \S+ tensor\(float\)"):
        cl.open_model(path)


def test_a_network_without_places_has_black_box_methods_alone(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 24, 4))
    x = torch.randn(2, 3, 16, 24)
    model = cl.open_model(export(net, x, tmp_path / "flat.onnx"))
    with pytest.raises(FeaturesNotFoundError, match=r"no spatial features lead to its logits .*: rise or occlusion"):
        Explainer(model, method="eigencam")(x.numpy())
    explainer = Explainer(model, method=partial(occlusion, window=4, stride=4))
    found = explainer(x.numpy(), [1])
    parts = net[1].weight[1].detach().reshape(3, 16, 24) * x  # what each window takes away from a linear score
    wanted = parts.sum(1).unfold(1, 4, 4).unfold(2, 4, 4).sum((3, 4))
    np.testing.assert_allclose(found.maps[:, 0], wanted, atol=1e-4)
    assert found.origin.features == "not looked at"
    with pytest.raises(FeaturesNotFoundError):
        explainer.runner.facts(x.numpy())


def test_what_is_known_of_it(tmp_path):
    case = BY_NAME["softmax_inside"]
    x = case.batch(1, torch.float32)
    model = cl.open_model(export(case.net(torch.float32), x, tmp_path / "net.onnx"))
    runner = Explainer(model, method="eigencam").runner
    facts = runner.facts(x.numpy())
    assert (facts.grid, facts.classes, facts.activation) == ((4, 6), 5, "softmax")
    assert facts.features.startswith("NCHW 6×4×6 ")
    np.testing.assert_allclose(runner.predict(x), case.net(torch.float32).head[:-1](case.net(torch.float32).body(x))
                               .detach(), atol=1e-5)  # fmt: skip
