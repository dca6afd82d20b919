"""The whole way: a source in, a checked file out, opened again; and nothing left where it fails."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

onnx = pytest.importorskip("onnx")

import typer  # noqa: E402
from classifiers import (  # noqa: E402
    BIAS,
    HEADS,
    TRUNK,
    WEIGHT,
    H,
    K,
    Maker,
    W,
    classifier,
    pictures,
    pooled_rows,
    trunk,
    wanted,
)

import camlucida as cl  # noqa: E402
from camlucida.cli.export import export as command  # noqa: E402
from camlucida.errors import ExportError, MissingExtraError, ModelError, OutputError, TargetError  # noqa: E402
from camlucida.export import writing as save  # noqa: E402
from camlucida.export.emit import Emitter  # noqa: E402
from camlucida.export.exporting import ExportOptions, export  # noqa: E402
from camlucida.export.surgery import AFFINE  # noqa: E402
from camlucida.images.preprocess import Preprocess  # noqa: E402
from camlucida.models import open_model  # noqa: E402
from camlucida.onnx import load  # noqa: E402
from camlucida.onnx.metadata import Metadata  # noqa: E402
from onnx import TensorProto  # noqa: E402

NAMES = ("ant", "bee", "cat", "dog", "elk")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(classifier("gemm").SerializeToString())
    return path


def close(a: np.ndarray, b: np.ndarray, share: float = 1e-5) -> None:
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= share * np.ptp(b)


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_opens_as_a_model_and_explains(source: Path, tmp_path: Path):
    before = source.read_bytes()
    options = ExportOptions(class_names=NAMES, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
    made = export(source, tmp_path / "cam.onnx", options)
    assert source.read_bytes() == before
    assert listed(tmp_path) == ["cam.onnx", "net.onnx"]
    assert made.check.residual <= 1e-6
    assert made.check.change <= 1e-6
    assert made.check.tolerance == 1e-4
    assert made.parity is None
    assert made.notes == ()
    assert made.bytes_added == (tmp_path / "cam.onnx").stat().st_size - len(before)
    model = open_model(tmp_path / "cam.onnx")
    assert model.class_names == NAMES
    assert model.preprocess == Preprocess(
        (2 * H, 2 * W), crop_fraction=0.875, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3)
    )
    ex = cl.explain(cl.sample(), model, classes="all")
    assert ex.residual.max() <= 1e-5
    assert ex.origin.head == AFFINE
    assert ex.origin.features == f"NCHW 6×{H}×{W}"
    prepared = model.preprocess(cl.sample().pixels)[0][None]
    close(ex.maps, wanted("gemm", prepared)[1])


def test_what_travels_in_the_file(source: Path, tmp_path: Path):
    model = onnx.load(source)
    onnx.helper.set_model_props(model, {"author": "somebody", "method": "old", "labels": json.dumps(NAMES)})
    onnx.save(model, source)
    export(source, tmp_path / "cam.onnx")
    held = {one.key: one.value for one in onnx.load(tmp_path / "cam.onnx").metadata_props}
    assert held == {
        "author": "somebody", "method": "cam", "labels": json.dumps(NAMES), "head": AFFINE,
        "features": f"NCHW 6×{H}×{W}", "camlucida": cl.__version__,
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }  # fmt: skip


def test_preprocessing_and_labels_of_a_file_with_them_stay(source: Path, tmp_path: Path):
    export(source, tmp_path / "first.onnx", ExportOptions(class_names=NAMES, mean=(0.5,) * 3, std=(0.25,) * 3))
    model = onnx.load(tmp_path / "first.onnx")
    del model.graph.output[1:]
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = {"logits": "scored", "maps": "mapped", "bias": "biased"}.get(name, name)
    onnx.save(model, tmp_path / "told.onnx")
    made = export(tmp_path / "told.onnx", tmp_path / "second.onnx")
    assert made.notes == ()
    first, second = open_model(tmp_path / "first.onnx"), open_model(tmp_path / "second.onnx")
    assert (first.class_names, first.preprocess) == (second.class_names, second.preprocess)


def test_what_is_unknown_is_told(source: Path, tmp_path: Path):
    made = export(source, tmp_path / "cam.onnx")
    assert made.notes == (
        "the names of its classes are unknown; give them with --labels",
        "its preprocessing is unknown, and RGB, 0 to 1, ImageNet's mean and std is taken; give --size, --mean, --std, "
        "--scale, --bgr",
    )


def test_the_activation_travels(tmp_path: Path):
    make = Maker()
    make("Sigmoid", HEADS["gemm"][0](make, trunk(make)), out="probabilities")
    onnx.save(make.model({"probabilities": ["N", K]}), tmp_path / "net.onnx")
    export(tmp_path / "net.onnx", tmp_path / "cam.onnx")
    assert open_model(tmp_path / "cam.onnx").activation == "sigmoid"
    ex = cl.explain(cl.sample(), tmp_path / "cam.onnx")
    assert ex.origin.activation == "sigmoid"
    model = onnx.load(tmp_path / "cam.onnx")
    onnx.helper.set_model_props(model, {"activation": "sofmax"})
    onnx.save(model, tmp_path / "bad.onnx")
    assert "its metadata 'activation' is none of softmax, sigmoid, none" in open_model(tmp_path / "bad.onnx").note


def test_a_calibration_travels(source: Path, tmp_path: Path):
    export(source, tmp_path / "cam.onnx")
    model = onnx.load(tmp_path / "cam.onnx")
    told = {"normalization": "ivr", "percentile": 40.0, "threshold": 0.25}
    for value, threshold in ((told, 0.25), ({"threshold": "high"}, None), ([1], None)):
        onnx.helper.set_model_props(model, {"calibration": json.dumps(value)})
        onnx.save(model, tmp_path / "told.onnx")
        if threshold is None:
            told = open_model(tmp_path / "told.onnx")
            assert told.calibration is None
            assert "its metadata 'calibration' does not say how boxes are made" in told.note
        else:
            assert open_model(tmp_path / "told.onnx").calibration.threshold == threshold


def test_the_demonstration_model_without_its_maps_gets_them_back(tmp_path: Path):
    """A trained network and a real picture: the maps that PyTorch's export had, found again by surgery."""
    model = onnx.load(Path(cl.__file__).parent / "models" / "demo.onnx")
    kept = [output for output in model.graph.output if output.name == "logits"]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    wanted_nodes, needed = [], {"logits"}
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            wanted_nodes.insert(0, node)
            needed.update(node.input)
    del model.graph.node[:]
    model.graph.node.extend(wanted_nodes)
    onnx.save(model, tmp_path / "plain.onnx")
    made = export(tmp_path / "plain.onnx", tmp_path / "cam.onnx")
    assert made.notes == ()
    assert made.check.tolerance == 1e-4  # its weights are stored in half precision, but used in whole
    demo, ours = (cl.explain(cl.sample(), name, classes=5) for name in (None, tmp_path / "cam.onnx"))
    assert ours.names == demo.names
    assert ours.names[0][0] == "cat"
    close(ours.maps, demo.maps)
    assert all(map(np.array_equal, ours.boxes()[0], demo.boxes()[0]))


# --- The likeliest classes alone --------------------------------------------------------------------------------------


def test_a_file_of_the_likeliest_classes_explains_those(source: Path, tmp_path: Path):
    export(source, tmp_path / "all.onnx", ExportOptions(class_names=NAMES))
    export(source, tmp_path / "top.onnx", ExportOptions(class_names=NAMES, top=3))
    batch = pictures(4)
    for classes in (1, 2, 3):
        every = cl.explain(batch, tmp_path / "all.onnx", classes=classes)
        some = cl.explain(batch, tmp_path / "top.onnx", classes=classes)
        for field in ("logits", "classes", "scores", "bias"):
            assert np.array_equal(getattr(every, field), getattr(some, field)), field
        close(some.maps, every.maps, 1e-6)
        assert some.names == every.names
        assert some.residual.max() < 1e-5
    likeliest = NAMES[int(every.logits[0].argmax())]
    assert cl.explain(batch[:1], tmp_path / "top.onnx", classes=[likeliest]).names == ((likeliest,),)
    least = int(every.logits[0].argmin())
    for classes in ([least], "all", 4, cl.Contrast(0, 1)):
        with pytest.raises(TargetError, match=r"has maps of each picture's 3 likeliest classes alone, and others were"):
            cl.explain(batch[:1], tmp_path / "top.onnx", classes=classes)


def test_the_likeliest_of_a_single_logit_is_that_one(tmp_path: Path):
    make = Maker()
    make("Gemm", pooled_rows(make, trunk(make)), WEIGHT[:1], BIAS[:1], transB=1, out="yes")
    onnx.save(make.model({"yes": ["N", 1]}), tmp_path / "net.onnx")
    export(tmp_path / "net.onnx", tmp_path / "cam.onnx", ExportOptions(top=1, class_names=("no", "yes")))
    ex = cl.explain(pictures(2), tmp_path / "cam.onnx", classes=["no", "yes"])
    close(ex.maps[:, 1:], wanted("gemm", pictures(2))[1][:, :1])
    assert np.array_equal(ex.maps[:, 0], -ex.maps[:, 1])
    assert ex.residual.max() < 1e-5


# --- Large and divided models -----------------------------------------------------------------------------------------


def divided(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(classifier("gemm"), folder / "net.onnx", save_as_external_data=True, location="sub.bin", size_threshold=0)
    return folder / "net.onnx"


def test_external_data_are_taken_in(tmp_path: Path):
    made = export(divided(tmp_path / "in"), tmp_path / "cam.onnx")
    assert listed(tmp_path) == ["cam.onnx", "in"]
    batch = pictures(2)
    close(cl.explain(batch, made.path, classes="all").maps, wanted("gemm", batch)[1])


def test_external_data_too_large_for_one_file_stay_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = divided(tmp_path / "in")
    monkeypatch.setattr(load, "LARGEST", path.stat().st_size + 100)  # the weights do not fit with the graph
    (tmp_path / "out").mkdir()
    made = export(path, tmp_path / "out" / "cam.onnx", ExportOptions(top=2, boxes=0.2))
    assert listed(tmp_path / "out") == ["cam.onnx", "cam.onnx.data"]
    session = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"])
    batch = pictures(2)
    logits, maps, ids = session.run(["logits", "maps", "top_ids"], {"pictures": batch})
    close(logits, wanted("gemm", batch)[0])
    close(maps, np.take_along_axis(wanted("gemm", batch)[1], ids[:, :, None, None], 1))
    assert {one.external_data[0].value for one in onnx.load(made.path, load_external_data=False).graph.initializer
            if one.external_data} == {"cam.onnx.data"}  # fmt: skip
    close(cl.explain(batch, made.path, classes=2).logits, logits)  # and are followed there


def test_half_precision_and_channels_last_files_explain_pictures(tmp_path: Path):
    make = Maker(17, TensorProto.FLOAT16)
    x = trunk(make, make("Transpose", "pictures", perm=[0, 3, 1, 2]))
    onnx.save(make.model({HEADS["gemm"][0](make, x): ["N", K]}, ("N", 2 * H, 2 * W, 3)), tmp_path / "net.onnx")
    made = export(tmp_path / "net.onnx", tmp_path / "cam.onnx")
    assert made.check.tolerance == 2e-2
    assert made.check.residual < 3e-3
    batch = pictures(2)
    close(cl.explain(batch, tmp_path / "cam.onnx", classes="all").maps, wanted("gemm", batch)[1], 1e-2)


# --- Nothing is written where something is wrong ----------------------------------------------------------------------


def test_maps_that_do_not_add_up_are_not_written(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The comparison can fail: with the weight of another class in the graph, it does."""
    right = Emitter._weight

    def wrong(self: Emitter, one: Any, ids: str | None) -> str:
        return self.build.node("Neg", [right(self, one, ids)])

    monkeypatch.setattr(Emitter, "_weight", wrong)
    with pytest.raises(
        ExportError, match=r"net.onnx: its maps miss the logits by .* of their spread \(allowed: 1e-04\)"
    ):
        export(source, tmp_path / "cam.onnx")
    assert listed(tmp_path) == ["net.onnx"]


def test_outputs_that_change_are_not_written(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from camlucida.export import exporting

    right = exporting.add_maps

    def wrong(*given: Any, **named: Any) -> Any:
        new, facts = right(*given, **named)
        for one in new.graph.initializer:
            if list(one.dims) == [K]:
                one.raw_data = (2 * BIAS).tobytes()
        return new, facts

    monkeypatch.setattr(exporting, "add_maps", wrong)
    with pytest.raises(ExportError, match=r"its outputs would change by .* of their spread"):
        export(source, tmp_path / "cam.onnx")
    assert listed(tmp_path) == ["net.onnx"]


def test_an_invalid_graph_is_not_written(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Emitter, "_weight", lambda *_: "nowhere")
    with pytest.raises(ExportError, match=r"net.onnx: the new graph is not valid \(.*please report it"):
        export(source, tmp_path / "cam.onnx")
    assert listed(tmp_path) == ["net.onnx"]


def test_the_old_result_stays_where_the_new_one_fails(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    export(source, tmp_path / "cam.onnx")
    before = (tmp_path / "cam.onnx").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save.Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"cam.onnx: cannot be written \(No space left on device\)"):
        export(source, tmp_path / "cam.onnx", ExportOptions(top=1))
    assert (tmp_path / "cam.onnx").read_bytes() == before
    assert listed(tmp_path) == ["cam.onnx", "net.onnx"]


@pytest.mark.parametrize(
    ("out", "options", "error", "message"),
    [
        ("cam.txt", ExportOptions(), OutputError, r"cam.txt: expected the name of a file that ends in .onnx"),
        ("gone/cam.onnx", ExportOptions(), OutputError, r"cam.onnx: its folder does not exist; make it first"),
        ("net.onnx", ExportOptions(), OutputError, r"net.onnx: is the source itself; choose another name"),
        ("folder.onnx", ExportOptions(), OutputError, r"folder.onnx: a folder, not a file"),
        ("cam.onnx", ExportOptions(mean=(0, 0, 0)), ExportError, r"mean and std belong together"),
        ("cam.onnx", ExportOptions(size_hw=(9, 9)), ExportError, r"takes pictures of 8×12 pixels, not 9×9"),
        (
            "cam.onnx",
            ExportOptions(size_hw=(0, 9)),
            ExportError,
            r"size: expected a height and width of 1 to 4096 pixels",
        ),
        ("cam.onnx", ExportOptions(class_names=("a", "b")), ExportError, r"has 5 classes, but 2 labels were given"),
        (
            "cam.onnx",
            ExportOptions(mean=(0, 0, 2), std=(1, 1, 1)),
            ModelError,
            r"expected mean a number for each channel, of -1 to 1",
        ),
        ("cam.onnx", ExportOptions(top=9), ExportError, r"has 5 classes, fewer than the 9 asked"),
    ],
)
def test_wishes_that_do_not_fit(
    source: Path, tmp_path: Path, out: str, options: ExportOptions, error: type[Exception], message: str
):
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(error, match=message):
        export(source, tmp_path / out, options)
    assert listed(tmp_path) == ["folder.onnx", "net.onnx"]


def test_without_onnx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    import sys

    for name in [name for name in sys.modules if name.startswith(("camlucida.onnx", "camlucida.export"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"this needs onnx: pip install 'camlucida\[export\]'"):
        import camlucida.export.exporting  # noqa: F401


# --- From PyTorch -----------------------------------------------------------------------------------------------------

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1))
        self.norm, self.fc = nn.LayerNorm(16), nn.Linear(16, 7)

    def forward(self, x):
        return self.fc(self.norm(self.trunk(x).mean((2, 3))))

def normed():
    from dataclasses import replace
    from camlucida.boxes.calibration import Calibration
    from camlucida.models.torch_module import wrap

    torch.manual_seed(0)
    names = ("ant", "bee", "cat", "dog", "elk", "fly", "gnu")
    return replace(wrap(Net()), class_names=names, activation="sigmoid", calibration=Calibration(threshold=0.3))

def hidden():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8), nn.Hardswish(),
                         nn.Linear(8, 4))
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    pytest.importorskip("onnxscript")
    (tmp_path / "nets.py").write_text(NET)
    return f"{tmp_path}/nets.py"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_pytorch_model_comes_out_as_it_explains_itself(net: str, tmp_path: Path):
    torch = pytest.importorskip("torch")
    made = export(f"{net}:normed", tmp_path / "cam.onnx", ExportOptions(size_hw=(32, 40)))
    assert made.parity is not None
    assert made.parity <= 1e-5
    assert made.check.residual <= 1e-5
    assert listed(tmp_path) == ["cam.onnx", "nets.py"] or listed(tmp_path) == ["__pycache__", "cam.onnx", "nets.py"]
    batch = torch.randn(3, 3, 32, 40)
    ours = cl.explain(batch, f"{net}:normed", classes="all")
    theirs = cl.explain(batch, tmp_path / "cam.onnx", classes="all")
    close(theirs.maps, ours.maps, 1e-4)
    close(theirs.logits, ours.logits, 1e-4)
    model = open_model(tmp_path / "cam.onnx")
    assert model.preprocess.size_hw == (32, 40)
    assert model.class_names == (*NAMES, "fly", "gnu")
    assert model.activation == "sigmoid"
    assert model.calibration.threshold == 0.3
    assert [one.name for one in onnx.load(tmp_path / "cam.onnx").graph.output] == ["logits", "maps", "bias"]


def test_a_file_that_is_not_what_pytorch_gives_is_refused(source: Path, tmp_path: Path):
    """The comparison can fail: here with another network's file."""
    torch = pytest.importorskip("torch")
    from camlucida.export.torch_graph import TorchGraph

    made = export(source, tmp_path / "cam.onnx")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 2, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
                              torch.nn.Flatten(), torch.nn.Linear(6, K)).eval()  # fmt: skip
    both = cl.with_maps(net, torch.randn(2, 3, 2 * H, 2 * W))
    traced = TorchGraph(made.path, "net", both, Metadata(preprocess=Preprocess((2 * H, 2 * W))), "")
    with pytest.raises(
        ExportError, match=r"net: PyTorch and ONNX differ by .* of the logits' spread \(allowed: 1e-04\)"
    ):
        traced.compare(made.path, made.facts, None)
    net[0].weight.data, net[0].bias.data[:] = torch.from_numpy(TRUNK), 0
    net[4].weight.data, net[4].bias.data = torch.from_numpy(WEIGHT), torch.from_numpy(BIAS)
    both = cl.with_maps(net, torch.randn(2, 3, 2 * H, 2 * W))
    traced = TorchGraph(made.path, "net", both, Metadata(preprocess=Preprocess((2 * H, 2 * W))), "")
    assert traced.compare(made.path, made.facts, None) <= 1e-6


def test_local_functions_are_written_out(source: Path, tmp_path: Path):
    model = onnx.load(source)
    opsets = [onnx.helper.make_opsetid("", 17)]
    body = [onnx.helper.make_node("Neg", ["x"], ["m"]), onnx.helper.make_node("Relu", ["m"], ["y"])]
    model.functions.append(onnx.helper.make_function("local", "Rectified", ["x"], ["y"], body, opsets))
    model.opset_import.append(onnx.helper.make_opsetid("local", 1))
    relu = model.graph.node[1]
    relu.op_type, relu.domain = "Rectified", "local"
    onnx.save(model, source)
    made = export(source, tmp_path / "cam.onnx")
    assert made.check.residual <= 1e-6
    assert not onnx.load(made.path).functions


def test_a_pytorch_head_that_is_not_affine_is_refused(net: str, tmp_path: Path):
    with pytest.raises(ExportError, match=r"nets.py:hidden: with_maps needs an affine head; this one is not affine"):
        export(f"{net}:hidden", tmp_path / "cam.onnx")
    assert not (tmp_path / "cam.onnx").exists()


def test_what_is_no_pytorch_model_and_no_file(tmp_path: Path):
    with pytest.raises(ExportError, match=r"demo: no PyTorch model and no ONNX file, so there is nothing to export"):
        export("demo", tmp_path / "cam.onnx")
    with pytest.raises(ModelError, match=r"resnet50: no such kind of model"):
        export("resnet50", tmp_path / "cam.onnx")


# --- The command ------------------------------------------------------------------------------------------------------


def ran(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_the_command(source: Path, tmp_path: Path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n\n")
    out = tmp_path / "cam.onnx"
    done = ran(
        str(source), "-o", str(out), "--labels", str(tmp_path / "names.txt"), "--top", "2", "--upsample", "input",
        "--boxes", "0.2", "--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    for part in (
        "cam.onnx, +",
        "4×6, of the 2 likeliest classes",
        AFFINE,
        "GlobalAveragePool",
        "of the logits' spread",
    ):
        assert part in done.output
    assert open_model(out).class_names == NAMES
    outputs = [one.name for one in onnx.load(out).graph.output]
    assert outputs == ["scores", "top_ids", "logits", "maps", "bias", "heatmaps", "boxes"]
    done = ran(str(source), "-o", str(out), "--upsample", "16x24")
    assert "of all classes" in done.output
    assert [dim.dim_value for dim in onnx.load(out).graph.output[-1].type.tensor_type.shape.dim][1:] == [K, 16, 24]


@pytest.mark.parametrize(("option", "value"), [("--upsample", "big"), ("--size", "224"), ("--upsample", "1x2x3")])
def test_the_command_says_how_sizes_are_written(source: Path, tmp_path: Path, option: str, value: str):
    done = ran(str(source), "-o", str(tmp_path / "cam.onnx"), option, value)
    assert done.exit_code == 2
    assert f"{option}: expected HEIGHTxWIDTH" in done.output


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a\nb\n", ("a", "b")),
        ('["a", "b c"]', ("a", "b c")),
        ("\ufeffa\n\nb", ("a", "", "b")),
        (" ä \r\nb", ("ä", "b")),
    ],
)
def test_labels_are_read_from_lines_or_json(tmp_path: Path, text: str, names: tuple[str, ...]):
    from camlucida.export.class_names import read_class_names

    (tmp_path / "labels").write_bytes(text.encode())
    assert read_class_names(tmp_path / "labels") == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"labels: no such file; expected the classes' names"),
        (b"", r"labels: expected the classes' names, one a line or as a JSON list"),
        (b"\n \n", r"labels: expected the classes' names"),
        (b"[1, 2]", r"labels: expected the classes' names"),
        (b'["a"', r"labels: neither lines of UTF-8 text nor a JSON list of names"),
        (b"\xff\xfe\x00", r"labels: neither lines of UTF-8 text nor a JSON list"),
        (b"[" * 100000, r"labels: neither lines of UTF-8 text nor a JSON list"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, content: bytes | None, message: str):
    from camlucida.export.class_names import read_class_names

    if content is not None:
        (tmp_path / "labels").write_bytes(content)
    with pytest.raises(ExportError, match=message):
        read_class_names(tmp_path / "labels")
