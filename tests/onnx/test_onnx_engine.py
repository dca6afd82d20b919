"""ONNX graphs: where they run, in how many threads, what is missing, and where they are cut."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import camlucida as cl
from camlucida.errors import MissingExtraError, ModelError
from camlucida.explainer import Explainer
from camlucida.models.onnx_file import open_onnx
from nets import BY_NAME
from onnx_files import export

onnx = pytest.importorskip("onnx")
from camlucida.onnx.graph_cut import route_of, showing, sizes_read  # noqa: E402
from camlucida.onnx.session import available, open_session, providers_of  # noqa: E402

# --- threads and devices ----------------------------------------------------------------------------------------------


def test_threads_share_one_explainer(tmp_path):
    case = BY_NAME["gap_linear"]
    net = case.net(torch.float32)
    batches = [torch.randn(1 + i % 3, 3, 16, 24, generator=torch.Generator().manual_seed(i)).numpy() for i in range(12)]
    explainer = Explainer(export(net, torch.from_numpy(batches[0]), tmp_path / "net.onnx"), method="scorecam")
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda x: explainer(x, [0]), batches))
    plain = Explainer(net, method="scorecam")
    for one, x in zip(found, batches, strict=True):
        np.testing.assert_allclose(one.maps, plain(x, [0]).maps, atol=1e-4)


def test_cuts_are_shared_by_the_methods_of_a_model(tmp_path, monkeypatch):
    case = BY_NAME["gap_linear"]
    x = case.batch(2, torch.float32)
    model = cl.open_model(export(case.net(torch.float32), x, tmp_path / "net.onnx"))
    Explainer(model, method="fem")(x.numpy())
    monkeypatch.setattr(sys.modules["camlucida.onnx.onnx_pass"], "find_cut", lambda *_: pytest.fail("sought again"))
    Explainer(model, method="eigencam")(x[:1].numpy())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"providers": ["abacus"]}, r"there is no provider 'abacus'; this ONNX Runtime has .*cpu"),
        ({"providers": ["QNN"]}, r"provider 'QNN' is not in the installed ONNX Runtime, which has .*cpu"),
        ({"threads": 0}, r"threads: expected a whole number of at least 1, got 0"),
    ],
)
def test_providers_and_threads_that_cannot_be(asked, message):
    with pytest.raises(ModelError, match=message):
        cl.open_model("demo", **asked)


def test_a_provider_that_does_not_start(monkeypatch, tmp_path):
    """ONNX Runtime goes on with the CPU where a device's libraries are missing; that is not what was asked for."""
    import onnxruntime

    case = BY_NAME["gap_linear"]
    content = export(case.net(torch.float32), case.batch(1, torch.float32), tmp_path / "n.onnx").read_bytes()
    real = onnxruntime.InferenceSession
    here = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: here)

    def session(data, options, providers):
        return real(data, options, providers=here[1:])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    assert providers_of(["cuda"]) == here
    with pytest.raises(ModelError, match=r"provider 'cuda' did not start; .* \(running without it: cpu\)"):
        open_session(content, "n", providers=["cuda"])


def test_names_of_providers(monkeypatch):
    import onnxruntime

    here = ["DmlExecutionProvider", "CoreMLExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: here)
    assert available() == ("dml", "coreml", "cpu")
    assert providers_of(["DirectML"]) == ["DmlExecutionProvider", "CPUExecutionProvider"]
    assert providers_of(["coremlexecutionprovider", "cpu"]) == ["CoreMLExecutionProvider", "CPUExecutionProvider"]


def test_threads_are_those_asked_for(monkeypatch, tmp_path):
    import onnxruntime

    seen = []
    real = onnxruntime.InferenceSession

    def session(data, options, providers):
        seen.append((options.intra_op_num_threads, providers))
        return real(data, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    case = BY_NAME["gap_linear"]
    x = case.batch(1, torch.float32)
    model = open_onnx(str(export(case.net(torch.float32), x, tmp_path / "n.onnx")), providers=["cpu"], threads=3)
    Explainer(model, method="fem")(x.numpy())
    assert len(seen) > 2  # the file, and its parts
    assert set(map(str, seen)) == {"(3, ['CPUExecutionProvider'])"}


def test_torch_models_have_no_providers():
    with pytest.raises(ModelError, match=r"Linear: providers and threads are chosen for ONNX models"):
        cl.open_model(nn.Linear(2, 2), threads=2)
    with pytest.raises(ModelError, match=r"net.py:f: providers and threads are chosen for ONNX models"):
        cl.open_model("net.py:f", providers=["cuda"])


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("package", "extra"), [("torch", "torch"), ("onnx", "export")])
def test_packages_that_are_not_installed(package, extra):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import camlucida as cl\n"
        "print(cl.explain(cl.sample()).names[0][0])\n"
        "try: cl.explain(cl.sample(), method='rise')\n"
        "except cl.CamlucidaError as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    name = {"torch": "PyTorch"}.get(package, package)
    assert done.stdout.splitlines() == ["cat", f"MissingExtraError this needs {name}: pip install 'camlucida[{extra}]'"]
    assert issubclass(MissingExtraError, cl.CamlucidaError)


# --- cutting ----------------------------------------------------------------------------------------------------------


def hand_made(*nodes, outputs=("out",), constants=()):
    from onnx import TensorProto, helper

    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 6])]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph([helper.make_node(*node) for node in nodes], "g", given, made, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def test_bottlenecks_of_a_graph_with_a_branch_and_a_shape():
    content = hand_made(
        ("Relu", ["x"], ["a"]),
        ("Sigmoid", ["a"], ["gate"]),
        ("Mul", ["a", "gate"], ["b"]),
        ("GlobalAveragePool", ["b"], ["c"]),
        ("Shape", ["c"], ["size"]),  # of a value, but no number of it
        ("Reshape", ["c", "size"], ["d"]),
        ("Relu", ["x"], ["unread"]),
        ("Softmax", ["d"], ["p"]),
        ("Identity", ["p"], ["out"]),
    )
    route = route_of(content, "g", "x", "out")
    assert (route.logits, route.activation) == ("d", "softmax")
    assert route.bottlenecks() == ("a", "b", "c", "d")
    assert sizes_read(route, "b") == ("size",)
    assert route.only_views_between("c", "d")
    assert not route.only_views_between("b", "c")
    parts = onnx.load_model_from_string(showing(route, ["b"]))
    assert [node.op_type for node in parts.graph.node] == ["Relu", "Sigmoid", "Mul"]


def test_an_output_that_does_not_depend_on_the_pictures():
    content = hand_made(("Identity", ["k"], ["out"]), constants=[onnx.numpy_helper.from_array(np.ones((1, 2)), "k")])
    with pytest.raises(ModelError, match="g: its output out does not depend on its input"):
        route_of(content, "g", "x", "out")
