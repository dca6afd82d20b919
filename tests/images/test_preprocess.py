"""The way into the network against plain Pillow, the way back against torch and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from camlucida.errors import CamlucidaError, ImageError, ModelError
from camlucida.images import preprocess as module
from camlucida.images.preprocess import Preprocess, View, interpolation_matrix

RNG = np.random.default_rng(3)


def _pixels(height: int, width: int) -> np.ndarray:
    """A smooth picture with some noise on it."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9 + y / 17), np.cos(x / 23), np.sin(y / 5)], axis=2)
    return (120 + 90 * waves + np.random.default_rng(5).uniform(0, 30, waves.shape)).astype(np.uint8)


# --- into the network -------------------------------------------------------------------------------------------------


def _reference(pixels: np.ndarray, size: int, resize: int, filter: Image.Resampling) -> np.ndarray:
    """torchvision's Resize(resize) + CenterCrop(size) + ToTensor + Normalize, written out for a PIL image."""
    image = Image.fromarray(pixels)
    width, height = image.size
    short, long = min(width, height), max(width, height)
    new_long = int(resize * long / short)
    image = image.resize((resize, new_long) if width <= height else (new_long, resize), filter)
    left, top = round((image.width - size) / 2.0), round((image.height - size) / 2.0)
    cut = np.array(image.crop((left, top, left + size, top + size)))
    planes = []
    for channel, mean, std in zip(range(3), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True):
        scaled = cut[:, :, channel].astype(np.float32) / np.float32(255)
        planes.append((scaled - np.float32(mean)) / np.float32(std))
    return np.stack(planes)


@pytest.mark.parametrize("image_hw", [(375, 500), (500, 375), (64, 64), (333, 97), (224, 224), (30, 400), (257, 256)])
@pytest.mark.parametrize(("size", "resize"), [(224, 256), (224, 232), (96, 96), (65, 73)])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic", "nearest"])
def test_crop_equals_plain_pillow_to_the_bit(image_hw: tuple[int, int], size: int, resize: int, filter: str) -> None:
    pixels = _pixels(*image_hw)
    before = pixels.copy()
    prepare = Preprocess((size, size), crop_fraction=size / resize, interpolation=filter)
    values, _ = prepare(pixels)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    assert np.array_equal(values, _reference(pixels, size, resize, Image.Resampling[filter.upper()]))
    assert np.array_equal(pixels, before)


def test_crop_worked_example() -> None:
    """500×375 -> short side 256: 341×256 (341.33 cut off) -> offsets 58 (58.5 to even) and 16 -> back by 500/341."""
    _, view = Preprocess((224, 224), crop_fraction=0.875)(np.zeros((375, 500, 3), np.uint8))
    assert view.image_hw == (375, 500)
    assert view.seen_xyxy == pytest.approx((58 * 500 / 341, 16 * 375 / 256, 282 * 500 / 341, 240 * 375 / 256))


@pytest.mark.parametrize(
    ("image_hw", "prepare", "seen"),
    [
        ((100, 300), Preprocess((50, 50)), (100, 0, 200, 100)),
        ((300, 100), Preprocess((50, 50)), (0, 100, 100, 200)),
        ((100, 200), Preprocess((50, 100), crop_fraction=0.5), (50, 25, 150, 75)),  # 100×200 -> the middle 50×100
        ((100, 100), Preprocess((50, 100)), (0, 25, 100, 75)),  # must cover 50×100: 100×100
        ((100, 300), Preprocess((60, 60), fit="stretch"), (0, 0, 300, 100)),
        ((100, 300), Preprocess((60, 60), fit="stretch", crop_fraction=0.6), (60, 20, 240, 80)),
        ((100, 300), Preprocess((60, 60), fit="pad"), (0, -100, 300, 200)),  # 20×60 in 60×60
        ((300, 100), Preprocess((60, 60), fit="pad"), (-100, 0, 200, 300)),
        ((100, 300), Preprocess((61, 60), fit="pad"), (0, -100, 300, 205)),  # 41 rows of padding: 20 above, 21 below
        ((10, 10), Preprocess((60, 60)), (0, 0, 10, 10)),
        ((1, 10_000), Preprocess((8, 8), fit="pad"), (0, -3, 10_000, 5)),  # at least one row is left
    ],
)
def test_what_is_seen(image_hw: tuple[int, int], prepare: Preprocess, seen: tuple[float, ...]) -> None:
    values, view = prepare(np.zeros((*image_hw, 3), np.uint8))
    assert values.shape == (3, *prepare.size_hw)
    assert view.seen_xyxy == pytest.approx(seen)


def test_floor_as_timm_has_it() -> None:
    """timm: floor(size / crop_pct); torchvision's sizes come back from their quotient."""
    for size in range(16, 600, 16):
        for thousandth in range(700, 1001, 5):
            fraction = thousandth / 1000
            assert module._floor(size / fraction) == math.floor(size / fraction)
        for resize in range(size, 700):
            assert module._floor(size / (size / resize)) == resize


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("image_hw", [(240, 331), (331, 240), (50, 57), (224, 224)])
@pytest.mark.parametrize("fraction", [1.0, 0.8])
def test_a_painted_cell_appears_at_its_place_in_the_input(fit: str, image_hw: tuple[int, int], fraction: float) -> None:
    grid_hw, cell = (7, 5), 16
    prepare = Preprocess((7 * cell, 5 * cell), fit=fit, crop_fraction=fraction, mean=(0, 0, 0), std=(1, 1, 1))
    _, view = prepare(np.zeros((*image_hw, 3), np.uint8))
    for row in range(7):
        for column in range(5):
            x0, y0, x1, y1 = view.cell_box(row, column, grid_hw)
            if x1 - x0 < 2 or y1 - y0 < 2:  # in the padding
                continue
            pixels = np.zeros((*image_hw, 3), np.uint8)
            pixels[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)] = 255
            values, _ = prepare(pixels)
            cells = values[0].reshape(7, cell, 5, cell).mean(axis=(1, 3))
            assert np.unravel_index(cells.argmax(), grid_hw) == (row, column)
            seen_x, seen_y = view.seen_xyxy[2] - view.seen_xyxy[0], view.seen_xyxy[3] - view.seen_xyxy[1]
            for axis, cells_seen, seen, side, at in ((0, 7, seen_y, y1 - y0, row), (1, 5, seen_x, x1 - x0, column)):
                if side > 0.999 * seen / cells_seen:  # not clipped at the picture's edge
                    a_pixel = cells_seen * cell / seen  # of the picture, in pixels of the input
                    assert _centre(values[0], axis) == pytest.approx((at + 0.5) * cell, abs=0.5 * a_pixel + 0.1)


def _centre(plane: np.ndarray, axis: int) -> float:
    weights = plane.sum(axis=1 - axis)
    return float((weights * (np.arange(len(weights)) + 0.5)).sum() / weights.sum())


def test_the_input_seen_through_the_view_is_the_picture() -> None:
    """Projecting the network's input back gives the smooth picture, to within the loss of one resize there and back."""
    y, x = np.mgrid[:300, :420]
    smooth = np.stack([127 + 100 * np.sin(x / 40), 127 + 100 * np.cos(y / 30), (x + y) / 3], axis=2).astype(np.uint8)
    for fit in ("crop", "stretch", "pad"):
        for size_hw in ((211, 211), (190, 211)):
            prepare = Preprocess(size_hw, fit=fit, crop_fraction=0.9, mean=(0, 0, 0), std=(1, 1, 1))
            values, view = prepare(smooth)
            inner = view.seen()
            inner[:4] = inner[-4:] = inner[:, :4] = inner[:, -4:] = False  # beside the letterbox's black
            back = view.project(values).transpose(1, 2, 0)
            assert np.abs(back * 255 - smooth)[inner].max() < 3


def test_padding_has_the_mean_colour() -> None:
    prepare = Preprocess((60, 60), fit="pad", mean=(0.5, 0.25, 1), std=(0.5, 0.5, 0.5))
    values, _ = prepare(np.full((100, 300, 3), 255, np.uint8))
    assert values[:, :20] == pytest.approx(np.broadcast_to(values[:, :1, :1], (3, 20, 60)))
    assert values[:, 0, 0] == pytest.approx([(128 / 255 - 0.5) / 0.5, (64 / 255 - 0.25) / 0.5, 0], abs=1e-6)
    assert values[:, 20:40] == pytest.approx(np.broadcast_to(np.array([1, 1.5, 0])[:, None, None], (3, 20, 60)))
    assert values[:, 40:] == pytest.approx(values[:, :20])


def test_a_picture_too_long_to_resize_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values, view = Preprocess((64, 64))(_pixels(2, 200_000))  # whole: 64×6_400_000, more than a gigabyte
    assert view.seen_xyxy == pytest.approx((99_999, 0, 100_001, 2))
    assert values.shape == (3, 64, 64)
    prepare = Preprocess((65, 65), crop_fraction=0.9)
    whole, view = prepare(_pixels(97, 333))
    monkeypatch.setattr(module, "_MAX_RESIZED", 0)
    boxed, boxed_view = prepare(_pixels(97, 333))
    assert view == boxed_view
    assert np.abs(whole - boxed).max() <= 1.01 / 255 / 0.224  # one level of 255 at most


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"size_hw": (0, 5)}, r"^preprocess: expected size_hw two whole numbers above 0 .*, got \(0, 5\)"),
        ({"size_hw": (5.0, 5)}, "expected size_hw two whole numbers"),
        ({"size_hw": (5,)}, "expected size_hw two whole numbers"),
        ({"fit": "squash"}, "expected fit one of crop, stretch, pad, got 'squash'"),
        ({"crop_fraction": 0}, "expected crop_fraction above 0, at most 1, got 0"),
        ({"crop_fraction": 1.1}, "expected crop_fraction"),
        ({"crop_fraction": math.nan}, "expected crop_fraction"),
        ({"interpolation": "cubic"}, "expected interpolation one of .*'bicubic'.*, got 'cubic'"),
        (
            {"mean": (123.7, 116.3, 103.5)},
            r"expected mean a number for each channel, of -1 to 1; .* say scale=255, got \(123.7",
        ),
        ({"mean": (0.5,)}, "expected std as many numbers as means"),
        ({"mean": (), "std": ()}, "expected mean a number for each channel"),
        ({"mean": (float("nan"), 0, 0)}, "expected mean"),
        ({"scale": 0}, "expected scale above 0"),
        ({"scale": float("inf")}, "expected scale above 0"),
        ({"order": "BGR"}, "expected order one of rgb, bgr, got 'BGR'"),
        ({"size_hw": (10**9, 10**9)}, "expected size_hw two whole numbers .* at most 16384"),
        ({"std": (0, 1, 1)}, "expected std as many numbers as means, above 0"),
        ({"std": (58.4, 57.1, 57.4)}, "expected std as many numbers as means, above 0, at most 1"),
    ],
)
def test_fields_are_checked(fields: dict, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        Preprocess(**{"size_hw": (8, 8)} | fields)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8)])
def test_pixels_are_checked(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"^array: expected uint8 of shape H×W×3, got"):
        Preprocess((8, 8))(pixels)


# --- and back ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid_hw", [(7, 7), (1, 1), (1, 6), (14, 9)])
@pytest.mark.parametrize("size_hw", [(224, 224), (97, 131), (7, 9), (5, 3), (1, 1)])
def test_project_equals_torch_where_all_was_seen(grid_hw: tuple[int, int], size_hw: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    grid = RNG.normal(size=(2, 3, *grid_hw))
    expected = torch.nn.functional.interpolate(torch.from_numpy(grid), size_hw, mode="bilinear", align_corners=False)
    rows, columns = (interpolation_matrix(n, k, 0, n) for n, k in zip(size_hw, grid_hw, strict=True))
    assert np.abs(rows @ grid @ columns.T - expected.numpy()).max() < 1e-12
    projected = View.whole(size_hw).project(grid)
    assert projected.dtype == np.float32
    assert np.abs(projected - expected.numpy()).max() < 2e-6
    assert np.abs(View.whole((640, 480)).project(grid, size_hw) - projected).max() < 1e-6


def _slow_project(grid: np.ndarray, view: View, size_hw: tuple[int, int]) -> np.ndarray:
    """One pixel after the other, from the definition."""
    (h, w), (height, width) = grid.shape, size_hw
    result = np.zeros(size_hw)
    x0, y0, x1, y1 = view.seen_xyxy
    for i in range(height):
        for j in range(width):
            y, x = (i + 0.5) * view.image_hw[0] / height, (j + 0.5) * view.image_hw[1] / width
            if not (y0 <= y < y1 and x0 <= x < x1):
                continue
            v = min(max((y - y0) / (y1 - y0) * h - 0.5, 0), h - 1)
            u = min(max((x - x0) / (x1 - x0) * w - 0.5, 0), w - 1)
            top, left = math.floor(v), math.floor(u)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            above = grid[top, left] * (1 - (u - left)) + grid[top, right] * (u - left)
            below = grid[bottom, left] * (1 - (u - left)) + grid[bottom, right] * (u - left)
            result[i, j] = above * (1 - (v - top)) + below * (v - top)
    return result


@pytest.mark.parametrize(
    "view",
    [
        View((60, 80), (10.3, 5.1, 70.7, 55.9)),
        View((60, 80), (0, -10.2, 80, 70.1)),
        View((60, 80), (-3.3, 12.7, 83.1, 41.2)),
        View.whole((60, 80)),
    ],
)
@pytest.mark.parametrize("size_hw", [(60, 80), (31, 33), (4, 5)])
def test_project_and_seen_equal_plain_loops(view: View, size_hw: tuple[int, int]) -> None:
    grid = RNG.normal(size=(7, 5))
    before = grid.copy()
    projected = view.project(grid, size_hw)
    assert np.abs(projected - _slow_project(grid, view, size_hw)).max() < 1e-6
    assert np.array_equal(view.seen(size_hw), _slow_project(np.ones((7, 5)), view, size_hw) > 0.5)
    assert not projected[~view.seen(size_hw)].any()
    assert np.array_equal(grid, before)


@pytest.mark.parametrize(("cells", "scale"), [(7, 32), (14, 16), (1, 5), (7, 1), (5, 3)])
def test_integer_scales_keep_the_mean(cells: int, scale: int) -> None:
    matrix = interpolation_matrix(cells * scale, cells, 0, cells * scale)
    assert np.abs(matrix.sum(axis=0) - scale).max() < 1e-12
    grid = RNG.normal(size=(cells, cells)) * 100
    assert abs((matrix @ grid @ matrix.T).mean() - grid.mean()) < 1e-12


def test_rows_sum_to_one_inside_and_zero_outside() -> None:
    matrix = interpolation_matrix(20, 4, 3.2, 15.5)
    assert matrix.dtype == np.float64
    assert matrix.min() >= 0
    # centres 3.5 to 14.5 lie in [3.2, 15.5); 15.5 does not
    assert matrix.sum(axis=1) == pytest.approx([0.0] * 3 + [1.0] * 12 + [0.0] * 5)


@pytest.mark.parametrize(
    ("view", "cell", "box"),
    [
        (View.whole((14, 28)), (0, 0), (0, 0, 4, 2)),
        (View.whole((14, 28)), (6, 3), (12, 12, 16, 14)),
        (View((14, 28), (7, 0, 21, 14)), (1, 6), (19, 2, 21, 4)),
        (View((14, 28), (0, -7, 28, 21)), (1, 0), (0, 0, 4, 1)),  # rows of 4 pixels: -3 to 1, clipped
        (View((14, 28), (0, -7, 28, 21)), (0, 0), (0, 0, 4, 0)),  # in the padding: no area
    ],
)
def test_cell_boxes(view: View, cell: tuple[int, int], box: tuple[float, ...]) -> None:
    assert view.cell_box(*cell, (7, 7)) == pytest.approx(box)


def test_cell_boxes_tile_what_was_seen() -> None:
    view = View((50, 70), (-10.0, 3.3, 60.5, 47.7))
    area = sum(
        (x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (view.cell_box(r, c, (6, 9)) for r in range(6) for c in range(9))
    )
    assert area == pytest.approx(60.5 * (47.7 - 3.3))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: View((0, 4), (0, 0, 4, 4)), r"picture of at least 1×1 pixels, got image_hw=\(0, 4\)"),
        (lambda: View((4, 4), (4, 0, 0, 4)), "expected x0 < x1 and y0 < y1, finite, got seen_xyxy="),
        (lambda: View((4, 4), (0, 0, math.inf, 4)), "finite"),
        (lambda: View((4, 4), (0, math.nan, 4, 4)), "finite"),
        (lambda: View.whole((4, 4)).project(np.zeros(3)), r"expected maps of shape \(..., h, w\), got \(3,\)"),
        (lambda: View.whole((4, 4)).project(np.zeros((2, 0, 3))), "expected maps of shape"),
        (lambda: View.whole((4, 4)).project(np.zeros((2, 2)), (0, 3)), r"1×1 pixels, got size_hw=\(0, 3\)"),
        (lambda: View.whole((4, 4)).seen((3, 0)), "1×1 pixels, got size_hw="),
        (lambda: View.whole((4, 4)).cell_box(0, 7, (7, 7)), r"no cell \(0, 7\) in a grid of 7×7; count from 0"),
        (lambda: View.whole((4, 4)).cell_box(-1, 0, (7, 7)), "no cell"),
        (
            lambda: interpolation_matrix(0, 2, 0, 1),
            "cells >= 1 and start < stop, got 0, 2, 0, 1",
        ),
        (lambda: interpolation_matrix(4, 2, 3, 3), "start < stop"),
    ],
)
def test_misuse_is_named(call: object, match: str) -> None:
    with pytest.raises(CamlucidaError, match=match):
        call()  # type: ignore[operator]
