"""Channels of any number, order and range, from picture to network: held against NumPy, Pillow and OpenCV alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from camlucida.errors import ImageError
from camlucida.images.batches import prepared_batches
from camlucida.images.picture import from_array, read
from camlucida.images.preprocess import Preprocess

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 16, 3), np.uint8)
PLAIN = {"size_hw": (12, 16), "fit": "stretch"}


def by_hand(pixels, mean, std, divided_by):
    return ((pixels.astype(np.float64) / divided_by - mean) / std).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, by_hand(PIXELS, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255)),
        ({"order": "bgr"}, by_hand(PIXELS[..., ::-1], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255)),
        ({"scale": 255, "mean": (0, 0, 0), "std": (1, 1, 1)}, by_hand(PIXELS, 0, 1, 1)),
        (
            {"scale": 255, "mean": (104, 117, 123), "std": (1, 1, 1), "order": "bgr"},
            by_hand(PIXELS[..., ::-1], (104, 117, 123), 1, 1),
        ),
        ({"mean": (0.5,) * 3, "std": (0.5,) * 3}, PIXELS.transpose(2, 0, 1) / 127.5 - 1),
        ({"scale": 255, "mean": (127.5,) * 3, "std": (128,) * 3}, (PIXELS.transpose(2, 0, 1) - 127.5) / 128),
        ({"mean": (-0.5, 0, 0.5), "std": (1, 1, 1)}, by_hand(PIXELS, (-0.5, 0, 0.5), 1, 255)),
    ],
)
def test_orders_and_ranges_of_colours(fields, wanted):
    values, view = Preprocess(**PLAIN, **fields)(PIXELS)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
    assert view.seen_xyxy == (0, 0, 16, 12)


def test_values_of_0_to_255_are_whole():
    values, _ = Preprocess(**PLAIN, scale=255, mean=(0, 0, 0), std=(1, 1, 1))(PIXELS)
    np.testing.assert_array_equal(values, PIXELS.transpose(2, 0, 1))


def test_opencvs_blob_is_a_preprocess():
    blob = cv2.dnn.blobFromImage(PIXELS[..., ::-1], 1.0, (16, 12), (104, 117, 123), swapRB=False)
    values, _ = Preprocess(**PLAIN, scale=255, mean=(104, 117, 123), std=(1, 1, 1), order="bgr")(PIXELS)
    np.testing.assert_allclose(values, blob[0], atol=1e-4)


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_one_channel_is_the_luminance(fit):
    grey = np.asarray(Image.fromarray(PIXELS).convert("L"))
    one = Preprocess((8, 8), fit, mean=(0.25,), std=(0.5,))
    three = Preprocess((8, 8), fit, mean=(0.25,) * 3, std=(0.5,) * 3)
    values, view = one(PIXELS)
    wanted, other = three(np.repeat(grey[:, :, None], 3, 2))
    np.testing.assert_array_equal(values, wanted[:1])
    assert view == other


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_padding_is_of_the_mean_colour(fit, order):
    mean = (0.2, 0.4, 0.6)
    values, view = Preprocess((20, 20), fit, mean=mean, std=(1, 1, 1), order=order)(PIXELS)
    if fit == "pad":  # 255 * mean is a whole number here
        np.testing.assert_allclose(values[:, :2], 0, atol=1e-6)
        assert view.seen_xyxy[1] < 0


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_arrays_of_any_channels_are_data(channels, dtype):
    limits = {np.uint8: (0, 255), np.uint16: (0, 65535)}.get(dtype, (-1.0, 2.0))
    unit = RNG.random((9, 7, channels))
    array = np.asarray(unit * (limits[1] - limits[0]) + limits[0]).astype(dtype)
    mean, std = RNG.random(channels), RNG.random(channels) + 0.1
    preprocess = Preprocess((9, 7), "stretch", mean=tuple(mean), std=tuple(np.minimum(std, 1)))
    picture = read(array) if dtype == np.uint8 else from_array(array, limits)
    values, _ = preprocess(picture.of_channels(channels))
    exact = (array.astype(np.float64) - limits[0]) / (limits[1] - limits[0])
    wanted = ((exact - mean) / np.minimum(std, 1)).transpose(2, 0, 1)
    np.testing.assert_allclose(values, wanted, atol=1e-4)
    assert picture.pixels.shape == (9, 7, 3)
    assert picture.pixels.dtype == np.uint8


def test_deep_values_are_not_rounded_to_8_bits():
    deep = RNG.integers(0, 65536, (10, 10), np.uint16)
    preprocess = Preprocess((10, 10), "stretch", mean=(0.0,), std=(1.0,))
    values, _ = preprocess(from_array(deep, (0, 65535)).of_channels(1))
    np.testing.assert_allclose(values[0] * 65535, deep, atol=0.02)


def test_data_resize_as_pillow_resizes_floats():
    data = RNG.random((30, 20, 5)).astype(np.float32)
    preprocess = Preprocess((8, 6), "stretch", mean=(0.0,) * 5, std=(1.0,) * 5)
    values, _ = preprocess(from_array(data, (0, 1)).of_channels(5))
    for channel in range(5):
        small = Image.fromarray(data[:, :, channel]).resize((6, 8), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(values[channel], np.asarray(small), atol=1e-6)


def test_four_channels_are_colour_and_opacity_or_data():
    rgba = RNG.integers(0, 256, (6, 6, 4), np.uint8)
    picture = read(rgba)
    np.testing.assert_array_equal(picture.of_channels(4), rgba)
    np.testing.assert_array_equal(picture.of_channels(3), picture.pixels)
    white = Image.new("RGB", (6, 6), "white")
    white.paste(Image.fromarray(rgba), mask=Image.fromarray(rgba).getchannel("A"))
    np.testing.assert_array_equal(picture.pixels, np.asarray(white))


@pytest.mark.parametrize("shape", [(3, 20, 30), (2, 3, 2), (4, 4, 7)])
def test_data_of_other_channels_than_the_models_are_refused(shape):
    errors = []
    preprocess = Preprocess((4, 4))
    found = list(prepared_batches([np.zeros(shape, np.uint8)], read, preprocess, batch=1,
                                  on_error=lambda _, error: errors.append(str(error))))  # fmt: skip
    assert found == []
    sizes = "×".join(map(str, shape))
    assert errors == [f"array: has {shape[2]} channels (H×W×C is {sizes}), and the model takes 3; give an array H×W×3"]


def test_colour_pictures_are_no_data_of_other_channels():
    with pytest.raises(ImageError, match=r"^array: has 3 channels \(H×W×C is 12×16×3\), and the model takes 5; give"):
        read(PIXELS).of_channels(5)
    with pytest.raises(ImageError, match=r"expected uint8 of shape H×W×5, got uint8 of shape \(12, 16, 3\)"):
        Preprocess((4, 4), mean=(0,) * 5, std=(1,) * 5)(PIXELS)


@pytest.mark.parametrize(
    ("array", "limits", "match"),
    [
        (np.float32([[0.0, 1.5]]), (0, 1), r"values from 0 to 1.5, outside of 0 to 1"),
        (np.float32([[0.0, np.nan]]), (0, 1), r"outside of 0 to 1"),
        (np.float32([[0.0, np.inf]]), (0, 1), r"values from 0 to inf"),
        (np.int16([[-5, 3]]), (0, 10), r"values from -5 to 3"),
        (np.zeros((2, 2)), (1, 1), r"limits \(black, white\)"),
        (np.zeros((2, 2, 2, 2)), (0, 1), r"got float64 of shape 2×2×2×2"),
        (np.zeros((0, 2)), (0, 1), r"expected H×W"),
        (np.zeros((2, 2), complex), (0, 1), r"got complex128"),
    ],
)
def test_ranges_that_are_not_what_was_stated(array, limits, match):
    with pytest.raises(ImageError, match=match):
        from_array(array, limits)
