"""The page computes what the library computes: resizing, views, projected maps, boxes, probabilities, colours."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from camlucida.boxes import localize
from camlucida.drawing.colormaps import table
from camlucida.images.preprocess import Interpolation, Preprocess, View
from camlucida.targets import probabilities


def packed(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def unpacked(text: str, dtype: Any) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype)


def looked(ask: Any, pixels: NDArray[np.uint8], preprocess: Preprocess) -> tuple[NDArray[np.uint8], Any, Any]:
    opaque = np.concatenate((pixels, np.full((*pixels.shape[:2], 1), 255, np.uint8)), 2)
    answer = ask("look", pixels=packed(opaque), image_hw=pixels.shape[:2], preprocess=asdict(preprocess))
    height, width = preprocess.size_hw
    seen = unpacked(answer["seen"], np.uint8).reshape(height, width, 4)[..., :3]
    return seen, unpacked(answer["values"], np.float32).reshape(3, height, width), answer["view"]


def picture(rng: np.random.Generator, height: int, width: int, smooth: bool) -> NDArray[np.uint8]:
    """Noise, or blocks whose edges make bicubic and Lanczos overshoot past 0 and 255."""
    if not smooth:
        return rng.integers(0, 256, (height, width, 3), np.uint8)
    blocks = rng.integers(0, 2, (height // 5 + 1, width // 5 + 1, 3), np.uint8) * 255
    return np.ascontiguousarray(blocks.repeat(5, 0).repeat(5, 1)[:height, :width])


SIZES = [(37, 53), (300, 451), (31, 16), (7, 200), (64, 64), (1, 1)]


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_resized_pixels_are_pillows_to_the_bit(ask: Any, rng: np.random.Generator, interpolation: Any) -> None:
    for number, (height, width) in enumerate(SIZES):
        for size_hw in [(32, 32), (24, 56), (64, 64)]:
            pixels = picture(rng, height, width, smooth=bool(number % 2))
            expected = Image.fromarray(pixels).resize(size_hw[::-1], Image.Resampling[interpolation.upper()])
            seen, *_ = looked(ask, pixels, Preprocess(size_hw, "stretch", interpolation=interpolation))
            np.testing.assert_array_equal(seen, expected, err_msg=f"{height}×{width} -> {size_hw}")


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("size_hw", [(32, 32), (24, 56), (56, 24)])
def test_every_fit_gives_the_librarys_input_and_view(
    ask: Any, rng: np.random.Generator, fit: Any, size_hw: tuple[int, int]
) -> None:
    for number, (height, width) in enumerate([*SIZES, (61, 60), (500, 333)]):
        for fraction in (1.0, 0.875, 224 / 232):
            interpolation = ("bicubic", "bilinear", "lanczos")[number % 3]
            preprocess = Preprocess(size_hw, fit, fraction, interpolation, (0.5, 0.25, 0.41), (0.3, 0.2, 0.225))
            pixels = picture(rng, height, width, smooth=False)
            expected, view = preprocess(pixels)
            _, values, found = looked(ask, pixels, preprocess)
            np.testing.assert_array_equal(values, expected, err_msg=f"{height}×{width} {preprocess}")
            assert found["image_hw"] == list(view.image_hw)
            assert found["seen_xyxy"] == list(view.seen_xyxy)


def test_a_very_long_picture_is_resized_only_where_the_crop_sees_it(ask: Any, rng: np.random.Generator) -> None:
    preprocess = Preprocess((96, 96), interpolation="bicubic")
    pixels = picture(rng, 2, 14_000, smooth=False)  # whole, it would be 96×672,000
    expected, view = preprocess(pixels)
    _, values, found = looked(ask, pixels, preprocess)
    np.testing.assert_array_equal(values, expected)
    assert found["seen_xyxy"] == list(view.seen_xyxy)


def random_view(rng: np.random.Generator) -> View:
    """Whole pictures, crops and paddings, of any size."""
    height, width = (int(side) for side in rng.integers(1, 90, 2))
    kind = rng.integers(3)
    if kind == 0:
        return View.whole((height, width))
    spread = 0.4 * (1 if kind == 1 else -1)
    return View(
        (height, width), (spread * width, spread * height * rng.random(), width * (1 - spread / 2), height + 0.3)
    )


def random_maps(rng: np.random.Generator, count: int) -> list[tuple[NDArray[np.float32], View]]:
    maps = []
    for number in range(count):
        shape = tuple(int(side) for side in rng.integers(1, 15, 2))
        values = rng.normal(size=shape) ** (3 if number % 3 else 1)
        if number % 5 == 0:
            values = np.rint(values)  # plateaus and equal parts
        if number % 17 == 0:
            values = -np.abs(values)
        maps.append((values.astype(np.float32), random_view(rng)))
    return maps


def test_projected_maps_are_the_librarys(ask: Any, rng: np.random.Generator) -> None:
    for values, view in random_maps(rng, 100):
        for size_hw in (None, (33, 47)):
            expected = view.project(values, size_hw)
            answer = ask(
                "project", map=packed(values), grid=values.shape, view=asdict(view), size_hw=size_hw or view.image_hw
            )
            found = unpacked(answer["values"], np.float32).reshape(expected.shape)
            # The last bit may differ where NumPy's matrix product rounds otherwise.
            np.testing.assert_allclose(found, expected, rtol=3e-7, atol=3e-7)
            np.testing.assert_allclose((answer["low"], answer["high"]), (expected.min(), expected.max()), rtol=3e-7)


def test_boxes_are_those_of_localize_at_every_threshold(ask: Any, rng: np.random.Generator) -> None:
    thresholds = [0.0, 0.05, 0.2, 0.35, 0.5, 0.8, 0.95, 1.0]
    several = 0
    for values, view in random_maps(rng, 400):
        heatmap = view.project(values)
        answers = ask("boxes", map=packed(values), grid=values.shape, view=asdict(view), thresholds=thresholds)
        for threshold, answer in zip(thresholds, answers, strict=True):
            marked = localize.mask(heatmap, threshold)
            box, area = localize.largest_part(marked)
            assert answer == {"box": list(box) if area else None, "area": area}, (values.shape, view, threshold)
            several += len(localize.components(heatmap, marked).areas) > 1
    assert several > 300  # the rule had parts to choose from


def test_boxes_on_a_large_photo(ask: Any, rng: np.random.Generator) -> None:
    view = View.whole((1500, 2000))
    for _ in range(5):
        values = rng.normal(size=(12, 16)).astype(np.float32)
        (answer,) = ask("boxes", map=packed(values), grid=values.shape, view=asdict(view), thresholds=[0.2])
        assert answer["box"] == localize.boxes(view.project(values), 0.2)[0].tolist()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_probabilities(ask: Any, rng: np.random.Generator, activation: Any) -> None:
    logits = (20 * rng.normal(size=12)).round(3)
    found = ask("probabilities", logits=logits.tolist(), activation=activation)
    expected = probabilities(logits[None], activation)[0]
    np.testing.assert_allclose([np.nan if one is None else one for one in found], expected, rtol=1e-6, atol=1e-9)


def test_every_half_precision_number(ask: Any) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    found = unpacked(ask("half", data=packed(halves)), np.float32)
    np.testing.assert_array_equal(found, halves.astype(np.float32))


def test_colour_tables(ask: Any) -> None:
    for found, name in zip(ask("colormaps"), ("inferno", "coolwarm"), strict=True):
        np.testing.assert_array_equal(unpacked(found, np.uint8).reshape(256, 3), table(name))
