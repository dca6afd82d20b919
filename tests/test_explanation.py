"""The result type: what it accepts, that nobody can change it, and its views on the picture."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from camlucida.errors import CamlucidaError
from camlucida.explanation import Explanation, Origin
from camlucida.images.picture import Picture
from camlucida.images.preprocess import Preprocess, View
from camlucida.results.words import residual_in_words


def made(n=2, t=3, k=4, grid=(2, 3), **changed):
    """An explanation of n inputs for t scores of k classes, or with some parts replaced."""
    rng = np.random.default_rng(0)
    values = {
        "logits": rng.normal(size=(n, k)),
        "classes": np.tile(np.arange(t), (n, 1)),
        "scores": rng.normal(size=(n, t)),
        "maps": rng.normal(size=(n, t, *grid)),
        "bias": rng.normal(size=(n, t)),
        "residual": np.zeros((n, t)),
        "names": (tuple(f"class {i}" for i in range(t)),) * n,
        "views": (View.whole((20, 30)),) * n,
        "pictures": tuple(Picture(np.full((20, 30, 3), 10 * i, np.uint8), f"{i}.png") for i in range(n)),
    }
    return Explanation(**(values | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": np.zeros(4)}, r"expected logits \(N, K\), got \(4,\)"),
        ({"logits": np.zeros((3, 4))}, r"expected logits \(N, K\), got \(3, 4\)"),
        ({"classes": np.zeros(2, int)}, r"explanation: expected logits"),
        ({"scores": np.zeros((2, 2))}, r"expected scores \(N, T\), got \(2, 2\)"),
        ({"maps": np.zeros((2, 3))}, r"expected maps \(N, T, \*grid\), got \(2, 3\)"),
        ({"maps": np.zeros((2, 4, 2, 3))}, r"expected maps \(N, T, \*grid\), got \(2, 4, 2, 3\)"),
        ({"bias": np.zeros((2, 3, 1))}, r"expected bias \(N, T\), got \(2, 3, 1\)"),
        ({"residual": np.zeros(3)}, r"expected residual \(N, T\), got \(3,\)"),
        ({"names": (("a", "b", "c"),)}, r"expected names N x T, got 1 names"),
        ({"names": (("a", "b", "c"), ("a", "b"))}, r"expected names N x T, got 2 names"),
        ({"views": (View.whole((2, 2)),)}, r"expected views N or none, got 1 views"),
        ({"pictures": (None,) * 3}, r"expected pictures N or none, got 3 pictures"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changed, message):
    with pytest.raises(CamlucidaError, match=message):
        made(**changed)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_is_refused_by_name(bad):
    maps = np.zeros((2, 3, 2, 3))
    maps[1, 2, 0, 0] = bad
    with pytest.raises(
        CamlucidaError, match=r"the map of input 1 for 'class 2' is not finite; look for an overflow .*NaN in"
    ):
        made(maps=maps)


def test_numbers_are_copied_typed_and_read_only():
    maps = np.ones((2, 3, 2, 3))
    ex = made(maps=maps)
    maps[:] = 5
    assert (ex.maps == 1).all()
    for name in ("logits", "scores", "maps", "bias", "residual"):
        assert getattr(ex, name).dtype == np.float32
        with pytest.raises(ValueError, match="read-only"):
            getattr(ex, name)[0] = 0
    assert ex.classes.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        ex.classes[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        ex.maps = maps
    ex.heatmap(0)[:] = 0  # a view for the picture is the caller's own
    assert (ex.maps == 1).all()


@pytest.mark.parametrize("index", [0, 1, 2, -1, -3, np.int64(1), slice(1, 3), slice(None, None, 2), slice(0, 0)])
def test_indexing_gives_the_explanation_of_those_inputs(index):
    ex = made(3)
    part = ex[index]
    wanted = np.atleast_1d(np.arange(3)[index])
    assert len(part) == len(wanted)
    for name in ("logits", "classes", "scores", "maps", "bias", "residual"):
        np.testing.assert_array_equal(getattr(part, name), getattr(ex, name)[wanted])
    for name in ("names", "views", "pictures"):
        assert getattr(part, name) == tuple(getattr(ex, name)[i] for i in wanted)
    assert part.origin == ex.origin


@pytest.mark.parametrize("index", [3, -4, np.int64(3)])
def test_an_input_that_is_not_there(index):
    with pytest.raises(IndexError, match=rf"no input {index} among 3"):
        made(3)[index]


def test_iterating_ends_and_explanations_compare_by_identity():
    ex = made(3)
    assert [float(one.scores[0, 0]) for one in ex] == ex.scores[:, 0].tolist()
    assert ex == ex
    assert ex != made(3)


def slow_bilinear(values, size_hw):
    """Half-pixel bilinear, pixel by pixel; edge cells are held."""
    (h, w), (height, width) = values.shape, size_hw
    laid = np.zeros(size_hw)
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * h / height - 0.5, 0), h - 1)
            u = min(max((x + 0.5) * w / width - 0.5, 0), w - 1)
            top, left = int(v), int(u)
            below, right = min(top + 1, h - 1), min(left + 1, w - 1)
            a, b = v - top, u - left
            laid[y, x] = (1 - a) * ((1 - b) * values[top, left] + b * values[top, right]) + a * (
                (1 - b) * values[below, left] + b * values[below, right]
            )
    return laid


@pytest.mark.parametrize("size", [None, (40, 60), (7, 5), (2, 3)])
def test_the_heatmap_is_half_pixel_bilinear(size):
    ex = made()
    for i, t in np.ndindex(2, 3):
        wanted = slow_bilinear(ex.maps[i, t].astype(np.float64), size or (20, 30))
        np.testing.assert_allclose(ex.heatmap(i, t, size=size), wanted, atol=1e-6)
    assert ex.heatmap(1, 2).dtype == np.float32


def test_at_whole_scales_the_heatmap_keeps_the_mean():
    ex = made()
    for i, t in np.ndindex(2, 3):
        assert ex.heatmap(i, t).mean() == pytest.approx(ex.maps[i, t].mean(), abs=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("normalize", ["none", "max", "minmax"])
@pytest.mark.parametrize("size", [None, (20, 15)])
def test_nothing_lies_where_a_crop_hid_the_picture(normalize, size, sign):
    _, view = Preprocess((8, 8), crop_fraction=0.8)(np.zeros((40, 30, 3), np.uint8))
    maps = sign * (1 + np.random.default_rng(1).random((1, 1, 4, 4)))
    ex = made(1, 1, maps=maps, views=(view,), pictures=())
    seen = ex.seen(size=size)
    heatmap = ex.heatmap(size=size, normalize=normalize)
    assert heatmap.shape == (size or (40, 30))
    assert not seen.all()
    assert (heatmap[~seen] == 0).all()
    if normalize == "none":
        assert (sign * heatmap[seen] > 0).all()
    if normalize == "minmax":
        assert (heatmap[seen].min(), heatmap[seen].max()) == (0, 1)
    if normalize == "max":
        assert heatmap.max() == max(sign, 0)


@pytest.mark.parametrize(
    ("values", "normalize", "wanted"),
    [
        ([[-2, 0], [2, 4]], "none", [[-2, 0], [2, 4]]),
        ([[-2, 0], [2, 4]], "max", [[0, 0], [0.5, 1]]),
        ([[-2, 0], [2, 4]], "minmax", [[0, 1 / 3], [2 / 3, 1]]),
        ([[-2, -1], [-2, -4]], "max", [[0, 0], [0, 0]]),
        ([[3, 3], [3, 3]], "minmax", [[0, 0], [0, 0]]),
        ([[0, 0], [0, 0]], "max", [[0, 0], [0, 0]]),
    ],
)
def test_normalized_heatmaps_worked(values, normalize, wanted):
    ex = made(1, 1, maps=np.array([[values]], float), views=(View.whole((2, 2)),), pictures=())
    np.testing.assert_allclose(ex.heatmap(normalize=normalize), wanted, atol=1e-7)


def test_an_unknown_normalization_is_refused():
    with pytest.raises(CamlucidaError, match="normalize: expected none, max or minmax, got 'softmax'"):
        made().heatmap(normalize="softmax")


def test_boxes_and_masks_worked():
    """A 4×4 grid over 8×8 pixels: a strong cell at row 1, column 2, and a weak one in the corner."""
    maps = np.zeros((1, 2, 4, 4))
    maps[0, 0, 1, 2], maps[0, 0, 3, 0] = 10, 3
    maps[0, 1] = -1
    ex = made(1, 2, maps=maps, views=(View.whole((8, 8)),), pictures=())
    # On each axis a cell counts 3/4 in its own two pixels and 1/4 in the next. The strongest pixels have 10·(3/4)², a
    # fifth of which, 1.125, is passed by 10·3/4·1/4 = 1.875 and not by 10·(1/4)² = 0.625: four pixels, and arms of two.
    assert ex.boxes()[0][0].tolist() == [[3, 1, 7, 5]]
    mask = ex.masks()[0][0]
    assert mask[1:5, 3:7].tolist() == [[False, True, True, False], [True] * 4, [True] * 4, [False, True, True, False]]
    assert mask[6:, :2].all()  # held at the border: 3 in the corner pixel, 2.25 beside it, then 0.75
    assert mask.sum() == 16
    assert ex.boxes(largest=False)[0][0].tolist() == [[3, 1, 7, 5], [0, 6, 2, 8]]
    assert ex.boxes(0.5)[0][0].tolist() == [[4, 2, 6, 4]]
    assert ex.boxes(minimum_area=13)[0][0].shape == (0, 4)
    assert ex.boxes()[0][1].shape == (0, 4)  # no evidence, no box
    assert not ex.masks()[0][1].any()


def test_boxes_are_in_pixels_of_the_original_picture():
    """The same map seen through a crop moves and scales its box with the crop."""
    maps = np.zeros((1, 1, 4, 4))
    maps[0, 0, 1, 2] = 10
    ex = made(1, 1, maps=maps, views=(View((40, 60), (20, 10, 52, 34)),), pictures=())  # cells of 8×6 pixels
    x0, y0, x1, y1 = ex.boxes()[0][0][0].tolist()
    assert (x0 + x1) / 2 == 20 + 8 * 2.5
    assert (y0 + y1) / 2 == 10 + 6 * 1.5


@pytest.mark.parametrize("view", ["heatmap", "seen", "boxes", "masks"])
def test_inputs_that_are_no_pictures_have_maps_alone(view):
    ex = made(grid=(2, 3, 4), views=(), pictures=())
    assert ex.grid == (2, 3, 4)
    with pytest.raises(
        CamlucidaError, match=r"maps over a grid \(2, 3, 4\) of an input that is no picture have no heatmap; use maps"
    ):
        getattr(ex, view)()


def test_without_pictures_there_is_no_overlay():
    ex = made(pictures=())
    with pytest.raises(
        CamlucidaError, match=r"overlay: the input was a tensor, not a picture; use heatmap\(\) and draw.overlay\(\)"
    ):
        ex.overlay()
    assert ex._repr_png_() is None


def test_probabilities_are_of_the_explained_classes_and_unknown_for_other_scores():
    logits = np.array([[0.0, np.log(3), 0.0, -np.inf]])
    ex = made(1, 2, logits=logits, classes=np.array([[1, -1]]))
    np.testing.assert_allclose(ex.probabilities, [[0.6, np.nan]], rtol=1e-6)


@pytest.mark.parametrize(
    ("residual", "activation", "line"),
    [
        (2e-7, "softmax", "class 0 60.0 % · cam, exact (residual 2e-07)"),
        (0.031, "softmax", "class 0 60.0 % · cam, residual 3.1 %"),
        (np.nan, "softmax", "class 0 60.0 % · cam"),
        (np.nan, "none", "class 0 +1.25 · cam"),
    ],
)
def test_captions(residual, activation, line):
    ex = made(
        1, 1, 3, logits=np.log([[3.0, 1, 1]]), scores=np.array([[1.25]]), residual=np.array([[residual]]),
        origin=Origin("net", activation=activation),
    )  # fmt: skip
    assert ex.caption() == line


def test_residuals_in_words():
    assert residual_in_words(1e-4) == "exact (residual 1e-04)"
    assert residual_in_words(1.1e-4) == "residual 0.011 %"


def test_overlay_sheet_and_repr():
    ex = made(2, 2)
    before = ex.pictures[1].pixels.copy()
    overlay = ex.overlay(1, 0, caption=False, threshold=None)
    assert isinstance(overlay, Image.Image)
    assert overlay.size == (30, 20)
    heatmap, pixels = ex.heatmap(1, 0), np.asarray(overlay)
    assert (pixels[heatmap <= 0] == 10).all()  # clear where there is no evidence
    assert (pixels[heatmap == heatmap.max()] != 10).any()
    np.testing.assert_array_equal(ex.pictures[1].pixels, before)
    assert ex._repr_png_().startswith(b"\x89PNG")
    lines = repr(ex).splitlines()
    assert lines[0] == "Explanation of 2 input(s) by unnamed, cam, grid 2×3:"
    assert lines[1].startswith("  0.png: class 0 ")
    assert repr(made(7)).splitlines()[-1] == "  … 2 more"


@pytest.mark.parametrize(
    ("residual", "lowest", "floor"), [(np.nan, 5.0, 5.0), (np.nan, -5.0, 0.0), (0.0, 5.0, 0.0)],
    ids=["far from zero", "signed", "decomposition"],
)  # fmt: skip
def test_only_maps_whose_zero_means_nothing_are_taken_from_their_minimum(residual, lowest, floor):
    maps = np.full((1, 1, 4, 6), lowest)
    maps[0, 0, 1, 2:4] = 10
    one = made(1, 1, grid=(4, 6), maps=maps, residual=np.full((1, 1), residual))
    np.testing.assert_allclose(one.evidence(), one.heatmap() - floor, atol=1e-6)
    (((x0, y0, x1, y1),),) = one.boxes()[0][0][None].tolist()
    whole = (x0, y0, x1, y1) == (0, 0, 30, 20)
    assert whole == (lowest > floor), (x0, y0, x1, y1)


def test_what_was_not_seen_is_no_evidence():
    view = View((20, 30), (0.0, 5.0, 30.0, 15.0))
    one = made(1, 1, maps=np.full((1, 1, 2, 3), 5.0) + np.eye(2, 3), residual=np.full((1, 1), np.nan), views=(view,),
               pictures=())  # fmt: skip
    seen = one.seen()
    assert not one.evidence()[~seen].any()
    assert one.evidence()[seen].min() == 0
