"""Graph surgery: maps of hand-made classifiers against their definitions, in every opset, with every option."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

onnx = pytest.importorskip("onnx")

from classifiers import (  # noqa: E402
    BIAS,
    HEADS,
    REFUSED,
    WEIGHT,
    C,
    H,
    K,
    Maker,
    W,
    classifier,
    features,
    pictures,
    pooled_rows,
    trunk,
    wanted,
)

from camlucida.errors import ExportError  # noqa: E402
from camlucida.export.picture_outputs import PictureOutputs  # noqa: E402
from camlucida.export.surgery import AFFINE, NORMALIZED, add_maps  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

NORMS = ("norm", "unit_length")


def run(model: Any, batch: np.ndarray) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: batch}), strict=True))


def close(a: np.ndarray, b: np.ndarray, share: float = 1e-5) -> None:
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= share * np.ptp(b)


@pytest.mark.parametrize("name", HEADS)
def test_maps_are_those_of_the_definition(name: str):
    model = classifier(name)
    before = model.SerializeToString()
    new, facts = add_maps(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(new, full_check=True)
    for count in (1, 3):
        batch = pictures(count, seed=count)
        out, old = run(new, batch), run(model, batch)
        logits, maps, bias = wanted(name, batch)
        close(out["logits"], logits)
        close(out["maps"], maps)
        close(out["bias"] + out["maps"].astype(np.float64).sum((2, 3)), logits)
        assert np.abs(out["bias"] - bias).max() <= 1e-5 * np.ptp(logits)
        assert out["maps"].dtype == out["bias"].dtype == np.float32
        for key, value in old.items():  # other fusions may round otherwise
            close(out[key], value, 1e-6)
    held = any(norm in name for norm in NORMS) and name != "batch_norm"
    assert facts.head == (NORMALIZED if held else AFFINE)
    assert facts.grid == (H, W)
    assert facts.classes == K


@pytest.mark.parametrize("name", HEADS)
def test_no_weight_is_stored_twice(name: str):
    model = classifier(name)
    new, _ = add_maps(model)
    known = {one.name for one in model.graph.initializer}
    added = [one for one in new.graph.initializer if one.name not in known]
    assert all(np.prod(one.dims) < K * C for one in added)


@pytest.mark.parametrize("name", HEADS)
def test_maps_of_the_likeliest_classes_alone(name: str):
    new, _ = add_maps(classifier(name), PictureOutputs(top=2))
    onnx.checker.check_model(new, full_check=True)
    batch = pictures(3)
    out = run(new, batch)
    logits, maps, bias = wanted(name, batch)
    ids = np.argsort(-logits, 1)[:, :2]
    assert np.array_equal(out["top_ids"], ids)
    close(out["maps"], np.take_along_axis(maps, ids[:, :, None, None], 1))
    assert np.abs(out["bias"] - bias[ids]).max() <= 1e-5 * np.ptp(logits)
    assert out["top_ids"].dtype == np.int64


@pytest.mark.parametrize("opset", range(11, onnx.defs.onnx_opset_version() + 1))
@pytest.mark.parametrize("name", ["gemm", "sum_pooling", "layer_norm_in_parts", "tokens_without_the_class_token"])
def test_every_opset_is_kept(name: str, opset: int):
    model = classifier(name, opset)
    if opset > 22:
        try:
            run(model, pictures(1))
        except Exception as error:
            pytest.skip(f"this ONNX Runtime does not run opset {opset}: {str(error)[:100]}")
    batch = pictures(2)
    logits, maps, _ = wanted(name, batch)
    for options in ({}, {"top": 2}, {"top": 2, "upsample": "input", "boxes": 0.2}):
        new, _ = add_maps(model, PictureOutputs(**options))
        onnx.checker.check_model(new, full_check=True)
        assert new.opset_import[0].version == opset
        out = run(new, batch)
        close(out["logits"], logits)
        if not options:
            close(out["maps"], maps)


def test_any_height_and_width():
    for name in ("gemm", "mean_matmul_add", "sum_pooling", "tokens", "channels_last", "positions_behind_channels"):
        outputs = PictureOutputs(upsample="input", boxes=0.2)
        new, facts = add_maps(classifier(name, size=("N", 3, "h", "w")), outputs, size_hw=(16, 20))
        assert facts.grid == (8, 10)
        for size in ((8, 12), (10, 4)):
            batch = pictures(2, size)
            out = run(new, batch)
            f = features(batch)
            maps = np.einsum("kc,nchw->nkhw", WEIGHT.astype(np.float64), f)
            maps /= 1 if name == "sum_pooling" else f.shape[2] * f.shape[3]
            close(out["maps"], maps)
            close(out["maps"].sum((2, 3)) + BIAS, out["logits"])
            assert out["heatmaps"].shape == (2, K, *size)


def test_a_fixed_batch_is_kept():
    new, _ = add_maps(classifier("gemm", size=(1, 3, 2 * H, 2 * W)))
    assert [dim.dim_value for dim in new.graph.output[-2].type.tensor_type.shape.dim] == [1, K, H, W]
    batch = pictures(1)
    close(run(new, batch)["maps"], wanted("gemm", batch)[1])


# --- Outputs and their names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "activation"), [("Softmax", "softmax"), ("LogSoftmax", "softmax"), ("Sigmoid", "sigmoid")]
)
def test_logits_are_taken_before_the_last_activation(op: str, activation: str):
    make = Maker()
    scores = HEADS["gemm"][0](make, trunk(make))
    make(op, scores, out="probabilities", **({"axis": 1} if op != "Sigmoid" else {}))
    new, facts = add_maps(make.model({"probabilities": ["N", K]}))
    assert facts.activation == activation
    batch = pictures(2)
    out = run(new, batch)
    close(out["logits"], wanted("gemm", batch)[0])
    assert set(out) == {"probabilities", "logits", "maps", "bias"}


def test_a_softmax_over_channels_of_a_1x1_grid():
    make = Maker(12)
    scored = make("Conv", make("GlobalAveragePool", trunk(make)), WEIGHT[:, :, None, None], BIAS)
    make("Softmax", scored, axis=1, out="softmaxout")
    new, _ = add_maps(make.model({"softmaxout": ["N", K, 1, 1]}))
    batch = pictures(2)
    out = run(new, batch)
    close(out["logits"], wanted("gemm", batch)[0])
    close(out["maps"], wanted("gemm", batch)[1])
    assert out["softmaxout"].shape == (2, K, 1, 1)


def test_of_several_outputs_the_first_row_of_numbers_counts_and_all_are_kept():
    make = Maker()
    x = trunk(make)
    scores = HEADS["gemm"][0](make, x)
    likeliest = make("ArgMax", scores, axis=1, keepdims=0)
    model = make.model({x: ["N", C, H, W], scores: ["N", K]})
    model.graph.output.append(helper.make_tensor_value_info(likeliest, TensorProto.INT64, ["N"]))
    batch = pictures(2)
    new, _ = add_maps(model)
    out, old = run(new, batch), run(model, batch)
    assert all(np.array_equal(out[name], value) for name, value in old.items())
    close(out["maps"], wanted("gemm", batch)[1])


def test_inner_tensors_may_be_called_as_the_new_outputs_are():
    make = Maker()
    x = make("Identity", trunk(make), out="maps")
    pooled = make("Flatten", make("GlobalAveragePool", x, out="bias"), out="top_ids")
    logits = make("Gemm", pooled, WEIGHT, BIAS, transB=1, out="logits")
    make("Softmax", logits, axis=1, out="probabilities")
    batch = pictures(2)
    for options in ({}, {"top": 3}):
        new, _ = add_maps(make.model({"probabilities": ["N", K]}), PictureOutputs(**options))
        close(run(new, batch)["logits"], wanted("gemm", batch)[0])


def test_logits_that_are_an_output_of_that_name_stay_that_output():
    make = Maker()
    make("Gemm", pooled_rows(make, trunk(make)), WEIGHT, BIAS, transB=1, out="logits")
    new, _ = add_maps(make.model({"logits": ["N", K]}))
    assert [output.name for output in new.graph.output] == ["logits", "maps", "bias"]


def test_a_single_logit():
    make = Maker()
    make("Sigmoid", make("Gemm", pooled_rows(make, trunk(make)), WEIGHT[:1], BIAS[:1], transB=1), out="yes")
    new, facts = add_maps(make.model({"yes": ["N", 1]}), PictureOutputs(boxes=0.2))
    batch = pictures(2)
    out = run(new, batch)
    assert facts.classes == 1
    maps = wanted("gemm", batch)[1][:, :1]
    close(out["maps"], maps)
    close(out["logits"], maps.sum((2, 3)) + BIAS[:1])


def test_pictures_with_channels_last():
    make = Maker()
    x = trunk(make, make("Transpose", "pictures", perm=[0, 3, 1, 2]))
    scores = HEADS["channels_last"][0](make, x)
    model = make.model({scores: ["N", K]}, ("N", 2 * H, 2 * W, 3))
    new, facts = add_maps(model, PictureOutputs(upsample="input", boxes=0.1))
    assert facts.features == f"NHWC {H}×{W}×{C}"
    batch = pictures(2)
    out = run(new, np.ascontiguousarray(batch.transpose(0, 2, 3, 1)))
    close(out["maps"], wanted("gemm", batch)[1])
    assert out["heatmaps"].shape == (2, K, 2 * H, 2 * W)


# --- Types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gemm", "layer_norm_in_parts", "mean_matmul_add", "batch_norm", "flattened_grid"])
@pytest.mark.parametrize("kind", ["FLOAT16", "DOUBLE"])
def test_other_floating_point_types(name: str, kind: str):
    half = kind == "FLOAT16"
    make = Maker(17, TensorProto.FLOAT16 if half else TensorProto.FLOAT)
    x = trunk(make) if half else make("Cast", trunk(make), to=TensorProto.DOUBLE)  # ONNX Runtime convolves no doubles
    make.kind = getattr(TensorProto, kind)
    scores = HEADS[name][0](make, x)
    model = make.model({scores: ["N", K]})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    batch = pictures(2)
    for options in ({}, {"top": K}):
        new, facts = add_maps(model, PictureOutputs(**options))
        onnx.checker.check_model(new, full_check=True)
        assert facts.precision == ("half" if half else "")
        out = run(new, batch.astype(np.float16 if half else np.float32))
        _, maps, _ = wanted(name, batch)
        maps = maps if not options else np.take_along_axis(maps, out["top_ids"][:, :, None, None], 1)
        assert out["maps"].dtype == out["logits"].dtype == np.float32
        close(out["maps"], maps, 1e-2 if half else 1e-5)


def test_a_cast_in_the_head():
    make = Maker(17, TensorProto.FLOAT16)
    pooled = make("Cast", pooled_rows(make, trunk(make)), to=TensorProto.FLOAT)
    make.kind = TensorProto.FLOAT
    logits = make("Gemm", pooled, WEIGHT, BIAS, transB=1)
    model = make.model({logits: ["N", K]})
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    new, facts = add_maps(model)
    batch = pictures(2)
    close(run(new, batch.astype(np.float16))["maps"], wanted("gemm", batch)[1], 1e-2)
    assert facts.precision == "half"


def quantized() -> Any:
    """The features, the pooled features, the weight and the logits go through 8 bits, as quantizers write it."""
    make = Maker(13)

    def through(x: str, low: float, high: float) -> str:
        scale = np.float32((high - low) / 255)
        zero = np.array(round(-low / scale), np.uint8)
        return make("DequantizeLinear", make("QuantizeLinear", x, scale, zero), scale, zero)

    x = through(trunk(make), 0.0, 16.0)
    pooled = through(make("Flatten", through(make("GlobalAveragePool", x), 0.0, 4.0)), 0.0, 4.0)
    step = np.float32(np.abs(WEIGHT).max() / 127)
    weight = make("DequantizeLinear", np.rint(WEIGHT / step).astype(np.int8), step, np.array(0, np.int8))
    fine = np.float32(step * 2 / 255)
    bias = make("DequantizeLinear", np.rint(BIAS / fine).astype(np.int32), fine)
    through(make("Gemm", pooled, weight, bias, transB=1), -16.0, 16.0)
    output = make.nodes[-1].output[0]
    return make.model({output: ["N", K]})


@pytest.mark.parametrize("top", [None, 3])
def test_graphs_that_compute_in_eight_bits(top: int | None):
    new, facts = add_maps(quantized(), PictureOutputs(top=top))
    assert facts.precision == "int8"
    batch = pictures(3)
    out = run(new, batch)
    logits, maps, _ = wanted("gemm", batch)
    if top:
        maps = np.take_along_axis(maps, out["top_ids"][:, :, None, None], 1)
        logits = np.take_along_axis(logits, out["top_ids"], 1)
    close(out["maps"], maps, 3e-2)
    close(out["maps"].sum((2, 3)) + out["bias"], logits, 3e-2)


# --- Heatmaps and boxes -----------------------------------------------------------------------------------------------


def bilinear(one: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel bilinear, held at the edges, pixel by pixel."""
    h, w = one.shape
    laid = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        v, u = np.clip((y + 0.5) * h / height - 0.5, 0, h - 1), np.clip((x + 0.5) * w / width - 0.5, 0, w - 1)
        y0, x0 = int(v), int(u)
        y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
        top = one[y0, x0] * (1 - (u - x0)) + one[y0, x1] * (u - x0)
        low = one[y1, x0] * (1 - (u - x0)) + one[y1, x1] * (u - x0)
        laid[y, x] = top * (1 - (v - y0)) + low * (v - y0)
    return laid


def box(one: np.ndarray, threshold: float) -> list[int]:
    """Around all that is above the share of the maximum, cell by cell; zeros where there is nothing."""
    cells = [(y, x) for y, x in np.ndindex(one.shape) if one[y, x] > max(threshold * one.max(), 0)]
    if not cells:
        return [0, 0, 0, 0]
    ys, xs = [y for y, _ in cells], [x for _, x in cells]
    return [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


@pytest.mark.parametrize(("upsample", "size"), [("input", (2 * H, 2 * W)), ((7, 31), (7, 31)), ((2, 3), (2, 3))])
def test_heatmaps_are_the_maps_laid_over_the_picture(upsample: Any, size: tuple[int, int]):
    new, _ = add_maps(classifier("gemm"), PictureOutputs(upsample=upsample))
    out = run(new, pictures(2))
    want = np.array([[bilinear(one, *size) for one in row] for row in out["maps"]])
    close(out["heatmaps"], want, 1e-6)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("upsample", [None, "input"])
def test_boxes_hold_what_is_above_the_threshold(threshold: float, upsample: Any):
    new, _ = add_maps(classifier("gemm"), PictureOutputs(boxes=threshold, upsample=upsample))
    out = run(new, pictures(4))
    laid = out["heatmaps"] if upsample else out["maps"]
    scale = 1 if upsample else 2  # a cell is 2×2 pixels of the input
    want = np.array([[box(one, threshold) for one in row] for row in laid]) * scale
    assert np.array_equal(out["boxes"], want)
    assert len({tuple(one) for one in want.reshape(-1, 4)}) > 3


def test_there_is_no_box_where_a_map_is_nowhere_positive():
    make = Maker()
    make("Gemm", pooled_rows(make, trunk(make)), -np.abs(WEIGHT), BIAS, transB=1, out="scores")
    new, _ = add_maps(make.model({"scores": ["N", K]}), PictureOutputs(boxes=0.2))
    assert not run(new, pictures(2))["boxes"].any()


# --- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_heads_without_exact_maps_are_refused_in_words(name: str):
    build, message = REFUSED[name]
    make = Maker(17)
    logits = build(make, trunk(make))
    with pytest.raises(ExportError, match=rf"^net.onnx: .*{message}") as caught:
        add_maps(make.model({logits: ["N", K]}), name="net.onnx")
    assert "\n" not in str(caught.value)
    if name not in ("two_grids", "tokens_of_no_grid"):
        assert "a method that needs no gradient (rise, occlusion) explains such a model" in str(caught.value)


def named_output(name: str) -> Any:
    make = Maker()
    scores = HEADS["gemm"][0](make, trunk(make))
    make("Softmax", scores, axis=1, out=name)
    return make.model({name: ["N", K]})


def two_inputs() -> Any:
    model = classifier("gemm")
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, ["N", 3]))
    return model


def rank_3() -> Any:
    make = Maker()
    make("ReduceMean", "pictures", axes=[2], keepdims=0, out="scores")
    return make.model({"scores": ["N", 3]}, ("N", 3, 8))


def no_row() -> Any:
    make = Maker()
    return make.model({trunk(make): ["N", C, H, W]})


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (named_output("maps"), {}, r"already has an input or output 'maps' of its own; give it another name"),
        (named_output("logits"), {}, r"already has an input or output 'logits' of its own"),
        (two_inputs(), {}, r"expected one input of pictures, got pictures, second"),
        (rank_3(), {}, r"expected an input of pictures \(N, C, H, W\) or \(N, H, W, C\), got 3 axes"),
        (no_row(), {}, r"none of its outputs \(relu_1\) is one row of logits a picture"),
        (classifier("gemm"), {"top": 6}, r"has 5 classes, fewer than the 6 asked"),
        (classifier("gemm"), {"top": 0}, r"top: expected at least 1 class, got 0"),
        (classifier("gemm"), {"boxes": 1.0}, r"boxes: expected a share of the maximum in \[0, 1\), got 1.0"),
        (classifier("gemm"), {"upsample": (0, 5)}, r"upsample: expected a height and width of 1 to 4096 pixels"),
    ],
)
def test_what_cannot_be_done_is_said(model: Any, options: dict[str, Any], message: str):
    with pytest.raises(ExportError, match=message):
        add_maps(model, PictureOutputs(**options))


def test_nodes_may_stand_in_any_order():
    """ONNX asks for an order that not every writer keeps."""
    from camlucida.onnx.load import sort_nodes

    model = classifier("layer_norm_in_parts")
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    sort_nodes(model.graph, "net.onnx")
    assert [node.name for node in model.graph.node] == [node.name for node in nodes]
    onnx.checker.check_model(model)
    before = model.SerializeToString()
    sort_nodes(model.graph, "net.onnx")
    assert model.SerializeToString() == before


def test_weights_may_also_be_listed_as_inputs():
    model = classifier("gemm", 11)
    for one in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(one.name, one.data_type, one.dims))
    batch = pictures(2)
    close(run(add_maps(model)[0], batch)["maps"], wanted("gemm", batch)[1])


def test_constants_may_be_nodes():
    model = classifier("layer_norm_in_parts")
    stored = list(model.graph.initializer)
    del model.graph.initializer[:]
    for one in stored:
        node = helper.make_node("Constant", [], [one.name], value=numpy_helper.from_array(numpy_helper.to_array(one)))
        model.graph.node.insert(0, node)
    batch = pictures(2)
    close(run(add_maps(model)[0], batch)["maps"], wanted("layer_norm_in_parts", batch)[1])
