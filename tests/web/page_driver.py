"""What a person does with the page and sees of it, through Playwright."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@contextmanager
def opened(
    browser: Any, url: str, *, failing: int | None = None, ready: bool = True, without: str = "", **options: Any
) -> Iterator[Any]:
    """The page. At its end no script has failed, and no request has gone anywhere else.

    Args:
        browser: Chromium.
        url: of the page.
        failing: a response's status that the browser may complain of; 0 for a connection.
        ready: wait for the model.
        without: a file that is missing, of which anybody may complain in the console.
        options: of Playwright's context.
    """
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
    page = context.new_page()
    if without:
        context.route(f"**/{without}", lambda route: route.fulfill(status=404))
    said: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    if not without:
        page.on("console", lambda message: said.append(message.text))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.asked = asked
    page.set_default_timeout(60_000)
    page.goto(url)
    if ready:
        page.wait_for_selector("#where:not(:empty)")
    yield page
    complaint = "Failed to load resource: " + (f"the server responded with a status of {failing}" if failing else "net")
    assert [one for one in said if failing is None or not one.startswith(complaint)] == []
    assert [one for one in asked if not one.startswith((url, "blob:", "data:"))] == []
    context.close()


def choose(page: Any, path: Path) -> None:
    page.set_input_files("#pick", path)
    page.wait_for_selector("#list .class")


def drop(page: Any, name: str, data: bytes, kind: str) -> None:
    """Drop a file on the page, as the desktop does."""
    script = """([name, text, type]) => {
        const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], name, { type }));
        for (const kind of ["dragenter", "dragover", "drop"]) {
            const event = new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true });
            document.getElementById("intake").dispatchEvent(event);
        }
    }"""
    page.evaluate(script, [name, base64.b64encode(data).decode(), kind])


def drawn(page: Any) -> NDArray[np.uint8]:
    """The map's canvas, H×W×4."""
    url = page.evaluate("document.getElementById('map').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA"))


def names(page: Any) -> list[str]:
    found: list[str] = page.locator("#list .name").all_inner_texts()
    return found


def box(page: Any) -> list[int] | None:
    found = re.search(r"Box (\d+), (\d+) – (\d+), (\d+)", page.inner_text("#box"))
    return [int(side) for side in found.groups()] if found else None


def saved(page: Any, button: str) -> bytes:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes()


def set_slider(page: Any, which: str, value: int) -> None:
    page.evaluate(
        "([id, value]) => { const slider = document.getElementById(id); slider.value = value;"
        " slider.dispatchEvent(new Event('input')); return new Promise(requestAnimationFrame); }",
        [which, value],
    )
