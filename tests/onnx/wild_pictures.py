"""ONNX files that say what their pictures are, in whole or in part, or nothing of them."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from wild_networks import CAFFE, FLOAT, IMAGENET, SIZE, Entry, Graph, grey, imagenet, of, ranged, softmaxed  # noqa: E402

from onnx import TensorProto  # noqa: E402

ASSUMES = r"assum|unknown.*taken|taken.*unknown"
ASKS = r"--mean|--scale|--std|--bgr|preprocess"


def normalizing(nhwc: bool, cast: bool, scale: bool = True) -> Callable[[Graph, str], str]:
    """ImageNet's normalization inside the graph, of pixels of 0 to 255."""

    def before(make: Graph, x: str) -> str:
        lay = (1, 1, 1, 3) if nhwc else (1, 3, 1, 1)
        mean, std = (one.reshape(lay) * np.float32(255 if scale else 1) for one in IMAGENET)
        x = make("Cast", x, to=FLOAT) if cast else x
        return make("Div", make("Sub", x, mean), std)

    return before


def cast_and_divide(make: Graph, x: str) -> str:
    return make("Div", make("Cast", x, to=FLOAT), np.float32(255))


PIXELS = ranged(1)
CUSTOM_VISION = {"Image.BitmapPixelFormat": "Bgr8", "Image.ColorSpaceGamma": "SRGB",
                 "Image.NominalPixelRange": "NominalRange_0_255"}  # fmt: skip
ULTRALYTICS = {
    "description": "Ultralytics YOLO11n-cls model", "author": "Ultralytics", "version": "8.3.0", "task": "classify",
    "stride": "1", "batch": "1", "imgsz": f"[{SIZE[0]}, {SIZE[1]}]", "channels": "3", "args": "{'nms': False}",
    "names": "{0: 'ant', 1: 'bee', 2: \"cat's\", 3: 'dog'}",
}  # fmt: skip
LABELS = ("ant", "bee", "cat's", "dog")


def replaced(values: dict[str, str], **changed: str | None) -> dict[str, str]:
    merged = {**values, **changed}
    return {key: value for key, value in merged.items() if value is not None}


def e16() -> list[Entry]:
    byte = TensorProto.UINT8
    told = ("known", "stated", "asked")
    say = f"{ASSUMES}|{ASKS}"
    third = ("--mean", "0", "0", "0", "--std", "1", "1", "1")
    halves = ("--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5")
    caffe = ("--bgr", "--scale", "255", "--mean", "104", "117", "123", "--std", "1", "1", "1")
    named = {"pool": "ReduceMean"}
    cv = "Image.BitmapPixelFormat", "Image.NominalPixelRange"
    return [
        Entry("E16", "uint8, divided inside", of(kind=byte, before=cast_and_divide, prepare=PIXELS), ("known",)),
        Entry("E16", "uint8, normalized inside", of(kind=byte, before=normalizing(False, True), prepare=PIXELS),
              ("known",)),
        Entry("E16", "uint8, channels last", of(kind=byte, nhwc=True, before=normalizing(True, True), prepare=PIXELS),
              ("known",)),
        Entry("E16", "uint8, channels last, free sizes", of(kind=byte, nhwc=True, before=cast_and_divide,
              prepare=PIXELS, dims=["N", "h", "w", 3], **named), ("known",)),
        Entry("E16", "uint8, cast alone", of(kind=byte, before=lambda make, x: make("Cast", x, to=FLOAT), gain=200,
              prepare=PIXELS), ("known",)),
        Entry("E16", "uint8, one channel", of(kind=byte, channels=1, before=cast_and_divide, prepare=grey(1, 0, 1)),
              ("known",)),
        Entry("E16", "int32 pixels", of(kind=TensorProto.INT32, before=cast_and_divide, prepare=PIXELS),
              ("known", "refused"), r"int32"),
        Entry("E16", "float 0-255, normalized inside", of(before=normalizing(False, False), prepare=PIXELS), told, say),
        Entry("E16", "float 0-255, normalized inside, channels last",
              of(nhwc=True, before=normalizing(True, False), prepare=PIXELS), told, say),
        Entry("E16", "float 0-1, normalized inside", of(before=normalizing(False, False, False), prepare=ranged()),
              told, say),
        Entry("E16", "float 0-255, nothing inside", of(gain=200, prepare=PIXELS, options=("--scale", "255", *third)),
              ("stated", "asked"), say),
        Entry("E16", "BGR 0-255, mean subtracted outside",
              of(gain=100, prepare=ranged(1, CAFFE, 1, bgr=True), options=caffe), ("stated", "asked"), say),
        Entry("E16", "BGR 0-255, mean subtracted inside", of(gain=100, prepare=ranged(1, bgr=True), before=lambda make,
              x: make("Sub", x, CAFFE.reshape(1, 3, 1, 1)), options=("--bgr", "--scale", "255", *third)), told, say),
        Entry("E16", "BGR of ImageNet's mean", of(prepare=ranged(255, *IMAGENET, bgr=True), options=("--bgr",)),
              ("stated", "asked"), say),
        Entry("E16", "0 to 1", of(prepare=ranged(), options=third), ("stated", "asked"), say),
        Entry("E16", "-1 to 1", of(prepare=ranged(255, 0.5, 0.5), options=halves), ("stated", "asked"), say),
        Entry("E16", "ImageNet's, as is assumed", of(prepare=imagenet), ("stated", "asked"), say),
        Entry("E16", "one channel", of(channels=1, prepare=grey(255, 0.5, 0.5),
              options=("--mean", "0.5", "--std", "0.5")), ("stated", "asked"), say),
        Entry("E16", "one channel, channels last", of(channels=1, nhwc=True, prepare=grey(255, 0, 1),
              options=("--mean", "0", "--std", "1")), ("stated", "asked"), say),
        Entry("E16", "two channels", of(channels=2), ("data",), r"2 channels"),
        Entry("E16", "four channels", of(channels=4), ("data",), r"4 channels"),
        Entry("E16", "13 channels of a satellite", of(channels=13), ("data",), r"13 channels"),
        Entry("E16", "channels last", of(nhwc=True, prepare=imagenet), ("stated", "asked"), say),
        Entry("E16", "channels last, free sizes", of(nhwc=True, dims=["N", "h", "w", 3], prepare=imagenet, **named),
              ("stated", "asked"), say),
        Entry("E16", "float16 0 to 1", of(kind=TensorProto.FLOAT16, prepare=ranged(), options=third, tolerance=2e-2),
              ("stated", "asked"), say),
        Entry("E16", "ultralytics", of(metadata=ULTRALYTICS, end=softmaxed, prepare=ranged(), labels=LABELS),
              ("known",)),
        Entry("E16", "ultralytics, names as JSON", of(metadata=replaced(ULTRALYTICS, names=json.dumps(
              dict(enumerate(LABELS)))), end=softmaxed, prepare=ranged(), labels=LABELS), ("known",)),
        Entry("E16", "ultralytics, too few names", of(metadata=replaced(ULTRALYTICS, names="{0: 'ant'}"),
              end=softmaxed, prepare=ranged()), ("noted",), r"names"),
        Entry("E16", "ultralytics, names that would be run", of(metadata=replaced(ULTRALYTICS,
              names="{0: __import__('os').getpid()}"), end=softmaxed, prepare=ranged()), ("noted",), r"names"),
        Entry("E16", "ultralytics, another imgsz than the graph's", of(metadata=replaced(ULTRALYTICS,
              imgsz="[640, 640]"), end=softmaxed, prepare=ranged(), labels=LABELS), ("known", "noted"), r"imgsz"),
        Entry("E16", "Custom Vision, Bgr8 0-255", of(metadata=CUSTOM_VISION, gain=200, prepare=ranged(1, bgr=True)),
              ("known",)),
        Entry("E16", "Custom Vision, Rgb8 0-1", of(metadata=replaced(CUSTOM_VISION, **{cv[0]: "Rgb8",
              cv[1]: "Normalized_0_1"}), prepare=ranged()), ("known",)),
        Entry("E16", "Custom Vision, Bgr8 -1-1", of(metadata=replaced(CUSTOM_VISION, **{cv[1]: "Normalized_1_1"}),
              prepare=ranged(255, 0.5, 0.5, bgr=True)), ("known",)),
        Entry("E16", "Custom Vision, Gray8", of(channels=1, gain=200, metadata=replaced(CUSTOM_VISION,
              **{cv[0]: "Gray8"}), prepare=grey(1, 0, 1)), ("known",)),
        Entry("E16", "Custom Vision, no range", of(metadata=replaced(CUSTOM_VISION, **{cv[1]: None}), gain=200,
              prepare=ranged(1, bgr=True)), ("stated", "asked", "known"), say),
        Entry("E16", "Custom Vision, an unknown format", of(metadata=replaced(CUSTOM_VISION, **{cv[0]: "Nv12"}),
              gain=200), ("stated", "asked", "noted"), r"Nv12|Image\.BitmapPixelFormat"),
        Entry("E16", "keras2onnx, channels last", of(producer="keras2onnx", nhwc=True, end=softmaxed,
              prepare=ranged(255, 0.5, 0.5), options=halves), ("stated", "asked"), say),
        Entry("E16", "coremltools", of(producer="OnnxMLTools", gain=200, prepare=ranged(1, bgr=True), metadata={
              **CUSTOM_VISION, "com.github.apple.coremltools.version": "4.0"}), ("known",)),
    ]  # fmt: skip
