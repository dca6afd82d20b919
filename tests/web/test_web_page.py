"""The page in a browser: what it shows is what the library computes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_driver import box, choose, drawn, drop, names, opened, saved, set_slider
from PIL import Image

import camlucida as cl
from camlucida.boxes import localize


def test_a_dropped_picture_is_explained_and_its_map_drawn(
    browser: Any, url: str, picture: Path, explained: cl.Explanation
) -> None:
    with opened(browser, url) as page:
        drop(page, "chelsea.png", picture.read_bytes(), "image/png")
        page.wait_for_selector("#list .class")
        order = np.argsort(-explained.logits[0])
        assert names(page) == [explained.names[0][k] for k in order[:8]]
        assert page.inner_text("#shown") == "cat"
        assert page.inner_text("#shown-score") == f"{100 * explained.probabilities[0, order[0]]:.1f} %"
        assert page.is_hidden("#intake")
        pixels = drawn(page)
        heatmap = explained.heatmap(0, int(order[0]), size=pixels.shape[:2])
        expected = 255 * 0.7 * np.clip(heatmap / explained.heatmap(0, int(order[0])).max(), 0, 1)
        close = np.abs(pixels[..., 3] - expected) <= 1.5
        assert close.mean() > 0.95  # all but the outline and the box
        peak = np.unravel_index(heatmap.argmax(), heatmap.shape)
        assert close[peak]
        assert pixels[..., 3][peak] >= 0.69 * 255
        assert page.get_attribute("#layers", "aria-label").startswith("chelsea.png with the map of cat. Box ")


def test_maps_are_the_librarys_to_a_ten_thousandth(
    browser: Any, url: str, picture: Path, explained: cl.Explanation
) -> None:
    with opened(browser, url) as page:
        choose(page, picture)
        record = json.loads(saved(page, "#save-numbers"))
    assert (record["picture"], record["grid"], record["image_hw"]) == ("chelsea.png", [10, 10], [300, 451])
    assert record["seen_xyxy"] == list(explained.views[0].seen_xyxy)
    assert len(record["classes"]) == 8
    for row in record["classes"]:
        k = row["id"]
        assert row["name"] == explained.names[0][k]
        np.testing.assert_allclose(row["map"], explained.maps[0, k], atol=1e-4)
        found = (row["score"], row["bias"], row["probability"])
        expected = (explained.logits[0, k], explained.bias[0, k], explained.probabilities[0, k])
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert row["residual"] < 1e-5
        assert row["box"] == explained.boxes(0.2)[0][k][0].tolist()


def test_the_saved_overlay_is_the_librarys(
    browser: Any, server_url: str, picture: Path, explained: cl.Explanation
) -> None:
    cat = explained.names[0].index("cat")
    with opened(browser, server_url) as page:
        choose(page, picture)
        for signed in (False, True):
            if signed:
                page.check("input[value=signed]")
            found = np.asarray(Image.open(io.BytesIO(saved(page, "#save-overlay"))).convert("RGB"))
            expected = np.asarray(explained.overlay(0, cat, caption=False, signed=signed))[: found.shape[0]]
            difference = np.abs(found.astype(int) - expected)
            assert difference.max() <= 3, f"signed: {signed}"


def test_the_threshold_moves_the_box_as_localize_does(
    request: pytest.FixtureRequest, browser: Any, url: str, picture: Path, explained: cl.Explanation
) -> None:
    rounding = 1 if request.node.callspec.params["url"] == "server" else 0  # pixels: the server sends maps as float16
    with opened(browser, url) as page:
        choose(page, picture)
        boxes = set()
        for row in (0, 2):
            page.locator("#list label").nth(row).click()
            heatmap = explained.heatmap(0, explained.names[0].index(page.inner_text("#shown")))
            for percent in (0, 20, 45, 70, 95):
                set_slider(page, "threshold", percent)
                np.testing.assert_allclose(box(page), localize.boxes(heatmap, percent / 100)[0], rtol=0, atol=rounding)
                boxes.add(tuple(box(page) or ()))
        assert len(boxes) > 6


def test_pointing_at_a_class_shows_its_map_without_a_request(browser: Any, server_url: str, picture: Path) -> None:
    with opened(browser, server_url) as page:
        choose(page, picture)
        cat, before = drawn(page), len(page.asked)
        second = page.locator("#list label").nth(1)
        second.hover()
        assert page.inner_text("#shown") == names(page)[1]
        assert (drawn(page) != cat).mean() > 0.2
        page.mouse.move(5, 5)
        assert page.inner_text("#shown") == "cat"
        np.testing.assert_array_equal(drawn(page), cat)
        second.click()
        page.mouse.move(5, 5)
        assert page.inner_text("#shown") == names(page)[1]
        assert names(page)[1] in page.inner_text("#said")
        set_slider(page, "opacity", 0)
        assert len(page.asked) == before


def test_any_class_can_be_found_and_held_against_another(
    browser: Any, server_url: str, picture: Path, explained: cl.Explanation
) -> None:
    with opened(browser, server_url) as page:
        choose(page, picture)
        page.fill("#find", "LEOP")
        assert names(page) == ["leopard"]
        page.fill("#find", "unicorn")
        assert page.is_visible("#none")
        page.fill("#find", "")
        assert len(names(page)) == 8
        page.select_option("#rival", label="dog")
        assert page.inner_text("#shown") == "cat rather than dog"
        cat, dog = (explained.names[0].index(name) for name in ("cat", "dog"))
        contrast = cl.explain(picture, classes=cl.Contrast("cat", "dog"))
        assert box(page) == contrast.boxes(0.2)[0][0][0].tolist()
        difference = explained.logits[0, cat] - explained.logits[0, dog]
        assert page.inner_text("#shown-score") == f"+{difference:.2f}"
        assert "the difference of the logits" in page.inner_text("#residual")
        page.select_option("#rival", label="no other class")
        assert page.inner_text("#residual").startswith("The map is exact: its cells sum to ")


def test_turned_and_transparent_pictures_are_seen_as_the_library_sees_them(
    browser: Any, url: str, tmp_path: Path, picture: Path
) -> None:
    with Image.open(picture) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        turned.save(tmp_path / "turned.png", exif=exif)
        alpha = np.tile(np.linspace(0, 255, image.width).astype(np.uint8), (image.height, 1))
        image.putalpha(Image.fromarray(alpha))
        image.save(tmp_path / "faint.png")
    with opened(browser, url) as page:
        for name in ("turned.png", "faint.png"):
            page.set_input_files("#pick", tmp_path / name)
            page.wait_for_selector(f"#layers[aria-label^='{name}']")
            record = json.loads(saved(page, "#save-numbers"))
            expected = cl.explain(tmp_path / name, classes="all")
            assert record["image_hw"] == [300, 451]
            row = record["classes"][0]
            np.testing.assert_allclose(row["map"], expected.maps[0, row["id"]], atol=1e-4 if name[0] == "t" else 0.01)


def test_a_new_picture_replaces_the_one_under_way(browser: Any, url: str, picture: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "red.png")
    with opened(browser, url) as page:
        drop(page, "first.png", picture.read_bytes(), "image/png")
        drop(page, "red.png", (tmp_path / "red.png").read_bytes(), "image/png")
        page.wait_for_selector("#layers[aria-label^='red.png']")
        page.wait_for_timeout(500)
        assert page.get_attribute("#layers", "aria-label").startswith("red.png")
        assert page.is_hidden("#status") or page.inner_text("#status") == ""
