"""What rewriting and cutting a graph share: readers of a tensor, parts of a graph, logits, and a file's metadata."""

from __future__ import annotations

import numpy as np
import pytest

from camlucida.boxes.calibration import Calibration
from camlucida.errors import first_line
from camlucida.images.preprocess import Preprocess
from camlucida.onnx.metadata import Metadata, read_metadata, write_metadata

onnx = pytest.importorskip("onnx")
from camlucida.onnx.graph import GraphRun, before_activation, leading_to, part_of, reads  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def model(*nodes, outputs=("out",), constants=None):
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    stored = [numpy_helper.from_array(np.float32(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "net", [value], made, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_branch_reads_what_it_does_not_make_itself():
    inner = helper.make_node("Mul", ["outer", "own_weight"], ["product"])
    result = helper.make_node("Add", ["product", "x"], ["sum"])
    weight = numpy_helper.from_array(np.float32(2), "own_weight")
    branch = helper.make_graph([inner, result], "then", [], [onnx.ValueInfoProto(name="sum")], [weight])
    passed_on = helper.make_graph([], "else", [], [onnx.ValueInfoProto(name="other")])
    node = helper.make_node("If", ["condition"], ["out"], then_branch=branch, else_branch=passed_on)
    assert sorted(reads(node)) == ["condition", "other", "outer", "x"]


def test_a_part_of_a_graph_computes_what_the_whole_does():
    whole = model(
        helper.make_node("Mul", ["x", "two"], ["doubled"]),
        helper.make_node("Add", ["x", "far"], ["unused"]),
        helper.make_node("Neg", ["doubled"], ["out"]),
        constants={"two": 2, "far": 9},
    )
    nodes = leading_to(["out"], whole.graph.node)
    assert [node.op_type for node in nodes] == ["Mul", "Neg"]
    part = part_of(whole, nodes, ["out", "doubled"])
    assert [one.name for one in part.graph.initializer] == ["two"]
    x = np.float32([[1, -3]])
    outputs = GraphRun(part, "net")({"x": x})
    assert outputs.keys() == {"out", "doubled"}
    np.testing.assert_array_equal(outputs["out"], -2 * x)


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        (["Softmax"], ("x", "softmax")),
        (["Sigmoid", "Identity"], ("x", "sigmoid")),
        (["LogSoftmax", "Flatten"], ("x", "softmax")),
        (["Neg", "Softmax", "Flatten", "Identity"], ("value_0", "softmax")),
        (["Softmax", "Neg"], ("value_1", None)),
        (["Softmax", "Log"], ("x", "softmax")),
        (["Softmax", "Clip", "Log", "Identity"], ("x", "softmax")),
        (["Sigmoid", "Clip", "Cast"], ("x", "sigmoid")),
        (["Sigmoid", "Log"], ("value_1", None)),
        (["Neg", "Clip"], ("value_1", None)),
        (["Softmax", "Log", "Log"], ("value_2", None)),
        (["Flatten"], ("value_0", None)),
    ],
)
def test_the_logits_before_a_final_activation(operations, expected):
    names = ["x", *(f"value_{i}" for i in range(len(operations)))]
    nodes = [helper.make_node(op, [names[i]], [names[i + 1]]) for i, op in enumerate(operations)]
    assert before_activation({node.output[0]: node for node in nodes}, names[-1]) == expected


def test_metadata_come_back_as_they_were_written():
    metadata = Metadata(
        ("Käfer", "bee"), Preprocess((8, 12), mean=(0.1, 0.2, 0.3)), Calibration(threshold=0.3), "sigmoid"
    )
    net = model(helper.make_node("Neg", ["x"], ["out"]))
    helper.set_model_props(net, {"author": "somebody", "activation": "none"})
    write_metadata(net, metadata, head="affine")
    entries = {one.key: one.value for one in net.metadata_props}
    assert list(entries) == ["author", "labels", "preprocess", "calibration", "activation", "head"]
    assert read_metadata(entries) == metadata
    assert read_metadata({}) == Metadata()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n\n  two  \nthree"), "two"),
        (MemoryError(), "MemoryError"),
        (ValueError("long" * 200), "long" * 75),
    ],
)
def test_the_first_line_of_an_error(error, line):
    assert first_line(error) == line
