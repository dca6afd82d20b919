"""ONNX files of old opsets, odd sizes, several outputs, quantized, half precision, or of no classifier."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from wild_networks import BIAS, FLOAT, SIZE, WEIGHT, Built, C, Entry, Graph, K, info, network, of, softmaxed  # noqa: E402
from wild_pictures import LABELS  # noqa: E402

from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def also(*extra: tuple[str, str], first: bool = True) -> Callable[[Graph, str], list[tuple[str, int, list[Any]]]]:
    """Other outputs beside the scores: name and what: embedding, again, probabilities, classes, boxes, aux."""

    def end(make: Graph, x: str) -> list[tuple[str, int, list[Any]]]:
        pooled = next(node.input[0] for node in make.nodes if x in node.output)
        found: list[tuple[str, int, list[Any]]] = []
        for name, what in extra:
            if what == "embedding":
                make("Tanh", pooled, out=name)
                found.append((name, FLOAT, ["N", C]))
            elif what == "again":
                make("Identity", x, out=name)
                found.append((name, FLOAT, ["N", K]))
            elif what == "probabilities":
                make("Softmax", x, axis=1, out=name)
                found.append((name, FLOAT, ["N", K]))
            elif what == "class":
                make("ArgMax", x, axis=1, keepdims=0, out=name)
                found.append((name, TensorProto.INT64, ["N"]))
            elif what == "aux":
                make("Gemm", pooled, WEIGHT[::-1] * np.float32(0.3), BIAS, transB=1, out=name)
                found.append((name, FLOAT, ["N", K]))
        own = (x, FLOAT, ["N", K])
        return [*found, own] if first else [own, *found]

    return end


def only(what: str) -> Callable[[Graph, str], list[tuple[str, Any, Any]]]:
    def end(make: Graph, x: str) -> list[tuple[str, Any, Any]]:
        make("ArgMax", x, axis=1, keepdims=0, out=what)
        return [(what, TensorProto.INT64, ["N"])]

    return end


def zipmapped(words: bool, keep_scores: bool = False) -> Callable[[Path], Built]:
    """classLabel and a sequence of dictionaries, as classifiers of other converters end."""

    def build(folder: Path) -> Built:
        def end(make: Graph, x: str) -> list[tuple[str, int, list[Any]]]:
            make("Softmax", x, axis=1, out="probabilities")
            names = [label.encode() for label in LABELS]
            extra = {"classlabels_strings": names} if words else {"classlabels_int64s": list(range(K))}
            make("ZipMap", "probabilities", out="classProbability", domain="ai.onnx.ml", **extra)
            if words:
                which = make("ArgMax", x, axis=1, keepdims=0)
                make("LabelEncoder", which, out="classLabel", domain="ai.onnx.ml", keys_int64s=list(range(K)),
                     values_strings=names)  # fmt: skip
            else:
                make("ArgMax", x, axis=1, keepdims=0, out="classLabel")
            own = [("probabilities", FLOAT, ["N", K])] if keep_scores else []
            return [("classLabel", TensorProto.STRING if words else TensorProto.INT64, ["N"]), *own]

        built = network(end=end, opset=13)
        key = helper.make_tensor_type_proto(FLOAT, None)
        kind = TensorProto.STRING if words else TensorProto.INT64
        sequence = helper.make_sequence_type_proto(helper.make_map_type_proto(kind, key))
        built.model.graph.output.append(helper.make_value_info("classProbability", sequence))
        built.reference = built.model
        return built

    return build


def quantized(form: str) -> Callable[[Path], Built]:
    def build(folder: Path) -> Built:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic
        from onnxruntime.quantization import quantize_static as static

        built = network()
        source, target = folder / "float.onnx", folder / "quantized.onnx"
        onnx.save(built.model, source)

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.batches = iter(np.random.default_rng(0).normal(size=(4, 2, *built.shape)).astype(np.float32))

            def get_next(self) -> Any:
                batch = next(self.batches, None)
                return None if batch is None else {"pictures": batch}

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if form == "dynamic":
                quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
            else:
                kind = QuantFormat.QOperator if form == "QOperator" else QuantFormat.QDQ
                static(source, target, Reader(), quant_format=kind, activation_type=QuantType.QUInt8,
                       weight_type=QuantType.QInt8)  # fmt: skip
        built.model = onnx.load(target)
        built.tolerance = 0.08
        return built

    return build


def half(keep: bool) -> Callable[[Path], Built]:
    def build(folder: Path) -> Built:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        built = network()
        copy = onnx.ModelProto.FromString(built.model.SerializeToString())
        built.model = convert_float_to_float16(copy, keep_io_types=keep)
        built.tolerance = 2e-2
        return built

    return build


def unsorted(folder: Path) -> Built:
    """Nodes listed behind those that read them, as some converters leave them; ONNX Runtime sorts by itself."""
    built = network()
    built.reference = onnx.ModelProto.FromString(built.model.SerializeToString())
    nodes = list(built.model.graph.node)[::-1]
    del built.model.graph.node[:]
    built.model.graph.node.extend(nodes)
    return built


def called_logits(build: Callable[[Path], Built]) -> Callable[[Path], Built]:
    """The same, its output called ``logits``: a name is no shape."""

    def renamed(folder: Path) -> Built:
        built = build(folder)
        built.model.graph.output[0].name = built.model.graph.node[-1].output[0] = "logits"
        return built

    return renamed


def sequence(kind: str) -> Callable[[Path], Built]:
    """Outputs that are no (pictures, classes): a recognizer's columns, masks, boxes, a sequence of tensors."""

    def build(folder: Path) -> Built:
        make = Graph()
        rng = np.random.default_rng(5)
        x = make("Conv", "pictures", rng.normal(size=(C, 3, 8, 8)).astype(np.float32), strides=[8, 8])
        x = make("Relu", x, out="features")
        wide = rng.normal(size=(K, C, 1, 1)).astype(np.float32)
        outputs: list[Any]
        if kind in ("N, T, K", "T, N, K"):
            x = make("MatMul", make("Transpose", make.mean(x, [2]), perm=[0, 2, 1]), WEIGHT.T.copy())
            x = make("Transpose", x, perm=[1, 0, 2]) if kind == "T, N, K" else x
            make("Softmax", x, axis=2, out="scores")
            outputs = [info("scores", FLOAT, ["N", 7, K] if kind == "N, T, K" else [7, "N", K])]
        elif kind == "mask":
            make("Sigmoid", make("Conv", x, wide), out="scores")
            outputs = [info("scores", FLOAT, ["N", K, 5, 7])]
        elif kind == "boxes":
            make("Reshape", make("Conv", x, wide), np.int64([0, K, -1]), out="scores")
            outputs = [info("scores", FLOAT, ["N", K, 35])]
        else:
            make("SequenceConstruct", make.mean(x, [2, 3]), out="scores")
            outputs = [helper.make_value_info("scores", helper.make_sequence_type_proto(
                helper.make_tensor_type_proto(FLOAT, ["N", C])))]  # fmt: skip
        tensors = [numpy_helper.from_array(value, name) for name, value in make.constants.items()]
        graph = helper.make_graph(make.nodes, "net", [info("pictures", FLOAT, ["N", 3, *SIZE])], outputs, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return Built(model, model, None)

    return build


def e17() -> list[Entry]:
    one, ask = ("exact",), ("refused",)
    any_ = ("exact", "refused")
    choose = r"output"
    free = {"pool": "GlobalAveragePool"}
    old = r"opset"
    return [
        *[Entry("E17", f"opset {n}", of(opset=n, ir=4), one) for n in (7, 8, 9, 10)],
        Entry("E17", "opset 6", of(opset=6, ir=4, pool="ReduceMean"), any_, old),
        Entry("E17", "opset 10, softmax at the end", of(opset=10, ir=5, end=softmaxed), one),
        Entry("E17", "IR 3, initializers are inputs", of(opset=8, ir=3, inputs_too=True), one),
        Entry("E17", "IR 4, opset 9, initializers are inputs", of(opset=9, ir=4, inputs_too=True), one),
        Entry("E17", "opset 17, initializers are inputs", of(inputs_too=True), one),
        Entry("E17", "sizes -1", of(dims=[-1, 3, -1, -1], **free), one),
        Entry("E17", "batch -1", of(dims=[-1, 3, *SIZE]), one),
        Entry("E17", "sizes 0", of(dims=[0, 3, 0, 0], **free), one),
        Entry("E17", "batch 0", of(dims=[0, 3, *SIZE]), one),
        Entry("E17", "sizes without a name", of(dims=[None, 3, None, None], **free), one),
        Entry("E17", "sizes by name", of(dims=["N", 3, "H", "W"], **free), one),
        Entry("E17", "one name for two sizes", of(dims=["N", 3, "side", "side"], size=(48, 48), **free), one),
        Entry("E17", "all sizes -1", of(dims=[-1, -1, -1, -1], **free), any_, r"channels|input"),
        Entry("E17", "no shape at all", of(dims=None, **free), any_, r"shape|input"),
        Entry("E17", "batch 1", of(dims=[1, 3, *SIZE]), one),
        Entry("E17", "batch 4", of(dims=[4, 3, *SIZE]), one),
        Entry("E17", "embedding, scores", of(end=also(("embedding", "embedding"))), ("exact", "refused"), choose),
        Entry("E17", "scores, embedding", of(end=also(("embedding", "embedding"), first=False)), any_, choose),
        Entry("E17", "two outputs without telling names", of(end=also(("output_0", "embedding"))), any_, choose),
        Entry("E17", "probabilities, scores", of(end=also(("probabilities", "probabilities"))), one),
        Entry("E17", "class, scores", of(end=also(("class", "class"))), one),
        Entry("E17", "scores, then the same again", of(end=also(("again", "again"))), one),
        Entry("E17", "an auxiliary head first", of(end=also(("aux", "aux"))), any_, choose),
        Entry("E17", "an auxiliary head behind", of(end=also(("head_b", "aux"), first=False)), any_, choose),
        Entry("E17", "class number alone", of(end=only("class")), any_, r"int64|class"),
        Entry("E17", "classLabel and ZipMap, words", zipmapped(True), any_, r"ZipMap|classProbability|export"),
        Entry("E17", "classLabel and ZipMap, numbers", zipmapped(False), any_, r"ZipMap|classProbability|export"),
        Entry("E17", "classLabel, probabilities and ZipMap", zipmapped(True, True), any_, r"ZipMap|classProbability"),
        Entry("E17", "QOperator", quantized("QOperator"), ("exact", "advised"), r"Linear|quanti|QDQ|int8"),
        Entry("E17", "QDQ", quantized("QDQ"), one),
        Entry("E17", "dynamic int8", quantized("dynamic"), ("exact", "advised"), r"Integer|quanti|int8"),
        Entry("E17", "float16", half(False), one),
        Entry("E17", "float16 inside, float32 outside", half(True), one),
        Entry("E17", "nodes in reverse order", unsorted, one),
        Entry("E17", "columns (N, T, K)", sequence("N, T, K"), ask, r"shape|columns|one row of logits"),
        Entry("E17", "columns (T, N, K)", sequence("T, N, K"), ask, r"shape|columns|one row of logits"),
        Entry("E17", "columns (T, N, K), called logits", called_logits(sequence("T, N, K")), ask, r"shape|columns"),
        Entry("E17", "a mask, called logits", called_logits(sequence("mask")), ask, r"shape|mask|one row of logits"),
        Entry("E17", "a mask", sequence("mask"), ask, r"shape|mask|one row of logits"),
        Entry("E17", "boxes", sequence("boxes"), ask, r"shape|box|one row of logits"),
        Entry("E17", "a sequence of tensors", sequence("sequence"), ask, r"seq|shape|one row of logits"),
    ]  # fmt: skip
