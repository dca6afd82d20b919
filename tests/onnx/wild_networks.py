"""One small network in the clothes in which others write ONNX files, and the truth of each.

Every network is relu(convolution without overlap) → mean over the grid → linear, so its map is textbook:
``M_k = Σ_c W_kc A_c / (h·w)``, bias b. A comes from plain ONNX Runtime on a copy with all weights inside. Pictures are
of one colour: cropping and resizing leave them as they are, so only channel order, range, mean and spread can change
the probabilities, and those are plain ONNX Runtime's of the truly prepared picture.

Wanted of each file, one or several of:
    exact    info, map and export work, outputs are unchanged, maps are the textbook's
    known    also: without any option, the probabilities are those of the true preparation
    stated   map says in a line what it assumed of the pictures
    asked    map refuses until preparation is given, and names the option
    noted    exact, and map or info say what entry was passed over (``words``)
    advised  no exact maps: info says why, export refuses with ``words``, and the method that it names works
    data     exact, for arrays of its own number of channels; colour pictures are refused in words
    refused  info, map and export refuse, in one line that matches ``words``; no traceback
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

C, K = 6, 4
SIZE = (40, 56)
COLOUR = (220, 40, 110)
RNG = np.random.default_rng(11)
WEIGHT, BIAS = RNG.normal(size=(K, C)).astype(np.float32), RNG.normal(size=K).astype(np.float32)
IMAGENET = (np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225]))
CAFFE = np.float32([104, 117, 123])
FLOAT = TensorProto.FLOAT


@dataclass
class Graph:
    """Collects nodes and constants."""

    opset: int = 17
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, op: str, *inputs: Any, out: str | None = None, domain: str = "", **attributes: Any) -> str:
        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        out = out or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [out], name=f"n_{out}", domain=domain, **attributes))
        return out

    def constant(self, value: Any, name: str | None = None) -> str:
        name = name or f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def mean(self, x: str, axes: list[int], keep: int = 0) -> str:
        if self.opset >= 18:
            return self("ReduceMean", x, np.int64(axes), keepdims=keep)
        return self("ReduceMean", x, axes=axes, keepdims=keep)


@dataclass
class Built:
    """A file and its truth.

    Attributes:
        model: as it is written.
        reference: the same with all weights inside, readable by ONNX Runtime; outputs are taken by name.
        features: the name of A, (N, C, h, w); None where nothing is to be explained.
        prepare: H×W×3 uint8 → what is fed, (1, C, H, W), truly prepared.
        probability: of a picture's classes by the reference's ``scores``.
        labels: that the file tells.
        options: of ``map``, that say the preparation.
        shape: of one input (C, H, W).
        tolerance: of maps and outputs.
        pooled: how the textbook's map is made of A: weights over cells; None is the mean.
    """

    model: Any
    reference: Any = None
    features: str | None = "features"
    prepare: Callable[[np.ndarray], np.ndarray] | None = None
    labels: tuple[str, ...] | None = None
    options: tuple[str, ...] = ()
    shape: tuple[int, int, int] = (3, *SIZE)
    tolerance: float = 1e-4
    scores: str = "scores"
    nhwc: bool = False
    integers: bool = False
    place: str = "model.onnx"
    cwd: str | None = None


def imagenet(pixels: np.ndarray) -> np.ndarray:
    return ((pixels / np.float32(255) - IMAGENET[0]) / IMAGENET[1]).transpose(2, 0, 1)[None].astype(np.float32)


def ranged(
    scale: float = 255, mean: Any = 0.0, std: Any = 1.0, bgr: bool = False
) -> Callable[[np.ndarray], np.ndarray]:
    def prepare(pixels: np.ndarray) -> np.ndarray:
        pixels = pixels[:, :, ::-1] if bgr else pixels
        values = (pixels.astype(np.float32) / np.float32(scale) - np.float32(mean)) / np.float32(std)
        return values.transpose(2, 0, 1)[None].astype(np.float32)

    return prepare


def grey(scale: float, mean: float, std: float) -> Callable[[np.ndarray], np.ndarray]:
    def prepare(pixels: np.ndarray) -> np.ndarray:
        values = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)
        return ((values / scale - mean) / std)[None, None].astype(np.float32)

    return prepare


def network(
    *,
    opset: int = 17,
    ir: int = 8,
    channels: int = 3,
    size: tuple[int, int] = SIZE,
    kernel: tuple[int, int] = (8, 8),
    kind: int = FLOAT,
    nhwc: bool = False,
    dims: list[Any] | str | None = "as built",
    before: Callable[[Graph, str], str] | None = None,
    pool: str = "GlobalAveragePool",
    end: Callable[[Graph, str], list[tuple[str, int, list[Any]]]] | None = None,
    gain: float = 1.0,
    metadata: dict[str, str] | None = None,
    producer: str = "",
    inputs_too: bool = False,
    **truth: Any,
) -> Built:
    """The network of this file in one of its many clothes. ``gain`` divides inputs that are large."""
    make = Graph(opset)
    rng = np.random.default_rng(5)
    x = before(make, "pictures") if before else "pictures"
    if nhwc:
        x = make("Transpose", x, perm=[0, 3, 1, 2])
    dtype = {TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}.get(kind, np.float32)
    conv = (rng.normal(size=(C, channels, *kernel)) / np.sqrt(np.prod(kernel)) / gain).astype(dtype)
    make.constant(conv, "trunk_weight")
    make.constant(rng.normal(size=C).astype(dtype), "trunk_bias")
    x = make("Conv", x, "trunk_weight", "trunk_bias", strides=list(kernel), kernel_shape=list(kernel))
    x = make("Relu", x, out="features")
    if pool == "GlobalAveragePool":
        x = make("Flatten", make("GlobalAveragePool", x))
    elif pool == "ReduceMean":
        x = make.mean(x, [2, 3])
    elif pool == "rows first":
        x = make.mean(make.mean(x, [2]), [2])
    elif pool == "columns first":
        x = make.mean(make.mean(x, [3]), [2])
    elif pool == "rows first, kept":
        x = make.mean(make.mean(x, [2], 1), [2, 3])
    make.constant(WEIGHT.astype(dtype), "head_weight")
    make.constant(BIAS.astype(dtype), "head_bias")
    make("Gemm", x, "head_weight", "head_bias", transB=1, out="scores")
    free: Any = "N"
    outputs = end(make, "scores") if end else [("scores", kind if kind in (FLOAT, 10, 11) else FLOAT, [free, K])]
    height, width = size
    shape = [free, height, width, channels] if nhwc else [free, channels, height, width]
    given = [info("pictures", kind, shape if dims == "as built" else dims)]
    tensors = [numpy_helper.from_array(value, name) for name, value in make.constants.items()]
    if inputs_too:
        given += [helper.make_tensor_value_info(one.name, one.data_type, list(one.dims)) for one in tensors]
    graph = helper.make_graph(make.nodes, "net", given, [info(*one) for one in outputs], tensors)
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid("ai.onnx.ml", 2)] if any(node.domain == "ai.onnx.ml" for node in make.nodes) else []
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir, producer_name=producer)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    truth.setdefault("shape", (channels, *size))
    truth.setdefault("nhwc", nhwc)
    truth.setdefault("integers", kind in (TensorProto.UINT8, TensorProto.INT32))
    reference = truth.pop("reference", None) or with_free_sizes(model)
    return Built(model, reference, **truth)


def with_free_sizes(model: Any) -> Any:
    """The same, its input's sizes of 0 free: ONNX Runtime takes these for none at all."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    for dim in copy.graph.input[0].type.tensor_type.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value == 0:
            dim.ClearField("dim_value")
    return copy


def info(name: str, kind: int, shape: Any) -> Any:
    """A value's description; sizes may be whole numbers (also 0 and -1), names, or None."""
    value = helper.make_tensor_value_info(name, kind, None if shape is None else [None] * len(shape))
    for dim, size in zip(value.type.tensor_type.shape.dim, shape or (), strict=False):
        if isinstance(size, int):
            dim.dim_value = size
        elif size is not None:
            dim.dim_param = size
    return value


def softmaxed(make: Graph, x: str) -> list[tuple[str, int, list[Any]]]:
    make("Softmax", x, axis=1, out="probabilities")
    return [("probabilities", FLOAT, ["N", K])]


@dataclass(frozen=True)
class Entry:
    """One file and what must come of it."""

    item: str
    name: str
    build: Callable[[Path], Built]
    wanted: tuple[str, ...]
    words: str = ""
    never: str = ""


def of(**options: Any) -> Callable[[Path], Built]:
    return lambda folder: network(**options)
