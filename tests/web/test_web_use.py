"""The page in a browser: ways in, the keyboard, small and dark screens, and what it says when something is wrong."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from page_driver import box, choose, drop, names, opened

import camlucida as cl


def test_what_is_no_picture_is_refused_and_the_last_answer_stays(browser: Any, url: str, picture: Path) -> None:
    with opened(browser, url) as page:
        drop(page, "notes.txt", b"no picture", "text/plain")
        alert = page.get_by_role("alert")
        alert.wait_for()
        assert "notes.txt: not a picture that this browser can read" in alert.inner_text()
        page.get_by_role("button", name="Close this message").click()
        assert not alert.is_visible()
        choose(page, picture)
        for name, data, message in [
            ("cut.png", picture.read_bytes()[:60], "cut.png: not a picture"),
            ("empty.jpg", b"", "empty.jpg: empty"),
            ("<img src=x onerror=alert(1)>.svg", b"<svg/>", "<img src=x onerror=alert(1)>.svg: not a picture"),
        ]:
            drop(page, name, data, "image/png")
            alert.get_by_text(message).wait_for()
            assert page.inner_text("#shown") == "cat"
        drop(page, "again.png", picture.read_bytes(), "image/png")
        page.wait_for_selector("#layers[aria-label^='again.png']")
        assert not alert.is_visible()


def test_a_picture_can_be_pasted(browser: Any, server_url: str, picture: Path) -> None:
    script = """(text) => {
        const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
        const clipboardData = new DataTransfer();
        if (bytes.length) clipboardData.items.add(new File([bytes], "image.png", { type: "image/png" }));
        document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
    }"""
    with opened(browser, server_url) as page:
        page.evaluate(script, "")
        page.get_by_text("The clipboard holds no picture; copy one first.").wait_for()
        page.evaluate(script, base64.b64encode(picture.read_bytes()).decode())
        page.wait_for_selector("#layers[aria-label^='image.png with the map of cat']")


def test_all_of_it_with_the_keyboard(browser: Any, server_url: str, picture: Path) -> None:
    def focused() -> str:
        found: str = page.evaluate("document.activeElement.id || document.activeElement.name")
        return found

    with opened(browser, server_url) as page:
        page.on("filechooser", lambda _: None)  # Playwright begins to catch the dialogue with the first listener
        page.keyboard.press("Tab")
        assert focused() == "theme"
        page.keyboard.press("Tab")
        assert focused() == "pick"
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files(picture)
        page.wait_for_selector("#list .class")
        page.focus("#another")
        way = []
        for _ in range(10):
            page.keyboard.press("Tab")
            way.append(focused())
            if way[-1] == "class":
                page.keyboard.press("ArrowDown")
                assert page.inner_text("#shown") == names(page)[1]
            elif way[-1] == "view":
                page.keyboard.press("ArrowRight")
                assert page.inner_text("#legend-low").startswith("−")
            elif way[-1] == "threshold":
                before = box(page)
                for _ in range(40):
                    page.keyboard.press("ArrowRight")
                page.evaluate("new Promise(requestAnimationFrame)")  # a slider is followed once a frame
                assert page.inner_text("#threshold-value") == "60 % of the maximum"
                assert box(page) != before
        order = ["theme", "find", "class", "rival", "view", "opacity", "threshold", "save-overlay", "save-numbers"]
        assert way[: len(order)] == order
        page.focus("#another")
        page.keyboard.press("Enter")
        assert focused() == "pick"
        assert page.is_hidden("#result")


def test_every_control_has_a_name(browser: Any, server_url: str, picture: Path) -> None:
    with opened(browser, server_url) as page:
        choose(page, picture)
        for role, name in [
            ("searchbox", "Find a class"),
            ("group", "Classes"),
            ("radio", f"cat {100 * cl.explain(picture).probabilities[0, 0]:.1f} %"),
            ("combobox", "Rather than"),
            ("group", "Evidence"),
            ("radio", "for and against"),
            ("slider", "Opacity"),
            ("slider", "Threshold"),
            ("button", "Save overlay"),
            ("button", "Save numbers"),
            ("button", "New picture"),
            ("button", "Dark colours"),
        ]:
            assert page.get_by_role(role, name=name, exact=True).count() == 1, f"{role} {name}"
        assert page.get_by_role("img", name="chelsea.png with the map of cat").count() == 1


@pytest.mark.parametrize("width", [320, 400])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, server_url: str, picture: Path, width: int) -> None:
    phone = {"viewport": {"width": width, "height": 700}, "is_mobile": True, "has_touch": True}
    with opened(
        browser, server_url, **phone, device_scale_factor=2, color_scheme="dark", reduced_motion="reduce"
    ) as page:
        assert page.is_visible("#photograph")
        assert page.get_attribute("#photograph", "capture") == "environment"
        sizes = [page.evaluate("document.documentElement.scrollWidth")]
        choose(page, picture)
        sizes.append(page.evaluate("document.documentElement.scrollWidth"))
        assert sizes == [width, width]
        page.locator("#list label").nth(1).tap()
        assert page.inner_text("#shown") == names(page)[1]
        assert page.evaluate("getComputedStyle(document.getElementById('theme')).transitionDuration") == "0s"


def test_dark_and_light(browser: Any, server_url: str) -> None:
    def paper() -> int:
        colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        return int(re.search(r"\d+", colour).group())  # type: ignore[union-attr]

    with opened(browser, server_url, color_scheme="dark") as page:
        assert paper() < 64
        page.click("#theme")
        assert paper() > 192
        page.reload()
        assert paper() > 192
        assert page.get_attribute("#theme", "aria-pressed") == "false"


def test_the_sample_picture(browser: Any, site_url: str) -> None:
    with opened(browser, site_url) as page:
        page.click("#sample")
        page.wait_for_selector("#layers[aria-label^='sample.jpg with the map of cat']")


def test_the_servers_refusal_is_told(browser: Any, served: Any, picture: Path) -> None:
    with served(max_body=1000) as url, opened(browser, url, failing=413) as page:
        drop(page, "chelsea.png", picture.read_bytes(), "image/png")
        alert = page.get_by_role("alert")
        alert.wait_for()
        assert re.search("1000 bytes", alert.inner_text())


def test_a_server_that_is_gone_is_told(browser: Any, served: Any, picture: Path) -> None:
    with served() as url, opened(browser, url, failing=0) as page:
        page.route("**/v1/explain", lambda route: route.abort())
        drop(page, "chelsea.png", picture.read_bytes(), "image/png")
        page.get_by_role("alert").get_by_text("The server does not answer").wait_for()


def test_a_server_with_a_token_is_given_it(browser: Any, served: Any, picture: Path) -> None:
    with served(token="open-sesame") as url, opened(browser, url, failing=401, ready=False) as page:
        for token in ("wrong", "open-sesame"):
            page.get_by_label("Access token").fill(token)
            page.keyboard.press("Enter")
        page.wait_for_selector("#where:not(:empty)")
        choose(page, picture)
        assert page.inner_text("#shown") == "cat"
        assert page.get_by_role("alert").is_hidden()


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ("cam.onnx", "cam.onnx could not be fetched, or is not the file that this page was made for"),
        ("config.json", "config.json could not be read; check that the whole folder was published"),
        ("ort/ort-wasm.wasm", "The model failed"),
    ],
)
def test_a_site_that_is_not_whole_says_so(browser: Any, site_url: str, spoiled: str, message: str) -> None:
    with opened(browser, site_url, ready=False, without=spoiled) as page:
        page.get_by_role("alert").get_by_text(message).wait_for()
