"""Small ONNX classifiers that keep weights in a second file, in every place where ONNX lets a tensor stand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

CLASSES, CHANNELS, SIDE = 3, 4, 8
RNG = np.random.default_rng(5)
KERNEL = RNG.normal(size=(CHANNELS, 3, 2, 2)).astype(np.float32)
WEIGHT = RNG.normal(size=(CHANNELS, CLASSES)).astype(np.float32)
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]


def external(name: str, location: str = "weights.bin", offset: int = 0, **others: Any) -> Any:
    """``WEIGHT``, whose data lie elsewhere."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=WEIGHT.shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": offset, "length": WEIGHT.nbytes, **others}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def classifier(head: Callable[..., Any], **options: Any) -> Any:
    """Relu(convolution) → mean → ``head``, which says how the weight gets into the graph."""
    given = helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
    made = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])
    nodes = [
        helper.make_node("Conv", ["pictures", "kernel"], ["convolved"], strides=[2, 2]),
        helper.make_node("Relu", ["convolved"], ["features"]),
        helper.make_node("ReduceMean", ["features"], ["pooled"], axes=[2, 3], keepdims=0),
    ]
    stored = [numpy_helper.from_array(KERNEL, "kernel")]
    own, weights, functions = head(external("weight", **options))
    graph = helper.make_graph([*nodes, *own], "net", [given], [made], [*stored, *weights])
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=8, functions=functions)


def product(source: str = "pooled", out: str = "logits") -> Any:
    return helper.make_node("MatMul", [source, "weight"], [out])


def initializer(weight: Any) -> Any:
    return [product()], [weight], []


def constant(weight: Any) -> Any:
    return [helper.make_node("Constant", [], ["weight"], value=weight), product()], [], []


def branch(weight: Any) -> Any:
    """In both branches of an If: what ONNX Runtime reads from wherever the program stands."""
    made = [helper.make_tensor_value_info("product", TensorProto.FLOAT, None)]
    parts = [helper.make_graph([product(out="product")], name, [], made, [weight]) for name in ("then", "else")]
    choice = helper.make_node("If", ["yes"], ["logits"], then_branch=parts[0], else_branch=parts[1])
    return [choice], [numpy_helper.from_array(np.array(True), "yes")], []


def branch_of_a_branch(weight: Any) -> Any:
    ((inner,), (yes,), _) = branch(weight)
    made = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    parts = [helper.make_graph([inner], f"outer {i}", [], made) for i in range(2)]
    for part in parts:
        part.node[0].output[0] = part.output[0].name = "inner"
    return [helper.make_node("If", ["yes"], ["logits"], then_branch=parts[0], else_branch=parts[1])], [yes], []


def function(weight: Any) -> Any:
    body = [helper.make_node("Constant", [], ["weight"], value=weight), product("x", "y")]
    made = helper.make_function("mine", "Head", ["x"], ["y"], body, OPSETS[:1])
    return [helper.make_node("Head", ["pooled"], ["logits"], domain="mine")], [], [made]


def function_with_a_branch(weight: Any) -> Any:
    ((inner,), (yes,), _) = branch(weight)
    for attribute in inner.attribute:
        attribute.g.node[0].input[0] = "x"
    inner.output[0] = "y"
    body = [helper.make_node("Constant", [], ["yes"], value=yes), inner]
    made = helper.make_function("mine", "Head", ["x"], ["y"], body, OPSETS[:1])
    return [helper.make_node("Head", ["pooled"], ["logits"], domain="mine")], [], [made]


PLACES: dict[str, Callable[..., Any]] = {
    made.__name__: made
    for made in (initializer, constant, branch, branch_of_a_branch, function, function_with_a_branch)
}


def written(folder: Path, place: str = "initializer", **options: Any) -> Path:
    """The model in a folder, with its weights beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "net.onnx"
    path.write_bytes(classifier(PLACES[place], **options).SerializeToString())
    (folder / "weights.bin").write_bytes(WEIGHT.tobytes())
    return path


def pictures(count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


def truth(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits and maps, with NumPy alone."""
    n = len(batch)
    cut = batch.astype(np.float64).reshape(n, 3, SIDE // 2, 2, SIDE // 2, 2)
    features = np.maximum(np.einsum("nchawb,kcab->nkhw", cut, KERNEL.astype(np.float64)), 0)
    maps = np.einsum("ck,nchw->nkhw", WEIGHT.astype(np.float64), features) / features[0, 0].size
    return maps.sum((2, 3)), maps
