"""Small classifiers whose pictures or features are flipped, turned, shifted or shuffled on the way, written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

CLASSES, CHANNELS, SIZE, STRIDE = 4, 6, 48, 8
RNG = np.random.default_rng(2)
KERNEL = RNG.normal(size=(CHANNELS, 3, STRIDE, STRIDE)).astype(np.float32)
WEIGHT = RNG.normal(size=(CLASSES, CHANNELS)).astype(np.float32)
FAR = np.iinfo(np.int64).min


class Nodes:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, op: str, *inputs: Any, **attributes: Any) -> str:
        names = []
        for given in inputs:
            if not isinstance(given, str):
                self.constants.append(numpy_helper.from_array(np.asarray(given), f"c{len(self.constants)}"))
                given = self.constants[-1].name
            names.append(given)
        self.nodes.append(helper.make_node(op, names, [f"v{len(self.nodes)}"], **attributes))
        return str(self.nodes[-1].output[0])


def flipped(make: Nodes, x: str, axis: int) -> str:
    return make("Slice", x, np.int64([-1]), np.int64([FAR]), np.int64([axis]), np.int64([-1]))


def rolled(make: Nodes, x: str) -> str:
    """Half of the picture further to the right, as ``torch.roll`` is written."""
    parts = [
        make("Slice", x, np.int64([a]), np.int64([b]), np.int64([3])) for a, b in ((SIZE // 2, SIZE), (0, SIZE // 2))
    ]
    return make("Concat", *parts, axis=3)


BEFORE = {
    "as it is": lambda make, x: x,
    "cropped and padded": lambda make, x: make(
        "Pad", make("Slice", x, np.int64([4, 4]), np.int64([44, 44]), np.int64([2, 3])),
        np.int64([0, 0, 4, 4, 0, 0, 4, 4]),
    ),
    "channels turned": lambda make, x: make("Gather", x, np.int64([2, 1, 0]), axis=1),
    "flipped twice": lambda make, x: flipped(make, flipped(make, x, 3), 3),
    "mirrored": lambda make, x: flipped(make, x, 3),
    "upside down": lambda make, x: flipped(make, x, 2),
    "turned by half": lambda make, x: flipped(make, flipped(make, x, 3), 2),
    "transposed": lambda make, x: make("Transpose", x, perm=[0, 1, 3, 2]),
    "columns gathered backwards": lambda make, x: make("Gather", x, np.arange(SIZE)[::-1].astype(np.int64), axis=3),
    "rolled": rolled,
}  # fmt: skip
RIGHT = ("as it is", "cropped and padded", "channels turned", "flipped twice")


def classifier(how: str, *, behind: bool = False) -> Any:
    """Convolution → relu → mean → linear; what happens to the picture happens to its features instead if ``behind``."""
    make = Nodes()
    x = "pictures" if behind else BEFORE[how](make, "pictures")
    x = make("Relu", make("Conv", x, KERNEL, strides=[STRIDE, STRIDE]))
    if behind:
        x = make("Relu", flipped(make, x, 3)) if how == "mirrored" else x
    pooled = make("Flatten", make("GlobalAveragePool", x))
    make.nodes.append(helper.make_node("MatMul", [pooled, "weight"], ["logits"]))
    make.constants.append(numpy_helper.from_array(WEIGHT.T.copy(), "weight"))
    given = helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])
    made = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])
    graph = helper.make_graph(make.nodes, "net", [given], [made], make.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def driven(session: Any, row: int, column: int) -> np.ndarray:
    """How far a class's map changes where one cell's worth of the picture changes: the truth about places."""
    rng = np.random.default_rng(row * 10 + column)
    picture = rng.normal(size=(1, 3, SIZE, SIZE)).astype(np.float32)
    changed = picture.copy()
    changed[:, :, row * STRIDE : (row + 1) * STRIDE, column * STRIDE : (column + 1) * STRIDE] *= -3
    one, other = (session.run(["maps"], {"pictures": x})[0] for x in (picture, changed))
    return np.abs(one - other)[0].sum(0)
