"""Overlays, boxes, captions, colour bars and sheets: worked pixels, slow references, messages."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from camlucida.drawing import captions, colormaps
from camlucida.drawing import overlay as draw
from camlucida.errors import CamlucidaError


def picture(seed, height=20, width=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def flat(value, height=20, width=30):
    return np.full((height, width, 3), value, np.uint8)


def lab(rgb):
    """SRGB (n, 3) uint8 → CIELAB, D65, from the definitions."""
    c = rgb / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    t = xyz / [0.95047, 1.0, 1.08883]
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


# colormaps


@pytest.mark.parametrize("name", colormaps.COLORMAPS)
def test_every_table_is_256_colours_and_cannot_be_changed(name):
    colours = colormaps.table(name)
    assert (colours.shape, colours.dtype) == ((256, 3), np.uint8)
    assert len(np.unique(colours, axis=0)) > 200
    with pytest.raises(ValueError, match="read-only"):
        colours[0] = 0


@pytest.mark.parametrize("name", ["inferno", "magma", "plasma", "viridis", "cividis"])
def test_sequential_tables_grow_lighter_evenly(name):
    lightness = lab(colormaps.table(name))[:, 0]
    smooth = np.diff(lightness[::8])
    assert smooth.min() > 0
    assert smooth.max() < 2.5 * smooth.mean()


@pytest.mark.parametrize(
    ("name", "ends"),
    [  # published end colours
        ("inferno", [(0, 0, 4), (252, 255, 164)]),
        ("viridis", [(68, 1, 84), (253, 231, 37)]),
        ("turbo", [(48, 18, 59), (122, 4, 3)]),
        ("jet", [(0, 0, 128), (128, 0, 0)]),
        ("coolwarm", [(59, 76, 192), (180, 4, 38)]),
    ],
)
def test_tables_are_rgb_with_the_published_ends(name, ends):
    np.testing.assert_allclose(colormaps.table(name)[[0, 255]].astype(int), ends, atol=1)


def test_coolwarm_is_symmetric_in_lightness_and_neutral_in_the_middle():
    colours = lab(colormaps.table("coolwarm"))
    lightness = colours[:, 0]
    np.testing.assert_allclose(lightness, lightness[::-1], atol=0.5)
    assert np.diff(lightness[:128]).min() > -0.1  # 8-bit colours: a step of rounding
    assert np.diff(lightness[:128:4]).min() > 0
    assert np.hypot(*colours[[127, 128], 1:].T).max() < 1  # grey
    assert colours[0, 2] < -30 < 30 < colours[-1, 1]  # blue below, red above


# overlay


def slow_overlay(pixels, heatmap, colours, signed, limit, opacity):
    """One pixel at a time, in float64, with colours interpolated between the table's entries."""
    out = np.zeros(pixels.shape)
    for y, x in np.ndindex(heatmap.shape):
        share = float(heatmap[y, x]) / limit
        share = min(max(share, -1.0 if signed else 0.0), 1.0)
        position = (share + 1) / 2 * 255 if signed else share * 255
        colour = [np.interp(position, np.arange(256), colours[:, channel]) for channel in range(3)]
        alpha = opacity * abs(share)
        out[y, x] = (1 - alpha) * pixels[y, x].astype(float) + alpha * np.array(colour)
    return out


@pytest.mark.parametrize("pixels", [picture(0), flat(0), flat(255)], ids=["random", "black", "white"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("signed", "colormap"), [(False, "inferno"), (True, "coolwarm")])
@pytest.mark.parametrize("opacity", [0.5, 1.0])
def test_overlay_equals_a_slow_float_blend(pixels, dtype, signed, colormap, opacity):
    heatmap = np.random.default_rng(1).normal(size=(20, 30)).astype(dtype)
    limit = float(np.abs(heatmap).max() if signed else heatmap.max())
    drawn = draw.overlay(pixels, heatmap, signed=signed, opacity=opacity)
    assert drawn.dtype == np.uint8
    wanted = slow_overlay(pixels, heatmap, colormaps.table(colormap), signed, limit, opacity)
    np.testing.assert_allclose(drawn, wanted, atol=2)  # 1023 levels; sums never wrap around


def test_opacity_grows_with_the_value_and_is_exact_at_both_ends():
    heatmap = np.linspace(-1, 1, 201)[None]
    drawn = draw.overlay(flat(10, 1, 201), heatmap, colormap="viridis", opacity=0.5)
    assert (drawn[0, :101] == 10).all()  # no evidence and counter-evidence are clear
    assert drawn[0, -1].tolist() == [132, 121, 24]  # halfway from 10 to (253, 231, 37), halves up
    signed = draw.overlay(flat(10, 1, 201), heatmap, signed=True, opacity=1.0)
    assert signed[0, [0, 100, 200]].tolist() == [[59, 76, 192], [10, 10, 10], [180, 4, 38]]


@pytest.mark.parametrize(("signed", "value"), [(False, 0.0), (False, -3.0), (True, 0.0)])
def test_a_map_without_evidence_leaves_the_picture(signed, value):
    pixels = picture(2)
    drawn = draw.overlay(pixels, np.full((20, 30), value), signed=signed)
    np.testing.assert_array_equal(drawn, pixels)
    assert drawn is not pixels


def test_opacity_0_leaves_the_picture_and_a_positive_scale_changes_nothing():
    pixels, heatmap = picture(3), np.random.default_rng(3).normal(size=(20, 30))
    np.testing.assert_array_equal(draw.overlay(pixels, heatmap, opacity=0.0), pixels)
    once = draw.overlay(pixels, heatmap)
    for scale in (2.0**-1000, 0.5, 2.0**1000):
        np.testing.assert_array_equal(draw.overlay(pixels, heatmap * scale), once)


def test_limit_makes_pictures_comparable():
    pixels, heatmap = flat(100, 1, 2), np.array([[0.5, 2.0]], np.float32)
    whole = draw.overlay(pixels, np.array([[0.5, 1.0]]), limit=1.0)
    np.testing.assert_array_equal(draw.overlay(pixels, heatmap, limit=1.0), whole)  # greater values stop at full
    assert not np.array_equal(draw.overlay(pixels, heatmap), whole)
    np.testing.assert_array_equal(draw.overlay(pixels, np.array([[0.0, 1.0]], np.float32), limit=1e300), pixels)
    draw.overlay(pixels, heatmap, limit=1e-300)


def test_inputs_are_never_changed():
    pixels, heatmap, seen = picture(4), np.random.default_rng(4).normal(size=(20, 30)), np.zeros((20, 30), bool)
    kept = pixels.copy(), heatmap.copy()
    for array in (pixels, heatmap, seen):
        array.setflags(write=False)
    draw.overlay(pixels, heatmap, seen=seen, boxes=[[1, 2, 9, 8]], caption="a", unit="b", signed=True)
    draw.contact_sheet([pixels], ["a"])
    np.testing.assert_array_equal(pixels, kept[0])
    np.testing.assert_array_equal(heatmap, kept[1])


@pytest.mark.parametrize(
    "pixels", [picture(5, 64, 80), flat(0, 64, 80), flat(255, 64, 80)], ids=["r", "black", "white"]
)
def test_what_was_not_seen_is_grey_hatched_and_without_heat(pixels):
    heatmap = np.ones((64, 80))
    seen = np.zeros((64, 80), bool)
    seen[10:50, 20:60] = True
    drawn = draw.overlay(pixels, heatmap, seen=seen)
    np.testing.assert_array_equal(drawn[seen], draw.overlay(pixels, heatmap)[seen])
    beyond = draw.overlay(pixels, np.where(seen, heatmap, 99), seen=seen)
    np.testing.assert_array_equal(beyond, drawn)  # values there set no scale
    unseen = drawn[~seen].astype(int)
    assert all(colorsys.rgb_to_hsv(*colour)[1] == 0 for colour in np.unique(unseen, axis=0))
    np.testing.assert_array_equal(drawn[~seen], draw.overlay(pixels, -heatmap, seen=seen)[~seen])
    if pixels.std() == 0:  # on a flat picture the two tones are the lines and the ground, well apart
        tones, counts = np.unique(unseen[:, 0], return_counts=True)
        assert len(tones) == 2
        assert tones[1] - tones[0] >= 30
        assert 0.05 < counts[1] / counts.sum() < 0.35
        assert np.abs(tones - pixels[0, 0, 0]).min() >= 30


# boxes


@pytest.mark.parametrize("box", [(5, 4, 25, 16), (0, 0, 30, 20), (-9, -9, 12, 12), (7, 7, 8, 8), (3, 2, 5, 18)])
def test_a_box_is_a_line_just_inside_its_half_open_pixels(box):
    x1, y1, x2, y2 = box
    drawn = draw.draw_boxes(flat(120), [box])
    ys, xs = np.mgrid[:20, :30]
    inside = (xs >= x1) & (xs < x2) & (ys >= y1) & (ys < y2)
    edge = inside & ((xs == x1) | (xs == x2 - 1) | (ys == y1) | (ys == y2 - 1))
    np.testing.assert_array_equal((drawn == draw.LINE).all(axis=2), edge)
    near = (xs >= x1 - 1) & (xs <= x2) & (ys >= y1 - 1) & (ys <= y2)
    core = (xs >= x1 + 2) & (xs < x2 - 2) & (ys >= y1 + 2) & (ys < y2 - 2)
    np.testing.assert_array_equal((drawn == draw.HALO).all(axis=2), near & ~edge & ~core)
    assert (drawn[~near | core] == 120).all()


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4), np.int64), [[40, 40, 60, 60]], [[-9, -9, -5, -5]]])
def test_no_box_in_sight_draws_nothing(boxes):
    np.testing.assert_array_equal(draw.draw_boxes(picture(6), boxes), picture(6))


def test_lines_grow_with_the_picture():
    drawn = draw.draw_boxes(flat(120, 1500, 2000), [[300, 300, 1200, 1200]])
    assert (drawn[700, 300:310] == 255).all()
    assert (drawn[700, 310] == draw.HALO).all()
    assert (drawn[700, 299] == draw.HALO).all()


# captions and bars


def ink(bar):
    """Columns and rows that carry text."""
    dark = (bar < 160).all(axis=2)
    return np.flatnonzero(dark.any(axis=0)), np.flatnonzero(dark.any(axis=1))


TEXTS = ["", "cat", "Egyptian cat · 0.912 · residual 3e-7", "W" * 300, "gypsy jjj ÅÇ " * 20, "a\nb", "咖啡", "x\ty"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("width", "size"), [(224, 13), (500, 18), (4000, 143), (40, 14)])
def test_no_text_is_clipped(text, width, size):
    bar = captions.caption_bar(text, width, size)
    assert bar.shape[1] == width
    assert bar.shape[0] <= size + 3 * round(1.3 * size)
    columns, rows = ink(bar)
    if columns.size:
        assert columns[0] >= size // 4
        assert columns[-1] < width - size // 4
        assert rows[0] >= size // 4
        assert rows[-1] < bar.shape[0] - 1
    else:
        assert not text or width == 40


def lines(text, width=200, size=14, rows=3):
    return captions._wrap(captions._printable(text), captions._font(size), width, rows)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("one two", ["one two"]),
        ("one\ntwo", ["one", "two"]),
        ("café Łódź – x ≥ ½ straße", ["cafe Lodz - x >= 1/2 strasse"]),
        ("漢字 🐈", ["?? ?"]),
        ("", [""]),
    ],
)
def test_text_is_set_with_the_glyphs_there_are(text, wanted):
    assert lines(text) == wanted


def test_long_text_is_wrapped_at_words_then_ended():
    words = (
        "the quick brown fox jumps over the lazy dog and runs far away from all the hunters in the wood, then sleeps"
    )
    found = lines(words)
    assert len(found) == 3
    assert found[-1].endswith("…")
    assert words.startswith(" ".join(found)[:-1])
    assert all(captions._font(14).getlength(line) <= 200 for line in found)
    longer = lines(words + " or so", width=10_000)
    assert longer == [words + " or so"]
    assert lines("W" * 99, width=1) == [""]
    kept = captions._shorten("W" * 99, captions._font(14), 200)
    assert captions._font(14).getlength(kept) <= 200 < captions._font(14).getlength("W" + kept)
    assert len(lines("long " * 100_000)) == 3


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((375, 500), (375, 500)),
        ((64, 64), (256, 256)),
        ((100, 96), (300, 288)),
        ((300, 2000), (300, 2000)),
        ((1, 1), (224, 224)),
    ],
)
def test_bars_go_below_and_tiny_pictures_are_enlarged(shape, wanted):
    height, width = wanted
    pixels, heatmap = picture(7, *shape), np.random.default_rng(7).normal(size=shape)
    plain = draw.overlay(pixels, heatmap)
    assert plain.shape == pixels.shape
    captioned = draw.overlay(pixels, heatmap, caption="a cat")
    assert captioned.shape[1] == width
    assert height < captioned.shape[0] <= height + max(50, height // 4)
    enlarged = np.kron(plain, np.ones((height // shape[0], width // shape[1], 1), np.uint8))
    np.testing.assert_array_equal(captioned[:height], enlarged)
    both = draw.overlay(pixels, heatmap, caption="a cat", unit="logits per cell")
    np.testing.assert_array_equal(both[: len(captioned)], captioned)
    assert len(both) > len(captioned)


def test_a_very_tall_picture_is_centred_rather_than_blown_up():
    drawn = draw.overlay(flat(0, 5000, 3), np.zeros((5000, 3)), caption="a cat")
    assert drawn.shape[1] == draw.READABLE
    np.testing.assert_array_equal((drawn[2500] == 0).all(axis=1), np.isin(np.arange(224), [110, 111, 112]))


def test_enlarged_boxes_stay_on_their_pixels():
    drawn = draw.overlay(flat(120, 64, 64), np.zeros((64, 64)), boxes=[[10, 20, 30, 40]], caption="a")
    ys, xs = np.nonzero((drawn[:256] == draw.LINE).all(axis=2))
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (40, 80, 120, 160)


@pytest.mark.parametrize("width", [120, 224, 2000])
def test_colorbar_shows_every_colour_in_order_and_its_ends(width):
    bar = captions.colorbar("viridis", 0, 0.917, width=width, size=14)
    assert bar.shape[1] == width
    strip = bar[10, 7 : width - 7].astype(int)
    np.testing.assert_array_equal(strip[[0, -1]], [[68, 1, 84], [253, 231, 37]])
    assert np.diff(lab(strip)[:, 0]).min() > -0.2
    columns, rows = ink(bar[18:])
    assert columns[0] >= 6
    assert columns[-1] < width - 6
    assert rows[-1] < len(bar) - 19


def test_colorbar_marks_zero_only_where_it_is_the_middle():
    centred = captions.colorbar("coolwarm", -0.5, 0.5, width=300)
    assert (centred[10, 150] == captions.INK).all()
    assert not (captions.colorbar("coolwarm", -0.5, 0.7, width=300)[10, 150] == captions.INK).all()
    np.testing.assert_array_equal(captions.colorbar("magma", -0.0, 0), captions.colorbar("magma", 0, 0))  # not "-0"
    assert not np.array_equal(centred, captions.colorbar("coolwarm", -0.4, 0.4, width=300))  # the numbers
    assert not np.array_equal(centred, captions.colorbar("coolwarm", -0.5, 0.5, width=300, unit="nats"))


# contact sheets


def test_cells_are_equal_and_pictures_keep_their_proportions():
    pictures = [flat(10, 200, 400), flat(60, 640, 320), flat(110, 3000, 4000), flat(160, 40, 40), flat(210, 1, 999)]
    sheet = draw.contact_sheet(pictures, columns=3)
    assert sheet.shape == (8 + 2 * 328, 8 + 3 * 328, 3)
    sizes = [(160, 320), (320, 160), (240, 320), (320, 320), (1, 320)]
    for index, (value, size) in enumerate(zip((10, 60, 110, 160, 210), sizes, strict=True)):
        ys, xs = np.nonzero((sheet == value).all(axis=2))
        assert (np.ptp(ys) + 1, np.ptp(xs) + 1) == size
        assert ys.size == size[0] * size[1]
        row, column = divmod(index, 3)
        assert (ys.min() + ys.max() + 1) // 2 == pytest.approx(8 + row * 328 + 160, abs=1)
        assert (xs.min() + xs.max() + 1) // 2 == pytest.approx(8 + column * 328 + 160, abs=1)


@pytest.mark.parametrize(
    ("count", "columns", "grid"), [(1, None, 1), (4, None, 2), (5, None, 3), (2, 7, 2), (9, None, 3)]
)
def test_the_grid_is_about_square_unless_told(count, columns, grid):
    sheet = draw.contact_sheet([flat(0, 320, 320)] * count, columns=columns)
    assert sheet.shape[1] == 8 + grid * 328


def test_captions_go_below_their_own_picture():
    sheet = draw.contact_sheet(
        [flat(0, 320, 320)] * 3, ["a", "", "two rows of text that are too long for one cell of this sheet"]
    )
    bare = draw.contact_sheet([flat(0, 320, 320)] * 3, ["", "", ""])
    cells = [(slice(328, 366), slice(8, 328)), (slice(328, 366), slice(336, 656))]
    assert (sheet[cells[0]] < 160).any()
    assert not (sheet[cells[1]] < 160).any()
    assert sheet.shape[0] > bare.shape[0]  # a second row of text, the same room below every picture


# messages

MAP = np.zeros((20, 30))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: colormaps.table("hot"), "unknown name 'hot', expected one of: inferno, magma, .*coolwarm"),
        (lambda: captions.colorbar("hot", 0, 1), "unknown name 'hot'"),
        (lambda: draw.overlay(picture(0), MAP, colormap="hot"), "unknown name 'hot'"),
        (lambda: draw.overlay(picture(0), np.zeros((7, 7))), r"heatmap: \(7, 7\) does not fit the picture \(20, 30\)"),
        (lambda: draw.overlay(picture(0), MAP + np.nan), "600 of 600 values are NaN"),
        (
            lambda: draw.overlay(picture(0) / 255, MAP),
            r"picture: expected a uint8 array H×W×3, got float64",
        ),
        (lambda: draw.overlay(picture(0)[..., 0], MAP), r"got uint8 \(20, 30\)"),
        (lambda: draw.overlay("cat.jpg", MAP), "got str"),
        (lambda: draw.overlay(picture(0), MAP, opacity=50), r"opacity: .* \[0, 1\], got 50"),
        (lambda: draw.overlay(picture(0), MAP, limit=0), "limit: expected a positive number, got 0"),
        (lambda: draw.overlay(picture(0), MAP, limit=np.nan), "limit: .* got nan"),
        (lambda: draw.overlay(picture(0), MAP, seen=np.ones((2, 2), bool)), r"seen: .* \(20, 30\), got bool \(2, 2\)"),
        (lambda: draw.overlay(picture(0), MAP, seen=MAP), "seen: expected a bool array .* got float64"),
        (lambda: draw.overlay(picture(0), MAP, boxes=[1, 2, 3, 4]), r"boxes: expected .* \(M, 4\), got int64 \(4,\)"),
        (lambda: draw.draw_boxes(picture(0), [[5, 5, 1, 9]]), "boxes: box 0 is"),
        (lambda: draw.contact_sheet([]), "expected at least one, got none"),
        (lambda: draw.contact_sheet([picture(0)], ["a", "b"]), r"one a picture \(1\), got 2"),
        (lambda: draw.contact_sheet([picture(0)], columns=0), "columns: expected at least 1, got 0"),
        (lambda: draw.contact_sheet([MAP]), r"picture: expected .* got float64 \(20, 30\)"),
    ],
)
def test_messages(call, message):
    with pytest.raises(CamlucidaError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
