"""Small ONNX classifiers written by hand, one for each way from features to logits, and what their maps must be.

Every trunk is relu(2×2 convolution of stride 2) of pictures 3×8×12: features 6×4×6, which ``features`` computes again
in float64 with NumPy alone. Each reference is written from the definition of its head, not from the graph's nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

C, K, H, W = 6, 5, 4, 6
RNG = np.random.default_rng(7)
TRUNK = RNG.normal(size=(C, 3, 2, 2)).astype(np.float32)
WEIGHT = RNG.normal(size=(K, C)).astype(np.float32)
BIAS = RNG.normal(size=K).astype(np.float32)
GAIN, OFFSET = (RNG.uniform(0.5, 1.5, C).astype(np.float32) for _ in range(2))
MEAN, VARIANCE = RNG.normal(size=C).astype(np.float32), RNG.uniform(0.5, 1.5, C).astype(np.float32)
EPS = 1e-5
TOKEN = RNG.normal(size=(1, 1, C)).astype(np.float32)
OTHER = RNG.normal(size=(K, C)).astype(np.float32)
GRID_WEIGHT = RNG.normal(size=(K, C, H, W)).astype(np.float32)

Reference = Callable[[np.ndarray], tuple[np.ndarray, Any]]


def features(pictures: np.ndarray) -> np.ndarray:
    """relu of the trunk's convolution, (N, C, H, W) float64."""
    n, _, h, w = pictures.shape
    cut = pictures.astype(np.float64).reshape(n, 3, h // 2, 2, w // 2, 2)
    return np.maximum(np.einsum("nchawb,kcab->nkhw", cut, TRUNK.astype(np.float64)), 0)


@dataclass
class Maker:
    """Collects nodes and constants of a graph."""

    opset: int = 17
    kind: int = TensorProto.FLOAT
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, op: str, *inputs: Any, out: str | None = None, **attributes: Any) -> str:
        """Add a node; arrays among its inputs become constants. Its (first) output."""
        names = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        out = out or f"{op.lower()}_{len(self.nodes)}"
        outputs = [f"{out}_{i}" if i else out for i in range(attributes.pop("outputs", 1))]
        domain = attributes.pop("domain", "")
        self.nodes.append(helper.make_node(op, names, outputs, name=f"node_{out}", domain=domain, **attributes))
        return outputs[0]

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.astype(helper.tensor_dtype_to_np_dtype(self.kind))
        name = f"constant_{len(self.constants)}"
        self.constants[name] = array
        return name

    def ints(self, *values: int) -> np.ndarray:
        return np.array(values, np.int64)

    def reduce(self, op: str, x: str, axes: list[int], keepdims: int = 0) -> str:
        if self.opset >= (13 if op == "ReduceSum" else 18):
            return self(op, x, self.ints(*axes), keepdims=keepdims)
        return self(op, x, axes=axes, keepdims=keepdims)

    def model(self, outputs: dict[str, list[Any]], size: tuple[Any, ...] = ("N", 3, 2 * H, 2 * W)) -> Any:
        given = helper.make_tensor_value_info("pictures", self.kind, size)
        made = [helper.make_tensor_value_info(name, self.kind, shape) for name, shape in outputs.items()]
        stored = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "classifier", [given], made, stored)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        ir = max(7, min(10, helper.find_min_ir_version_for([opsets[0]], ignore_unknown=True)))
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


def trunk(make: Maker, pictures: str = "pictures") -> str:
    return make("Relu", make("Conv", pictures, TRUNK, strides=[2, 2], kernel_shape=[2, 2]))


def linear(make: Maker, pooled: str) -> str:
    return make("Gemm", pooled, WEIGHT, BIAS, transB=1, out="scores")


def pooled_rows(make: Maker, x: str) -> str:
    if make.kind == TensorProto.DOUBLE:  # ONNX Runtime pools no doubles
        return make.reduce("ReduceMean", x, [2, 3])
    return make("Flatten", make("GlobalAveragePool", x))


# --- References: features (N, C, H, W) float64 -> maps (N, K, H, W) in logits per cell, bias (K,) ---


def affine(weight: np.ndarray = WEIGHT, bias: Any = BIAS, cells: float = H * W) -> Reference:
    return lambda f: (np.einsum("kc,nchw->nkhw", weight.astype(np.float64), f) / cells, np.broadcast_to(bias, (K,)))


def normalized(f: np.ndarray, centre: bool, scale: Callable[[np.ndarray], np.ndarray], gain: Any, shift: Any) -> Any:
    """w · gain · (f - mean over channels) / scale(pooled) per cell, the scale held; w · shift + b beside it."""
    pooled = f.mean((2, 3))
    held = scale(pooled - pooled.mean(1, keepdims=True) if centre else pooled)
    each = f - f.mean(1, keepdims=True) if centre else f
    wide = WEIGHT.astype(np.float64) * gain
    maps = np.einsum("kc,nchw->nkhw", wide, each / held[:, None, None, None]) / (H * W)
    return maps, WEIGHT.astype(np.float64) @ np.broadcast_to(shift, (C,)) + BIAS


def root(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x**2).mean(1) + EPS)


def length(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x**2).sum(1))


# --- The heads --------------------------------------------------------------------------------------------------------

HEADS: dict[str, tuple[Callable[[Maker, str], str], Reference, int]] = {}
"""Name -> (how the head is built, its reference, its lowest opset)."""


def head(reference: Reference, opset: int = 11) -> Callable[[Any], Any]:
    def declare(build: Callable[[Maker, str], str]) -> Callable[[Maker, str], str]:
        HEADS[build.__name__] = build, reference, opset
        return build

    return declare


@head(affine())
def gemm(make: Maker, x: str) -> str:
    return linear(make, pooled_rows(make, x))


@head(affine(2 * WEIGHT, 0.5 * BIAS))
def gemm_turned_with_factors(make: Maker, x: str) -> str:
    return make("Gemm", pooled_rows(make, x), WEIGHT.T.copy(), BIAS, alpha=2.0, beta=0.5, out="scores")


@head(affine(bias=0.0))
def gemm_without_bias(make: Maker, x: str) -> str:
    return make("Gemm", pooled_rows(make, x), WEIGHT, transB=1)


@head(affine())
def mean_matmul_add(make: Maker, x: str) -> str:
    return make("Add", make("MatMul", make.reduce("ReduceMean", x, [2, 3]), WEIGHT.T.copy()), BIAS, out="scores")


@head(affine(cells=1))
def sum_pooling(make: Maker, x: str) -> str:
    return linear(make, make.reduce("ReduceSum", x, [-1, -2]))


@head(affine())
def average_pool_of_the_grid(make: Maker, x: str) -> str:
    return linear(make, make("Reshape", make("AveragePool", x, kernel_shape=[H, W]), make.ints(-1, C)))


@head(affine())
def one_axis_after_the_other(make: Maker, x: str) -> str:
    return linear(make, make.reduce("ReduceMean", make.reduce("ReduceMean", x, [3]), [2]))


@head(affine())
def one_axis_after_the_other_kept(make: Maker, x: str) -> str:
    kept = make.reduce("ReduceMean", make.reduce("ReduceMean", x, [2], 1), [3], 1)
    return linear(make, make("Flatten", kept))


@head(affine())
def pooled_twice(make: Maker, x: str) -> str:
    return linear(make, make("Flatten", make("GlobalAveragePool", make("GlobalAveragePool", x))))


@head(affine())
def convolution_behind(make: Maker, x: str) -> str:
    return make("Flatten", make("Conv", make("GlobalAveragePool", x), WEIGHT[:, :, None, None], BIAS), out="scores")


@head(lambda f: (np.maximum(affine(cells=1)(f)[0] + BIAS[:, None, None], 0) / (H * W), np.zeros(K)))
def convolution_before_with_relu(make: Maker, x: str) -> str:
    scored = make("Relu", make("Conv", x, WEIGHT[:, :, None, None], BIAS))
    return make("Flatten", make("GlobalAveragePool", scored), out="scores")


@head(lambda f: (affine(cells=1)(f)[0] / (H * W) + BIAS[:, None, None] / (H * W), np.zeros(K)))
def convolution_before(make: Maker, x: str) -> str:
    scored = make("Conv", x, WEIGHT[:, :, None, None], BIAS)
    return make("Reshape", make("GlobalAveragePool", scored), make.ints(0, -1), out="scores")


def _batch_norm_reference(f: np.ndarray) -> Any:
    factor = GAIN.astype(np.float64) / np.sqrt(VARIANCE.astype(np.float64) + EPS)
    return affine(WEIGHT * factor)(f)[0], WEIGHT @ (OFFSET - MEAN * factor) + BIAS


@head(_batch_norm_reference)
def batch_norm(make: Maker, x: str) -> str:
    normed = make("BatchNormalization", pooled_rows(make, x), GAIN, OFFSET, MEAN, VARIANCE, epsilon=EPS)
    return linear(make, make("Dropout", normed))


@head(lambda f: normalized(f, True, root, GAIN, OFFSET), 17)
def layer_norm(make: Maker, x: str) -> str:
    return linear(make, make("LayerNormalization", pooled_rows(make, x), GAIN, OFFSET, epsilon=EPS))


@head(lambda f: normalized(f, True, root, GAIN, OFFSET), 17)
def layer_norm_of_channels_last(make: Maker, x: str) -> str:
    last = make("Transpose", make("GlobalAveragePool", x), perm=[0, 2, 3, 1])
    normed = make("LayerNormalization", last, GAIN, OFFSET, epsilon=EPS)
    return linear(make, make("Flatten", make("Transpose", normed, perm=[0, 3, 1, 2])))


@head(lambda f: normalized(f, True, root, GAIN, OFFSET))
def layer_norm_in_parts(make: Maker, x: str) -> str:
    pooled = pooled_rows(make, x)
    centred = make("Sub", pooled, make.reduce("ReduceMean", pooled, [-1], 1))
    variance = make.reduce("ReduceMean", make("Pow", centred, np.float32(2)), [-1], 1)
    normed = make("Div", centred, make("Sqrt", make("Add", variance, np.float32(EPS))))
    return linear(make, make("Add", make("Mul", normed, GAIN), OFFSET))


@head(lambda f: normalized(f, True, root, GAIN, OFFSET))
def group_norm_in_parts(make: Maker, x: str) -> str:
    """One group, as torch writes it: InstanceNormalization of (N, 1, C)."""
    one = make("Reshape", make("GlobalAveragePool", x), make.ints(0, 1, -1))
    ones, zeros = np.ones(1, np.float32), np.zeros(1, np.float32)
    normed = make("Reshape", make("InstanceNormalization", one, ones, zeros, epsilon=EPS), make.ints(0, C, 1, 1))
    moved = make("Add", make("Mul", normed, GAIN[:, None, None]), OFFSET[:, None, None])
    return linear(make, make("Flatten", moved))


@head(lambda f: normalized(f, False, root, GAIN, 0.0))
def rms_norm_in_parts(make: Maker, x: str) -> str:
    pooled = pooled_rows(make, x)
    square = make.reduce("ReduceMean", make("Mul", pooled, pooled), [1], 1)
    scale = make("Reciprocal", make("Sqrt", make("Add", square, np.float32(EPS))))
    return linear(make, make("Mul", make("Mul", scale, pooled), GAIN))


@head(lambda f: normalized(f, False, root, GAIN, 0.0), 23)
def rms_norm(make: Maker, x: str) -> str:
    return linear(make, make("RMSNormalization", pooled_rows(make, x), GAIN, axis=-1, epsilon=EPS))


@head(lambda f: normalized(f, False, length, 1.0, 0.0))
def unit_length(make: Maker, x: str) -> str:
    return linear(make, make("LpNormalization", pooled_rows(make, x), axis=1, p=2))


@head(lambda f: normalized(f, False, length, 1.0, 0.0))
def unit_length_in_parts(make: Maker, x: str) -> str:
    """As torch writes ``normalize``: the length spread over the channels before the division."""
    pooled = pooled_rows(make, x)
    norm = make("Clip", make("ReduceL2", pooled, *([make.ints(1)] if make.opset >= 18 else []), keepdims=1,
                             **({} if make.opset >= 18 else {"axes": [1]})), np.float32(1e-12))  # fmt: skip
    return linear(make, make("Div", pooled, make("Expand", norm, make("Shape", pooled))))


@head(affine())
def channels_last(make: Maker, x: str) -> str:
    return linear(make, make.reduce("ReduceMean", make("Transpose", x, perm=[0, 2, 3, 1]), [1, 2]))


@head(affine())
def tokens(make: Maker, x: str) -> str:
    rows = make("Transpose", make("Reshape", x, make.ints(0, C, -1)), perm=[0, 2, 1])
    return linear(make, make.reduce("ReduceMean", rows, [1]))


@head(affine())
def tokens_without_the_class_token(make: Maker, x: str) -> str:
    rows = make("Transpose", make("Reshape", x, make.ints(0, C, -1)), perm=[0, 2, 1])
    batch = make("Slice", make("Shape", x), make.ints(0), make.ints(1))
    first = make("Expand", TOKEN, make("Concat", batch, make.ints(1, C), axis=0))
    whole = make("Concat", first, rows, axis=1)
    kept = make("Slice", whole, make.ints(1), make.ints(2**31), make.ints(1))
    return linear(make, make.reduce("ReduceMean", kept, [1]))


@head(affine())
def positions_behind_channels(make: Maker, x: str) -> str:
    return linear(make, make.reduce("ReduceMean", make("Reshape", x, make.ints(0, C, -1)), [-1]))


@head(lambda f: (affine(-3 * WEIGHT / GAIN)(f)[0], -3 * (WEIGHT @ ((1 - MEAN) / GAIN) + BIAS) + 0.5))
def constants_in_a_row(make: Maker, x: str) -> str:
    """-3 (w ((1 + f - mean) / gain) + b) + 0.5, with steps that do nothing."""
    mean = make("GlobalAveragePool", x)
    squeezed = make("Squeeze", mean, make.ints(2, 3)) if make.opset >= 13 else make("Squeeze", mean, axes=[2, 3])
    pooled = make("Identity", squeezed)
    moved = make("Div", make("Sub", make("Add", np.float32(1), pooled), MEAN), GAIN)
    scored = linear(make, make("Dropout", moved))
    return make("Add", make("Neg", make("Mul", np.float32(3), scored)), np.array([0.5], np.float32))


@head(lambda f: (affine(-WEIGHT)(f)[0], 2 - BIAS))
def taken_from_a_constant(make: Maker, x: str) -> str:
    return make("Sub", np.full(K, 2, np.float32), linear(make, pooled_rows(make, x)))


@head(affine((WEIGHT + OTHER) / 2))
def two_heads_averaged(make: Maker, x: str) -> str:
    pooled = pooled_rows(make, x)
    other = make("Gemm", pooled, OTHER, BIAS, transB=1)
    return make("Div", make("Add", linear(make, pooled), other), np.float32(2))


@head(affine(WEIGHT - 2 * OTHER, -BIAS))
def two_heads_subtracted(make: Maker, x: str) -> str:
    pooled = pooled_rows(make, x)
    other = make("Gemm", pooled, OTHER, BIAS, transB=1, alpha=2.0, beta=2.0)
    return make("Sub", linear(make, pooled), other)


@head(affine())
def doubled_often(make: Maker, x: str) -> str:
    """Each sum twice the one before: written out as a tree there would be 2^40 of them."""
    scores = linear(make, pooled_rows(make, x))
    for _ in range(40):
        scores = make("Add", scores, scores)
    return make("Mul", scores, np.float32(2.0**-40))


def _grid_reference(f: np.ndarray) -> Any:
    return np.einsum("kchw,nchw->nkhw", GRID_WEIGHT.astype(np.float64), f), BIAS


@head(_grid_reference)
def flattened_grid(make: Maker, x: str) -> str:
    return make("Gemm", make("Flatten", x), GRID_WEIGHT.reshape(K, -1), BIAS, transB=1, out="scores")


@head(_grid_reference)
def flattened_grid_channels_last(make: Maker, x: str) -> str:
    weight = GRID_WEIGHT.transpose(2, 3, 1, 0).reshape(-1, K)
    rows = make("Reshape", make("Transpose", x, perm=[0, 2, 3, 1]), make.ints(0, -1))
    return make("Add", make("MatMul", rows, weight), BIAS, out="scores")


@head(_grid_reference)
def convolution_of_the_whole_grid(make: Maker, x: str) -> str:
    return make("Flatten", make("Conv", x, GRID_WEIGHT, BIAS, kernel_shape=[H, W]), out="scores")


@head(affine())
def strides_that_change_nothing(make: Maker, x: str) -> str:
    """As torch.export writes ``as_strided``: all numbers of the flattened tensor picked in their order."""
    pooled = make("GlobalAveragePool", x)
    count = make("Gather", make("Shape", pooled), np.array(0, np.int64))
    rows = make("Mul", make("Range", np.array(0, np.int64), count, np.array(1, np.int64)), np.array(C, np.int64))
    index = make("Add", make("Reshape", rows, make.ints(-1, 1, 1, 1)), np.arange(C).reshape(1, C, 1, 1))
    return linear(make, make("Flatten", make("Gather", make("Reshape", pooled, make.ints(-1)), index)))


# --- Heads without exact maps -----------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[Maker, str], str], str]] = {}
"""Name -> (how the head is built, what the error must say)."""


def refused(message: str) -> Callable[[Any], Any]:
    def declare(build: Callable[[Maker, str], str]) -> Callable[[Maker, str], str]:
        REFUSED[build.__name__] = build, message
        return build

    return declare


@refused(r"GlobalMaxPool \(node_globalmaxpool_2\) removes the grid by a maximum")
def max_pooling(make: Maker, x: str) -> str:
    return linear(make, make("Flatten", make("GlobalMaxPool", x)))


@refused(r"Relu \(node_relu_\d\) stands between the pooled features and the logits \(hidden layers\)")
def hidden_layers(make: Maker, x: str) -> str:
    wide = np.eye(C, dtype=np.float32)
    return linear(make, make("Relu", make("Gemm", pooled_rows(make, x), wide)))


@refused(r"Relu .* stands between the pooled features and the logits")
def flattened_hidden_layers(make: Maker, x: str) -> str:
    hidden = make("Gemm", make("Flatten", x), GRID_WEIGHT.reshape(K, -1), transB=1)
    return make("Gemm", make("Relu", hidden), np.ones((K, K), np.float32), out="scores")


@refused(r"Gather .* takes a class token or another part of the grid")
def class_token(make: Maker, x: str) -> str:
    rows = make("Transpose", make("Reshape", x, make.ints(0, C, -1)), perm=[0, 2, 1])
    return linear(make, make("Gather", rows, np.array(0, np.int64), axis=1))


@refused(r"Slice .* takes a class token or another part of the grid")
def class_token_sliced(make: Maker, x: str) -> str:
    rows = make("Transpose", make("Reshape", x, make.ints(0, C, -1)), perm=[0, 2, 1])
    first = make("Slice", rows, make.ints(0), make.ints(1), make.ints(1))
    return linear(make, make("Reshape", first, make.ints(-1, C)))


@refused(r"Mul .* multiplies two values of the picture \(attention, gating, hidden layers\)")
def gated(make: Maker, x: str) -> str:
    pooled = pooled_rows(make, x)
    return linear(make, make("Mul", pooled, make("Sigmoid", pooled)))


@refused(r"MatMul .* multiplies two values of the picture")
def attention_pooling(make: Maker, x: str) -> str:
    rows = make("Reshape", x, make.ints(0, C, -1))
    share = make("Softmax", make.reduce("ReduceMean", rows, [1], 1), axis=2)
    pooled = make("MatMul", share, make("Transpose", rows, perm=[0, 2, 1]))
    return linear(make, make("Reshape", pooled, make.ints(-1, C)))


@refused(r"a bias stands before a normalization, so the part of a logit that no cell carries differs")
def bias_before_a_normalization(make: Maker, x: str) -> str:
    return linear(make, make("LayerNormalization", make("Add", pooled_rows(make, x), OFFSET), GAIN, OFFSET))


@refused(r"TopK .* stands between the features and the logits, and is not known to be affine")
def no_known_step(make: Maker, x: str) -> str:
    return make("TopK", make("Flatten", x), make.ints(K), outputs=2)


@refused(r"more than 200 steps without a pooling before the logits")
def very_deep(make: Maker, x: str) -> str:
    scores = linear(make, pooled_rows(make, x))
    for _ in range(250):
        scores = make("Neg", scores)
    return scores


@refused(r"Concat .* stands between the features and the logits, and is not known to be affine")
def sums_of_sums(make: Maker, x: str) -> str:
    """Each sum twice the one before: written out, 2^60 of them."""
    scores = make("Concat", linear(make, pooled_rows(make, x)), axis=1)
    for _ in range(60):
        scores = make("Add", scores, scores)
    return scores


@refused(r"AveragePool .* stands between the features and the logits, and is not known to be affine")
def average_of_a_part(make: Maker, x: str) -> str:
    part = make("AveragePool", x, kernel_shape=[3, 5], strides=[3, 5])
    return linear(make, make("Flatten", part))


@refused(r"pools 25 tokens whose rows and columns are unclear \(nowhere in the graph\)")
def tokens_of_no_grid(make: Maker, x: str) -> str:
    rows = make("Transpose", make("Reshape", x, make.ints(0, C, -1)), perm=[0, 2, 1])
    batch = make("Slice", make("Shape", x), make.ints(0), make.ints(1))
    first = make("Expand", TOKEN, make("Concat", batch, make.ints(1, C), axis=0))
    return linear(make, make.reduce("ReduceMean", make("Concat", first, rows, axis=1), [1]))


@refused(r"its logits are made of several grids: NCHW 6×4×6, NCHW 6×2×3")
def two_grids(make: Maker, x: str) -> str:
    small = make("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    return make("Add", linear(make, pooled_rows(make, x)), make("Gemm", pooled_rows(make, small), OTHER, transB=1))


# --- Whole models -----------------------------------------------------------------------------------------------------


def classifier(name: str, opset: int | None = None, size: tuple[Any, ...] = ("N", 3, 2 * H, 2 * W)) -> Any:
    """A model of a head, by name."""
    build, lowest = (HEADS[name][0], HEADS[name][2]) if name in HEADS else (REFUSED[name][0], 17)
    make = Maker(opset or max(lowest, 17))
    logits = build(make, trunk(make))
    return make.model({logits: ["N", K]}, size)


def pictures(count: int, size_hw: tuple[int, int] = (2 * H, 2 * W), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, *size_hw)).astype(np.float32)


def wanted(name: str, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, maps and bias of a head, from its definition."""
    maps, bias = HEADS[name][1](features(batch))
    bias = np.broadcast_to(np.asarray(bias, np.float64), (K,))
    return maps.sum((2, 3)) + bias, maps, bias
