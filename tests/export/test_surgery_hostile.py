"""Files made to do harm, or broken by accident: one line, nothing written, no memory taken."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from classifiers import Maker, classifier, pooled_rows, trunk  # noqa: E402

from camlucida.errors import ExportError  # noqa: E402
from camlucida.export.exporting import export  # noqa: E402
from camlucida.onnx import load  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Damage = Callable[[Any], None]


def weight_of(model: Any) -> Any:
    return next(one for one in model.graph.initializer if list(one.dims) == [5, 6])


def huge_dimensions(model: Any) -> None:
    one = weight_of(model)
    one.dims[:] = [10**6, 10**6]


def a_size_below_zero(model: Any) -> None:
    weight_of(model).dims[0] = -1


def another_size_than_its_data(model: Any) -> None:
    weight_of(model).dims[0] = 4


def another_size_than_its_numbers(model: Any) -> None:
    one = weight_of(model)
    values = numpy_helper.to_array(one).ravel()
    one.ClearField("raw_data")
    one.float_data.extend(values[:-1])


def an_unknown_type(model: Any) -> None:
    weight_of(model).data_type = 99


def a_missing_initializer(model: Any) -> None:
    kept = [one for one in model.graph.initializer if list(one.dims) != [5, 6]]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def a_cycle(model: Any) -> None:
    model.graph.node[0].input[0] = model.graph.node[1].output[0]


def a_name_given_twice(model: Any) -> None:
    model.graph.node[1].output[0] = model.graph.node[0].output[0]
    model.graph.node[2].input[0] = model.graph.node[0].output[0]


def an_unknown_operation(model: Any) -> None:
    model.graph.node[1].op_type = "Nonsense"


def an_operation_of_nobody(model: Any) -> None:
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def no_opset(model: Any) -> None:
    del model.opset_import[:]


def an_old_opset(model: Any) -> None:
    model.opset_import[0].version = 6


def a_future_opset(model: Any) -> None:
    model.opset_import[0].version = 999


def no_nodes(model: Any) -> None:
    del model.graph.node[:]


def a_tensor_that_would_fill_the_memory(model: Any) -> None:
    size = numpy_helper.from_array(np.array([10**6, 10**6], np.int64), "size")
    model.graph.initializer.append(size)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["zeros"]))


def a_picture_that_would_fill_the_memory(model: Any) -> None:
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 2**20


def sparse_weights(model: Any) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "where")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10**6]))


def weights_in_a_branch_of_another_size(model: Any) -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["inside"], ["out"])], "branch", [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [TensorProto(name="inside", data_type=TensorProto.FLOAT, dims=[10**12], raw_data=b"1234")],
    )  # fmt: skip
    always = numpy_helper.from_array(np.array(True), "always")
    model.graph.initializer.append(always)
    model.graph.node.append(helper.make_node("If", ["always"], ["branched"], then_branch=inner, else_branch=inner))


def functions_that_call_each_other(model: Any) -> None:
    for own, other in (("Ping", "Pong"), ("Pong", "Ping")):
        body = [helper.make_node(other, ["x"], ["y"], domain="local")]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
        model.functions.append(helper.make_function("local", own, ["x"], ["y"], body, opsets))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Ping", "local"


def functions_that_multiply(model: Any) -> None:
    """Forty functions, each of which calls the next twice."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for i in range(40):
        op, domain = (f"F{i + 1}", "local") if i < 39 else ("Relu", "")
        body = [helper.make_node(op, ["x"], ["m"], domain=domain), helper.make_node(op, ["m"], ["y"], domain=domain)]
        model.functions.append(helper.make_function("local", f"F{i}", ["x"], ["y"], body, opsets))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "F0", "local"


DAMAGES: list[tuple[Damage, str]] = [
    (huge_dimensions, r"tensor 'constant_\d' claims the size 1000000×1000000, which no weight has"),
    (a_size_below_zero, r"tensor 'constant_\d' claims the size -1×6, which no weight has"),
    (another_size_than_its_data, r"tensor 'constant_\d' claims 96 bytes and holds 120"),
    (another_size_than_its_numbers, r"tensor 'constant_\d' claims 30 elements and holds 29"),
    (an_unknown_type, r"tensor 'constant_\d' is of the unknown type 99"),
    (a_missing_initializer, r"not a valid ONNX model \(.*constant_\d"),
    (a_cycle, r"not a valid ONNX model \(its nodes read each other in a circle\)"),
    (a_name_given_twice, r"not a valid ONNX model \("),
    (an_unknown_operation, r"not a valid ONNX model \(.*Nonsense"),
    (an_operation_of_nobody, r"ONNX Runtime does not take it \("),
    (no_opset, r"is of opset 0, expected 7 to \d+; export it again"),
    (an_old_opset, r"is of opset 6, expected 7 to \d+"),
    (a_future_opset, r"is of opset 999, expected 7 to \d+"),
    (no_nodes, r"not a readable ONNX model \(it has no graph\)"),
    (a_tensor_that_would_fill_the_memory, r"would compute 'zeros' of size 1000000×1000000, as no classifier does"),
    (a_picture_that_would_fill_the_memory, r"would compute 'pictures' of size 3×1048576×1048576"),
    (sparse_weights, r"has sparse weights, which are not read"),
    (weights_in_a_branch_of_another_size, r"tensor 'inside' claims the size 1000000000000, which no weight has"),
    (functions_that_call_each_other, r"its function 'P[io]ng' calls itself|not a valid ONNX model"),
    (functions_that_multiply, r"its functions stand for more than 1000000 nodes"),
]


def refuses(path: Path, message: str) -> None:
    """Exporting says so in one line and leaves nothing behind."""
    before = sorted(path.parent.iterdir())
    with pytest.raises(ExportError, match=message) as caught:
        export(path, path.parent / "cam.onnx")
    assert "\n" not in str(caught.value)
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_damaged_models_are_refused(tmp_path: Path, damage: Damage, message: str):
    model = classifier("gemm")
    damage(model)
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    refuses(tmp_path / "bad.onnx", rf"bad.onnx: {message}")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_cut_files_are_refused(tmp_path: Path, part: float):
    data = classifier("gemm").SerializeToString()
    (tmp_path / "cut.onnx").write_bytes(data[: int(part * len(data))])
    refuses(tmp_path / "cut.onnx", r"cut.onnx: (not a readable ONNX model|is of opset 0|tensor .* claims|not a valid)")


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(50), b"no model", bytes(1000), os.urandom(2000)])
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "other.onnx").write_bytes(content)
    refuses(tmp_path / "other.onnx", r"other.onnx: (not a readable ONNX model|is of opset 0)")


def test_a_missing_file_and_a_folder(tmp_path: Path):
    (tmp_path / "folder.onnx").mkdir()
    refuses(tmp_path / "gone.onnx", r"gone.onnx: no such file")
    refuses(tmp_path / "folder.onnx", r"folder.onnx: no such file")


def test_a_file_larger_than_any_message(tmp_path: Path):
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(2**31 + 1)  # of holes: it takes no room
    refuses(tmp_path / "large.onnx", r"large.onnx: larger than 2 GiB, which no ONNX file in one piece is")


def within(tag: int, data: bytes) -> bytes:
    """A message as a field of another, in protobuf's wire format."""
    size, left = b"", len(data)
    while left > 127:
        size, left = size + bytes([left & 127 | 128]), left >> 7
    return bytes([tag << 3 | 2]) + size + bytes([left]) + data


@pytest.mark.parametrize("depth", [20, 40, 3000])
def test_graphs_in_graphs(tmp_path: Path, depth: int):
    """Branches inside each other: no writer makes the deeper ones, but a file may hold them."""
    last = helper.make_node("Constant", [], ["out"], value_float=1.0)
    result = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [])]
    flat = helper.make_graph([last], "deepest", [], result)
    name = onnx.GraphProto(name="deeper", output=result).SerializeToString()
    graph = flat.SerializeToString()
    other = helper.make_attribute("else_branch", flat).SerializeToString()
    for _ in range(depth):
        inner = onnx.AttributeProto(name="then_branch", type="GRAPH").SerializeToString() + within(6, graph)
        node = onnx.NodeProto(op_type="If", input=["always"], output=["out"]).SerializeToString()
        graph = name + within(1, node + within(5, inner) + within(5, other))
    model = classifier("gemm")
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    inner = onnx.AttributeProto(name="then_branch", type="GRAPH").SerializeToString() + within(6, graph)
    node = onnx.NodeProto(op_type="If", input=["always"], output=["branched"]).SerializeToString()
    added = within(1, node + within(5, inner) + within(5, other))
    data = model.SerializeToString() + within(7, added)  # a second part of the same graph: parts are joined
    (tmp_path / "deep.onnx").write_bytes(data)
    if depth == 20:  # deep, but a model
        assert export(tmp_path / "deep.onnx", tmp_path / "cam.onnx").check.residual < 1e-5
    else:
        refuses(tmp_path / "deep.onnx", r"deep.onnx: not a readable ONNX model")


# --- External data ----------------------------------------------------------------------------------------------------


def with_external(folder: Path, location: str = "weights.bin", **entries: str) -> Path:
    """A model whose weights lie in another file, with other entries in the place of the true ones."""
    model = classifier("gemm")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for one in model.graph.initializer:
        true = {entry.key: entry.value for entry in one.external_data}
        if not true:
            continue
        del one.external_data[:]
        for key, value in (true | {"location": location} | entries).items():
            one.external_data.add(key=key, value=value)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../weights.bin", r"has its data at '../weights.bin', outside the model's folder; not followed"),
        ("sub/../../weights.bin", r"outside the model's folder; not followed"),
        ("/etc/passwd", r"has its data at '/etc/passwd', outside the model's folder; not followed"),
        ("C:\\weights.bin", r"outside the model's folder; not followed"),
        ("", r"has its data at '', outside the model's folder"),
        ("gone.bin", r"has its data in 'gone.bin', which is not beside the model"),
        (".", r"which is not beside the model"),
    ],
)
def test_external_data_elsewhere_are_not_followed(tmp_path: Path, location: str, message: str):
    folder = tmp_path / "models"
    folder.mkdir()
    path = with_external(folder, location)
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    refuses(path, message)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_external_data_behind_a_link_are_not_followed(tmp_path: Path, what: str):
    folder, other = tmp_path / "models", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    path = with_external(folder, "weights.bin" if what == "file" else "sub/weights.bin")
    (folder / "weights.bin").rename(other / "weights.bin")
    if what == "file":
        (folder / "weights.bin").symlink_to(other / "weights.bin")
    else:
        (folder / "sub").symlink_to(other)
    refuses(path, r"has its data behind the link '(sub/)?weights.bin'; not followed")


@pytest.mark.parametrize("entries", [{"offset": "10000000"}, {"offset": "-4"}, {"length": "3"}])
def test_external_data_that_are_not_there(tmp_path: Path, entries: dict[str, str]):
    refuses(with_external(tmp_path, **entries), r"claims \d+ bytes that 'weights.bin' does not hold")


def test_external_data_at_no_number(tmp_path: Path):
    refuses(with_external(tmp_path, offset="far"), r"has a place in 'weights.bin' that is not a number")


def test_external_data_in_a_pipe_are_not_read(tmp_path: Path):
    path = with_external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    os.mkfifo(tmp_path / "weights.bin")
    refuses(path, r"which is not beside the model")


# --- Memory and time --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from Linux' /proc")
def test_hostile_files_take_little_memory(tmp_path: Path):
    """Every damaged file at once, in a process that may have 6 GB of addresses, and takes less than 600 MB."""
    for i, (damage, _) in enumerate(DAMAGES):
        model = classifier("gemm")
        damage(model)
        (tmp_path / f"{i}.onnx").write_bytes(model.SerializeToString())
    code = """
import re, sys
from pathlib import Path
from camlucida.errors import ExportError
from camlucida.export.exporting import export
refused = 0
for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    try:
        export(path, path.with_name("cam.onnx"))
    except ExportError:
        refused += 1
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]  # rusage counts the parent's, too
print(refused, int(peak) // 1024)
"""
    limit = 6 * 2**30
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=100, check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    refused, megabytes = map(int, done.stdout.split())
    assert refused == len(DAMAGES)
    assert megabytes < 600


def test_a_part_that_is_too_large_is_named_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The reader stops at the first tensor that lies, before any library has seen the file."""
    model = classifier("gemm")
    huge_dimensions(model)
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())

    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(load.onnx.checker, "check_model", never)
    refuses(tmp_path / "bad.onnx", "claims the size")


def test_a_deep_chain_of_steps_is_no_recursion(tmp_path: Path):
    make = Maker()
    x = pooled_rows(make, trunk(make))
    for _ in range(5000):
        x = make("Identity", x)
    (tmp_path / "deep.onnx").write_bytes(make.model({x: ["N", 6]}).SerializeToString())
    refuses(tmp_path / "deep.onnx", r"deep.onnx: more than 200 steps without a pooling before the logits")
