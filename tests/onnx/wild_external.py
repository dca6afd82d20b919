"""ONNX files whose weights lie in a second file: beside the model, elsewhere, behind links, nowhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from wild_networks import FLOAT, Built, C, Entry, K, imagenet, info, network  # noqa: E402

from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def outside(*names: str, location: str, real: str | None = None, cwd: str = "elsewhere", decoy: str | None = None,
            sub: bool = False, **place: str) -> Callable[[Path], Built]:  # fmt: skip
    """Weights ``names`` at ``location``; their bytes lie at ``real`` (None: nowhere), other bytes at ``decoy``.

    Places are below the test's folder, in which the model is ``downloads/model.onnx``; ``cwd`` is a folder there too.
    """

    def build(folder: Path) -> Built:
        built = network()
        built.reference = onnx.ModelProto.FromString(built.model.SerializeToString())
        if sub:
            branch(built.model)
        data, held = bytearray(), []
        for tensor in every_tensor(built.model):
            if tensor.name in names:
                held.append((tensor, len(data), len(tensor.raw_data)))
                data += tensor.raw_data
        for tensor, offset, length in held:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            told = {"location": location.replace("{root}", str(folder)), "offset": str(offset), "length": str(length)}
            for key, value in {**told, **place}.items():
                tensor.external_data.add(key=key, value=value)
        for path, content in ((real, bytes(data)), (decoy, bytes(len(data)))):
            if path is not None:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        built.place, built.cwd, built.prepare = "downloads/model.onnx", cwd, imagenet
        return built

    return build


def every_tensor(model: Any) -> Iterator[Any]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from attribute.g.initializer


def branch(model: Any) -> None:
    """Move the head's weight into both branches of an If, as an initializer of its own there."""
    graph = model.graph
    weight = next(one for one in graph.initializer if one.name == "head_weight")
    kept = [one for one in graph.initializer if one.name != "head_weight"]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    parts = []
    for name in ("then", "else"):
        own = onnx.TensorProto.FromString(weight.SerializeToString())
        inner = helper.make_node("Identity", ["head_weight"], [f"{name}_out"])
        inner.input[0] = own.name = f"head_weight_{name}" if name == "else" else "head_weight"
        parts.append(helper.make_graph([inner], name, [], [info(f"{name}_out", FLOAT, [K, C])], [own]))
    node = helper.make_node("If", ["yes"], ["chosen"], then_branch=parts[0], else_branch=parts[1])
    gemm = next(one for one in graph.node if one.op_type == "Gemm")
    gemm.input[1] = "chosen"
    nodes = [node, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def linked(what: str) -> Callable[[Path], Built]:
    def build(folder: Path) -> Built:
        if what == "model":
            built = outside("head_weight", location="weights.bin", real="store/weights.bin")(folder)
            built.place = "store/model.onnx"
            (folder / "downloads").mkdir(exist_ok=True)
            (folder / "downloads" / "model.onnx").symlink_to(folder / "store" / "model.onnx")
            return built
        inside = "sub/weights.bin" if what == "folder" else "weights.bin"
        built = outside("head_weight", location=inside, real="secret/weights.bin")(folder)
        (folder / "downloads").mkdir(exist_ok=True)
        target = folder / "downloads" / inside
        if what == "folder":
            target.parent.symlink_to(folder / "secret")
        elif what == "file":
            target.symlink_to(folder / "secret" / "weights.bin")
        elif what == "pipe":
            os.mkfifo(target)
        return built

    return build


def constant_outside(folder: Path) -> Built:
    """The head's weight in a Constant node, kept in a file that lies below the working folder alone."""
    built = outside("head_weight", location="data/secret.bin", real="elsewhere/data/secret.bin")(folder)
    graph = built.model.graph
    weight = next(one for one in graph.initializer if one.name == "head_weight")
    kept = [one for one in graph.initializer if one.name != "head_weight"]
    node = helper.make_node("Constant", [], ["head_weight"], value=weight)
    nodes = [node, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return built


def e15() -> list[Entry]:
    no = ("refused",)
    both = ("exact", "refused")
    far = r"outside|not followed|never followed|beside"
    here = {"location": "weights.bin", "real": "downloads/weights.bin"}
    secret = {"location": "data/secret.bin", "real": "elsewhere/data/secret.bin"}
    return [
        Entry("E15", "beside the model", outside("head_weight", **here), ("exact",)),
        Entry("E15", "beside the model, from its own folder", outside("head_weight", **here, cwd="downloads"),
              ("exact",)),
        Entry("E15", "two tensors in one file", outside("trunk_weight", "head_weight", **here), ("exact",)),
        Entry("E15", "beside, other bytes below the working folder",
              outside("head_weight", **here, decoy="elsewhere/weights.bin"), ("exact",)),
        Entry("E15", "in a folder below the model", outside("head_weight", location="data/weights.bin",
              real="downloads/data/weights.bin"), both, far),
        Entry("E15", "with ./ before its name", outside("head_weight", location="./weights.bin",
              real="downloads/weights.bin"), both, far),
        Entry("E15", "below the working folder alone", outside("head_weight", **secret), no, far),
        Entry("E15", "all weights below the working folder", outside("trunk_weight", "head_weight", **secret), no, far),
        Entry("E15", "one beside, one below the working folder", mixed, no, far),
        Entry("E15", "absolute", outside("head_weight", location="{root}/weights.bin", real="weights.bin"), no, far),
        Entry("E15", "absolute, to where the model is", outside("head_weight", location="{root}/downloads/weights.bin",
              real="downloads/weights.bin"), no, far),
        Entry("E15", "in the folder above", outside("head_weight", location="../weights.bin", real="weights.bin"), no,
              far),
        Entry("E15", "through a folder and back", outside("head_weight", location="sub/../weights.bin",
              real="downloads/weights.bin"), no, far),
        Entry("E15", "a backslash", outside("head_weight", location="..\\weights.bin", real="weights.bin"), no, far),
        Entry("E15", "a link to a file", linked("file"), no, r"link|not followed|never followed"),
        Entry("E15", "a folder that is a link", linked("folder"), no, r"link|not followed|never followed"),
        Entry("E15", "a pipe", linked("pipe"), no, r"not beside|plain file|not followed|never followed"),
        Entry("E15", "the model itself a link, weights beside its target", linked("model"), both, far),
        Entry("E15", "missing", outside("head_weight", location="weights.bin"), no, r"weights\.bin"),
        Entry("E15", "no place", outside("head_weight", location="", real="downloads/weights.bin"), no, far),
        Entry("E15", "beyond the end of the file", outside("head_weight", **here, offset="4000"), no, r"does not hold"),
        Entry("E15", "an offset that is no number", outside("head_weight", **here, offset="x"), no, r"not a number"),
        Entry("E15", "an offset below zero", outside("head_weight", **here, offset="-8"), no, r"does not hold|below"),
        Entry("E15", "in a branch, beside", outside("head_weight", "head_weight_else", **here, sub=True), both, ""),
        Entry("E15", "in a branch, below the working folder",
              outside("head_weight", "head_weight_else", **secret, sub=True), no, far),
        Entry("E15", "of a Constant node, below the working folder", constant_outside, no, far),
    ]  # fmt: skip


def mixed(folder: Path) -> Built:
    built = outside("head_weight", location="weights.bin", real="downloads/weights.bin")(folder)
    other = outside("trunk_weight", location="data/secret.bin", real="elsewhere/data/secret.bin")(folder)
    trunk = next(one for one in other.model.graph.initializer if one.name == "trunk_weight")
    next(one for one in built.model.graph.initializer if one.name == "trunk_weight").CopyFrom(trunk)
    return built
