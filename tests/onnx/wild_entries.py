"""ONNX files with anybody's metadata, and with grids of all proportions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

onnx = pytest.importorskip("onnx")
from wild_networks import Built, Entry, of  # noqa: E402
from wild_pictures import LABELS  # noqa: E402


def e18() -> list[Entry]:
    def told(key: str, value: str) -> Callable[[Path], Built]:
        return of(metadata={key: value})

    def entry(name: str, key: str, value: str, *wanted: str) -> Entry:
        return Entry("E18", name, told(key, value), wanted or ("noted",), re.escape(key))

    return [
        entry("labels with commas", "labels", "ant,bee,cat,dog", "noted", "exact"),
        entry("labels by line", "labels", "ant\nbee\ncat\ndog", "noted", "exact"),
        entry("too few labels", "labels", "ant,bee"),
        entry("labels as an object", "labels", '{"0": "ant", "1": "bee", "2": "cat", "3": "dog"}', "noted", "exact"),
        entry("labels that are numbers", "labels", "[1, 2, 3, 4]"),
        entry("labels of another number", "labels", '["ant", "bee"]'),
        entry("labels in lists", "labels", '[["ant"], ["bee"], ["cat"], ["dog"]]'),
        entry("labels null", "labels", "null", "noted", "exact"),
        entry("labels empty", "labels", "", "noted", "exact"),
        entry("labels of 5000 brackets", "labels", "[" * 5000),
        entry("preprocess as a word", "preprocess", "imagenet"),
        entry("preprocess a list", "preprocess", "[]"),
        entry("preprocess of other fields", "preprocess", '{"resize": 256, "crop": 224}'),
        entry("preprocess, a mean that is no number", "preprocess",
              '{"size_hw": [40, 56], "mean": ["a", "b", "c"], "std": [1, 1, 1]}'),
        entry("preprocess, one mean for all", "preprocess", '{"size_hw": [40, 56], "mean": 0.5, "std": 0.5}'),
        entry("preprocess, another size than the graph's", "preprocess", '{"size_hw": [224, 224]}'),
        entry("preprocess null", "preprocess", "null", "noted", "exact"),
        entry("activation in capitals", "activation", "Softmax", "noted", "exact"),
        entry("activation relu", "activation", "relu"),
        entry("calibration a word", "calibration", "isotonic"),
        entry("calibration empty", "calibration", "{}", "noted", "exact"),
        Entry("E18", "names as JSON", of(metadata={"names": json.dumps(LABELS)}, labels=LABELS), ("exact",)),
        Entry("E18", "PaddleOCR's character", of(metadata={"character": "\n".join(LABELS)}, labels=LABELS), ("exact",)),
        entry("classes with commas", "classes", "ant,bee,cat,dog", "exact"),
        entry("head of others", "head", "resnet", "exact"),
        entry("features of others", "features", "512", "exact"),
    ]  # fmt: skip


def e19() -> list[Entry]:
    def grid(size: tuple[int, int], kernel: tuple[int, int], **options: Any) -> Callable[[Path], Built]:
        return of(size=size, kernel=kernel, **options)

    line = (48, 192)
    free = ["N", 3, "H", "W"]
    return [
        Entry("E19", "text direction, 3×12", grid(line, (16, 16)), ("exact",)),
        Entry("E19", "text direction, 3×48", grid(line, (16, 4)), ("exact",)),
        Entry("E19", "text direction, 1×48", grid(line, (48, 4)), ("exact",)),
        Entry("E19", "text direction, 12×3", grid(line, (4, 64)), ("exact",)),
        Entry("E19", "text direction, 6×6", grid(line, (8, 32)), ("exact",)),
        Entry("E19", "text direction, 2×96", grid(line, (24, 2)), ("exact",)),
        Entry("E19", "upright lines, 48×3", grid((192, 48), (4, 16)), ("exact",)),
        Entry("E19", "square pictures, 3×56", grid((48, 56), (16, 1)), ("exact",)),
        Entry("E19", "square pictures, 14×56, free sizes", grid((224, 224), (16, 4), dims=free), ("exact",)),
        Entry("E19", "strides (2, 1)", grid((40, 56), (2, 1)), ("exact",)),
        Entry("E19", "strides (1, 2)", grid((40, 56), (1, 2)), ("exact",)),
        Entry("E19", "strides (8, 2)", grid((64, 64), (8, 2)), ("exact",)),
        Entry("E19", "strides (2, 8), -1", grid((224, 224), (2, 8), dims=[-1, 3, -1, -1]), ("exact",)),
        Entry("E19", "rows pooled first", grid(line, (16, 16), pool="rows first"), ("exact",)),
        Entry("E19", "columns pooled first", grid(line, (16, 16), pool="columns first"), ("exact",)),
        Entry("E19", "rows pooled first, kept", grid(line, (16, 8), pool="rows first, kept"), ("exact",)),
        Entry("E19", "rows pooled first, as many columns as channels", grid((48, 96), (16, 16), pool="rows first"),
              ("exact",)),
        Entry("E19", "channels last, 3×48", grid(line, (16, 4), nhwc=True), ("exact",)),
    ]  # fmt: skip
