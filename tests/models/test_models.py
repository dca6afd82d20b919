"""Opening models: names and messages, modules, files, ONNX graphs made by hand, and Hugging Face networks."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from camlucida.errors import CamlucidaError, MethodError, ModelError, TargetError
from camlucida.explainer import Explainer
from camlucida.images.preprocess import Preprocess
from camlucida.models import SOURCES, Model, open_model
from camlucida.onnx.session import OnnxSession
from camlucida.runners.onnx_maps import OnnxRunner
from camlucida.targets import Contrast

CLASSES, CHANNELS = 3, 2


@pytest.mark.parametrize(
    ("name", "opener"),
    [
        ("demo", "open_demo"),
        ("timm:resnet50.a1_in1k", "open_timm"),
        ("torchvision:resnet50", "open_torchvision"),
        ("hf:microsoft/resnet-50", "open_hf"),
        ("nets/my.py:make", "open_file"),
        ("maps.onnx", "open_onnx"),
        ("resnet50", None),
        ("demo2", None),
        ("", None),
    ],
)
def test_names_are_claimed_by_one_source(name, opener):
    claimed = [source.opener.partition(":")[2] for source in SOURCES if source.claims(name)]
    assert claimed == ([opener] if opener else [])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet50", r"^resnet50: no such kind of model; expected one of demo, timm:NAME, .*FILE.onnx"),
        (7, r"^model: expected an nn.Module or one of demo, .*; got <class 'int'>"),
        ("absent.onnx", r"^absent.onnx: no such file"),
        ("absent.py:make", r"^absent.py: no such file; expected file.py:function"),
    ],
)
def test_messages_about_names(model, message):
    with pytest.raises(ModelError, match=message) as caught:
        open_model(model)
    assert "\n" not in str(caught.value)


def test_an_opened_model_is_taken_as_it_is():
    model = Model("mine", lambda method, layer: None, Preprocess((8, 8)))
    assert open_model(model) is model


# --- ONNX graphs made by hand ---------------------------------------------------------------------------------------


def graph(
    path, *, outputs=("logits", "maps", "bias"), inputs=1, metadata=None, size=(4, 6), classes=CLASSES, external=None
):
    """relu(picture's first two channels) -> mean -> linear, with its maps, as an ONNX file. Returns weight and bias."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    weight = rng.normal(size=(classes, CHANNELS)).astype(np.float32)
    bias = rng.normal(size=classes).astype(np.float32)
    cells = float(size[0] * size[1]) if all(isinstance(side, int) for side in size) else 24.0
    constants = {
        "weight": weight, "shared": weight.T.copy() / np.float32(cells), "offset": bias,
        "from": np.array([0], np.int64), "to": np.array([CHANNELS], np.int64), "channels": np.array([1], np.int64),
        "space": np.array([2, 3], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Slice", ["pictures", "from", "to", "channels"], ["kept"]),
        helper.make_node("Relu", ["kept"], ["features"]),
        helper.make_node("Transpose", ["features"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["last", "shared"], ["spread"]),
        helper.make_node("Transpose", ["spread"], ["maps"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceSum", ["maps", "space"], ["sums"], keepdims=0),
        helper.make_node("Add", ["sums", "offset"], ["logits"]),
        helper.make_node("Identity", ["offset"], ["bias"]),
    ]
    shapes = {"logits": ["n", classes], "maps": ["n", classes, *size], "bias": [classes]}

    def tensor(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    given = [tensor(f"picture{i or 's'}", ["n", 3, *size]) for i in range(inputs)]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "tiny", given, [tensor(name, shapes[name]) for name in outputs], stored)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata or {})
    if external:
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=0)
    else:
        onnx.save(model, path)
    return weight, bias


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.onnx"
    weight, bias = graph(path)
    return path, weight, bias


def batch(size=2):
    return np.random.default_rng(4).normal(size=(size, 3, 4, 6)).astype(np.float32)


def wanted(x, weight, bias):
    """Maps and logits, class by class and cell by cell."""
    features = np.maximum(x[:, :CHANNELS].astype(np.float64), 0)
    maps = np.zeros((len(x), len(weight), *x.shape[2:]))
    for b, c, k in np.ndindex(len(x), len(weight), CHANNELS):
        maps[b, c] += weight[c, k] * features[b, k] / 24
    return maps, maps.sum((2, 3)) + bias


def test_an_onnx_files_maps_are_exact_and_of_the_asked_classes(tiny):
    path, weight, bias = tiny
    maps, logits = wanted(batch(), weight, bias)
    explainer = Explainer(path)
    ex = explainer(batch(), "all")
    np.testing.assert_allclose(ex.maps, maps, atol=1e-6)
    np.testing.assert_allclose(ex.logits, logits, atol=1e-6)
    np.testing.assert_allclose(ex.bias, np.tile(bias, (2, 1)), atol=1e-7)
    assert ex.residual.max() < 1e-5
    assert ex.origin.model == str(path)
    order = np.argsort(-logits, 1)
    top = explainer(batch(), 2)
    assert top.classes.tolist() == order[:, :2].tolist()
    for b, t in np.ndindex(2, 2):
        np.testing.assert_allclose(top.maps[b, t], maps[b, order[b, t]], atol=1e-6)
    own = explainer(batch(), np.array([[2], [0]]))
    np.testing.assert_allclose(own.maps[:, 0], maps[[0, 1], [2, 0]], atol=1e-6)


@pytest.mark.parametrize("score", ["contrast", "callable", "list"])
def test_an_onnx_files_maps_of_linear_scores_are_combined(tiny, score):
    path, weight, bias = tiny
    maps, logits = wanted(batch(), weight, bias)
    ask = {"contrast": Contrast(2, 0), "callable": lambda z: z[:, 2] - z[:, 0] + 0.5, "list": [Contrast(2, 0), 1]}[
        score
    ]
    ex = Explainer(path)(batch(), ask)
    shift = 0.5 if score == "callable" else 0
    np.testing.assert_allclose(ex.maps[:, 0], maps[:, 2] - maps[:, 0], atol=1e-6)
    np.testing.assert_allclose(ex.bias[:, 0], bias[2] - bias[0] + shift, atol=1e-6)
    np.testing.assert_allclose(ex.scores[:, 0], logits[:, 2] - logits[:, 0] + shift, atol=1e-6)
    assert ex.residual.max() < 1e-5
    if score == "list":
        np.testing.assert_allclose(ex.maps[:, 1], maps[:, 1], atol=1e-6)


def test_an_onnx_model_gives_its_scores_numpy_arrays_whether_torch_is_loaded_or_not(tiny):
    pytest.importorskip("torch")
    path, weight, bias = tiny
    seen = []

    def score(logits):
        seen.append(type(logits))
        return np.einsum("bk->b", logits)

    ex = Explainer(path)(batch(), score)
    maps, _ = wanted(batch(), weight, bias)
    np.testing.assert_allclose(ex.maps[:, 0], maps.sum(1), atol=1e-6)
    assert set(seen) == {np.ndarray}


def test_an_onnx_file_cannot_explain_curved_scores(tiny):
    path, _, _ = tiny
    with pytest.raises(
        TargetError, match=r"tiny.onnx: the score is not linear in the logits; an ONNX model has no gradients"
    ):
        Explainer(path)(batch(), lambda logits: np.exp(logits)[:, 0])


def test_a_single_onnx_logit_is_two_classes(tmp_path):
    weight, bias = graph(tmp_path / "one.onnx", classes=1)
    maps, logits = wanted(batch(), weight, bias)
    ex = Explainer(tmp_path / "one.onnx")(batch(), "all")
    np.testing.assert_allclose(ex.maps, np.concatenate((-maps, maps), 1), atol=1e-6)
    np.testing.assert_allclose(ex.scores, np.concatenate((-logits, logits), 1), atol=1e-6)
    np.testing.assert_allclose(ex.probabilities.sum(1), 1, atol=1e-6)
    assert ex.residual.max() < 1e-5


def test_an_onnx_files_metadata(tmp_path):
    path = tmp_path / "told.onnx"
    fields = {"size_hw": [4, 6], "fit": "stretch", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    graph(
        path, metadata={"labels": json.dumps(["ant", "bee", "cat"]), "preprocess": json.dumps(fields), "head": "affine"}
    )
    model = open_model(path)
    assert model.class_names == ("ant", "bee", "cat")
    assert model.preprocess == Preprocess((4, 6), "stretch", mean=(0.5,) * 3, std=(0.25,) * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    ex = Explainer(path)(pixels, "bee")
    assert ex.names == (("bee",),)
    assert (ex.origin.head, ex.grid, ex.heatmap().shape) == ("affine", (4, 6), (12, 9))
    direct = Explainer(path)(model.preprocess(pixels)[0][None], "bee")
    np.testing.assert_array_equal(ex.maps, direct.maps)


def test_an_onnx_file_of_any_size_takes_the_usual_preprocessing(tmp_path):
    graph(tmp_path / "any.onnx", size=("h", "w"))
    assert open_model(tmp_path / "any.onnx").preprocess.size_hw == (224, 224)
    ex = Explainer(tmp_path / "any.onnx")(np.ones((1, 3, 5, 7), np.float32))
    assert ex.grid == (5, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"outputs": ("logits", "maps")},
            r"bad.onnx: has outputs logits, maps, but not logits, maps and bias; .*with_maps",
        ),
        ({"outputs": ("maps",)}, r"has outputs maps, but not logits, maps and bias"),
        ({"outputs": ("bias",)}, r"none of its outputs is of shape \(pictures, classes\): bias tensor\(float\) \[3\]"),
        ({"inputs": 2}, r"expected one input of pictures, got pictures, picture1"),
    ],
)
def test_an_onnx_file_that_does_not_fit_is_refused(tmp_path, options, message):
    graph(tmp_path / "bad.onnx", **options)
    with pytest.raises(ModelError, match=message) as caught:
        open_model(tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x09" * 500, b"PK\x03\x04" + bytes(200)])
def test_what_is_no_onnx_is_refused(tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bad.onnx: (not a readable ONNX model \(|has outputs )") as caught:
        open_model(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="no such file"):
        open_model(f"{tmp_path}.onnx")


@pytest.mark.parametrize("part", [0.3, 0.9, 0.99])
def test_a_cut_onnx_file_is_refused(tiny, part):
    path, _, _ = tiny
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ModelError, match=r"tiny.onnx: "):
        open_model(path)


def test_the_wrong_input_is_a_model_error(tiny):
    runner = OnnxRunner(OnnxSession(tiny[0].read_bytes(), "tiny"))
    with pytest.raises(ModelError, match=r"tiny: failed on input \(2, 3, 9, 9\)"):
        runner.explain(np.zeros((2, 3, 9, 9), np.float32), 1, None)


def test_methods_and_layers_that_an_onnx_file_cannot_have(tiny):
    with pytest.raises(MethodError, match=r"an ONNX model has no layers to choose; leave layer out"):
        Explainer(tiny[0], layer="layer4")
    with pytest.raises(MethodError, match=r"there is no method 'camm'; did you mean cam"):
        Explainer(tiny[0], method="camm")

    def own(passed, targets):
        return passed.gradients(targets.of)

    with pytest.raises(MethodError, match=r"own needs a network's gradients .*, which an ONNX file does not offer"):
        Explainer(tiny[0], method=own)(batch())


# --- Modules and files ----------------------------------------------------------------------------------------------


def test_a_module_brings_its_labels_and_preprocessing():
    torch = pytest.importorskip("torch")
    from camlucida.models.torch_module import IMAGENET_224

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    assert open_model(net).preprocess == IMAGENET_224
    assert open_model(net).class_names is None
    net.pretrained_cfg = {
        "input_size": (3, 32, 48), "crop_pct": 0.8, "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.25,) * 3,
        "crop_mode": "border",
    }  # fmt: skip
    net.config = SimpleNamespace(id2label={"0": "ant", 1: "bee", 2: "cat"})
    model = open_model(net)
    assert model.name == "Sequential"
    assert model.class_names == ("ant", "bee", "cat")
    assert model.preprocess == Preprocess((32, 48), "pad", 0.8, "bicubic", (0.5,) * 3, (0.25,) * 3)


SOURCE = """
import torch
from torch import nn
LAYERS = [nn.Conv2d(3, 4, 3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]
def make():
    return nn.Sequential(*LAYERS).eval()
def fails():
    raise OSError("two\\nlines")
def wrong():
    return 7
"""


def test_a_function_in_a_file_makes_a_model(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "own.py").write_text(SOURCE)
    ex = Explainer(f"{tmp_path}/own.py:make")(np.ones((1, 3, 8, 8), np.float32), "all")
    assert ex.grid == (2, 2)
    assert ex.residual.max() < 1e-5
    assert ex.origin.model == f"{tmp_path}/own.py:make"


@pytest.mark.parametrize(
    ("source", "function", "message"),
    [
        (SOURCE, "absent", r"own.py: has no function 'absent' that returns an nn.Module"),
        (SOURCE, "LAYERS", r"own.py: has no function 'LAYERS'"),
        (SOURCE, "fails", r"own.py:fails: failed with OSError: two$"),
        (SOURCE, "wrong", r"own.py:wrong: returned int, expected an nn.Module"),
        ("def broken(:", "broken", r"own.py:broken: failed with SyntaxError"),
        (
            "import absent_package",
            "make",
            r"own.py:make: failed with ModuleNotFoundError: No module named 'absent_package'",
        ),
    ],
)
def test_messages_about_files(tmp_path, source, function, message):
    pytest.importorskip("torch")
    (tmp_path / "own.py").write_text(source)
    with pytest.raises(ModelError, match=message) as caught:
        open_model(f"{tmp_path}/own.py:{function}")
    assert "\n" not in str(caught.value)


def test_pictures_of_whole_numbers_in_a_tensor_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(CamlucidaError, match=r"Tensor: not a picture; expected .* or a float tensor B×C×H×W"):
        Explainer(torch.nn.Conv2d(3, 4, 3))(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_table_of_classes_needs_a_row_for_each_picture(tiny, rows):
    pixels = [np.zeros((4, 6, 3), np.uint8)] * 2
    with pytest.raises(TargetError, match=r"classes: expected .*got .*\b" + str(rows)):
        Explainer(tiny[0])(pixels, np.zeros((rows, 1), int))


def test_a_table_of_classes_follows_the_pictures_over_batches(tiny):
    pixels = list(np.random.default_rng(0).integers(0, 256, (35, 4, 6, 3), np.uint8))
    table = np.random.default_rng(1).integers(0, CLASSES, (35, 2))
    ex = Explainer(tiny[0], preprocess=Preprocess((4, 6), "stretch"))(pixels, table)
    np.testing.assert_array_equal(ex.classes, table)
    every = Explainer(tiny[0], preprocess=Preprocess((4, 6), "stretch"))(pixels, "all")
    np.testing.assert_array_equal(ex.maps, np.take_along_axis(every.maps, table[:, :, None, None], 1))


# --- Hugging Face ---------------------------------------------------------------------------------------------------


@pytest.fixture
def transformers(monkeypatch):
    """transformers; where torchvision is absent or built for another torch, told that there is none: it needs none."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        monkeypatch.setitem(sys.modules, "torchvision", None)
        clear = getattr(transformers.utils.is_torchvision_available, "cache_clear", None)
        if clear is not None:
            clear()
    return transformers


def hugging_face(transformers, name):
    """A small network of random weights and a batch: (network, batch, its grid, kind of head)."""
    import torch

    torch.manual_seed(0)
    label = {"id2label": {i: f"label {i}" for i in range(5)}}
    small = {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_size": 20,
        "intermediate_size": 24,
        "image_size": 32,
    }
    try:
        if name == "vit":
            config = transformers.ViTConfig(**small, patch_size=8, **label)
            net = transformers.ViTForImageClassification(config)
            return net.eval(), torch.randn(2, 3, 32, 32), (4, 4), "only class tokens"
        if name == "resnet":
            config = transformers.ResNetConfig(
                embedding_size=6, hidden_sizes=[6, 8], depths=[1, 1], layer_type="basic", **label
            )
            return (
                transformers.ResNetForImageClassification(config).eval(),
                torch.randn(2, 3, 32, 48),
                (4, 6),
                "affine after",
            )
        config = transformers.ConvNextConfig(hidden_sizes=[6, 8], depths=[1, 1], num_stages=2, **label)
        return (
            transformers.ConvNextForImageClassification(config).eval(),
            torch.randn(2, 3, 32, 48),
            (4, 6),
            "affine once",
        )
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"transformers cannot build {name} here: {str(error).partition(chr(10))[0]}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["vit", "resnet", "convnext"])
def test_hugging_face_networks(transformers, name):
    import torch

    net, x, grid, kind = hugging_face(transformers, name)
    ex = Explainer(net)(x, "all")
    with torch.no_grad():
        output = net(x)
    np.testing.assert_allclose(ex.logits, output.logits.numpy(), atol=1e-6)
    assert ex.grid == grid
    assert ex.origin.head.startswith(kind)
    assert ex.names[0] == tuple(f"label {i}" for i in range(5))
    assert dataclasses.is_dataclass(output)
    if name == "vit":
        assert np.isfinite(ex.residual).all()
        return
    assert ex.residual.max() < 1e-5
    with torch.no_grad():
        spatial = net(x, output_hidden_states=True).hidden_states[-1]
    features = spatial.double().numpy()
    head = net.classifier[-1] if name == "resnet" else net.classifier
    weight, bias = head.weight.detach().double().numpy(), head.bias.detach().double().numpy()
    for b in range(2):
        rows = weight
        shift = bias
        if name == "convnext":
            norm = net.convnext.layernorm
            pooled = features[b].mean((1, 2))
            scale = norm.weight.detach().numpy() / np.sqrt(pooled.var() + norm.eps)
            rows = (weight * scale) @ (np.eye(8) - 1 / 8)
            shift = bias + weight @ norm.bias.detach().double().numpy()
        maps = np.einsum("kc,cyx->kyx", rows, features[b]) / 24
        np.testing.assert_allclose(ex.maps[b], maps, atol=1e-5 * np.abs(maps).max())
        np.testing.assert_allclose(ex.bias[b], shift, atol=1e-5)
