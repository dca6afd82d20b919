"""Measure the page in headless Chromium: script time to switch class or move a slider, time to an answer, agreement.

    python benchmarks/page.py [--runtime onnxruntime-web.tgz]

Script time is the processor time of all scripts (Chromium's own count, in thread ticks, so that other work on the
machine does not show) from the pointer's move to the map drawn: project, colour, outline, box, words. The browser's own
painting is not in it. Exit status 1: a switch took more than a frame, or a map differs by more than 1e-4 logits.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import CDPSession, Page, sync_playwright

import camlucida as cl
from camlucida.web import write_site

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FRAME = 16.0  # ms
SCREENS = {
    "desktop 1280×860": (1280, 860, 1),
    "desktop 1600×1100 @2": (1600, 1100, 2),
    "phone 390×844 @3": (390, 844, 3),
}
LARGE = (3000, 4000)  # height and width of a 12-megapixel photo


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def ticks(session: CDPSession) -> float:
    """Processor time of the page's scripts so far, ms."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return 1000 * next(one["value"] for one in metrics if one["name"] == "ScriptDuration")


def switches(page: Page, session: CDPSession) -> list[float]:
    """Point at each class of the list, three times over; ms."""
    times = []
    for _ in range(3):
        for row in page.locator("#list label").all():
            before = ticks(session)
            row.hover()
            times.append(ticks(session) - before)
    return times


def slides(page: Page, session: CDPSession) -> list[float]:
    """Move the threshold over its range; ms."""
    times = []
    for percent in range(0, 96, 5):
        before = ticks(session)
        page.evaluate(
            "(value) => { const slider = document.getElementById('threshold'); slider.value = value;"
            " slider.dispatchEvent(new Event('input')); return new Promise(requestAnimationFrame); }",
            percent,
        )
        times.append(ticks(session) - before)
    return times


def line(what: str, times: list[float]) -> None:
    spread = f"median {statistics.median(times):.1f}, 95 % {np.percentile(times, 95):.1f}, most {max(times):.1f}"
    print(f"| {what} | {spread} ms of {len(times)} |")


def measure(page: Page, session: CDPSession, where: str, picture: Path) -> float:
    """One picture on one screen; the slowest switch, ms."""
    started = time.perf_counter()
    page.set_input_files("#pick", picture)
    page.wait_for_selector(f"#layers[aria-label^='{picture.name}']")
    print(f"| {where}, {picture.stem}: from file to map | {time.perf_counter() - started:.2f} s |")
    switched = switches(page, session)
    line(f"{where}, {picture.stem}: switch class", switched)
    line(f"{where}, {picture.stem}: move the threshold", slides(page, session))
    return max(switched)


def agreement(page: Page, picture: Path) -> float:
    with page.expect_download() as download:
        page.click("#save-numbers")
    record = json.loads(Path(download.value.path()).read_text())
    explained = cl.explain(picture, classes="all")
    return max(np.abs(np.array(row["map"]) - explained.maps[0, row["id"]]).max() for row in record["classes"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runtime", type=Path, help="archive or folder of onnxruntime-web; fetched if not given")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        site = write_site(Path(folder) / "site", runtime=asked.runtime)
        sample, large = Path(folder) / "sample.png", Path(folder) / "large.png"
        Image.fromarray(cl.sample().pixels).save(sample)
        Image.fromarray(cl.sample().pixels).resize(LARGE[::-1]).save(large, compress_level=1)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        code = [file.stat().st_size for file in site.iterdir() if file.suffix in (".js", ".html", ".css", ".svg")]
        slowest = furthest = 0.0
        print("| what | figure |\n| --- | --- |")
        print(f"| the page without model and runtime | {len(code)} files, {sum(code) / 1000:.0f} kB |")
        for name, (width, height, ratio) in SCREENS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=ratio)
            started = time.perf_counter()
            page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
            page.wait_for_selector("#where:not(:empty)")
            print(f"| {name}: ready | {time.perf_counter() - started:.2f} s |")
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            slowest = max(slowest, *(measure(page, session, name, picture) for picture in (sample, large)))
            page.set_input_files("#pick", sample)
            page.wait_for_selector("#layers[aria-label^='sample']")
            furthest = max(furthest, agreement(page, sample))
            page.close()
        browser.close()
        server.shutdown()
    print(f"| largest difference of a map to Python's | {furthest:.1e} logits |")
    sys.exit(int(slowest > FRAME or furthest > 1e-4))


if __name__ == "__main__":
    main()
