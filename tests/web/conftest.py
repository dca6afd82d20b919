"""What the page's tests need: Node.js, a browser, the site and the server; each skips where it cannot be had."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import camlucida as cl
from camlucida.errors import OutputError
from camlucida.web import write_site
from camlucida.web.runtime import PACKAGE, fetch_archive

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

Ask = Callable[..., Any]


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("no Node.js: install it to test the page's modules")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < 20:
        pytest.skip(f"Node.js {version.strip()} is too old for the page's tests: install 20 or newer")
    return found


@pytest.fixture(scope="session")
def ask(node: str) -> Iterator[Ask]:
    """Asks the page's modules in one Node.js process; see parity.mjs."""
    script = Path(__file__).with_name("parity.mjs")
    with subprocess.Popen([node, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def question(ask: str, **fields: Any) -> Any:
            process.stdin.write(json.dumps({"ask": ask, **fields}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield question
        process.stdin.close()


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of onnxruntime-web: $CAMLUCIDA_ORT_WEB, else from npm's registry or cache."""
    given = os.environ.get("CAMLUCIDA_ORT_WEB")
    if given:
        return Path(given)
    try:
        data = fetch_archive()
    except OutputError as error:
        pytest.skip(f"no {PACKAGE}: {error}")
    path = tmp_path_factory.mktemp("npm") / "onnxruntime-web.tgz"
    path.write_bytes(data)
    return path


@pytest.fixture(scope="session")
def site(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the demonstration model."""
    return write_site(tmp_path_factory.mktemp("web") / "site", runtime=runtime)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def site_url(site: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The server with the demonstration model."""
    with _served() as url:
        yield url


@pytest.fixture(scope="session")
def served() -> Callable[..., AbstractContextManager[str]]:
    """Starts a server with other settings: ``with served(token="…") as url``."""
    return _served


@contextmanager
def _served(**limits: Any) -> Iterator[str]:
    """A server on a free port, for as long as the block runs."""
    pytest.importorskip("starlette", reason="no Starlette: pip install 'camlucida[serve]'")
    from camlucida.serve.app import create_app
    from camlucida.serve.listening import listen, server_of
    from camlucida.serve.settings import ServerSettings

    settings = ServerSettings(port=0, threads=1, **limits)
    server = server_of(create_app(None, settings))
    with listen(settings) as opened:
        thread = threading.Thread(target=server.run, args=([opened],))
        thread.start()
        yield f"http://127.0.0.1:{opened.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, of the system or of Playwright. No longer than a module: its event loop bars all others."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    with playwright.sync_playwright() as driver:
        try:
            opened = driver.chromium.launch(executable_path=found, args=CHROMIUM_FLAGS)
        except playwright.Error as error:
            pytest.skip(f"no Chromium: install it, or playwright install chromium ({str(error).splitlines()[0]})")
        yield opened
        opened.close()


@pytest.fixture(params=["browser", "server"])
def url(request: pytest.FixtureRequest) -> str:
    """Where the page is: a site whose model runs in the browser, or the server."""
    found: str = request.getfixturevalue({"browser": "site_url", "server": "server_url"}[request.param])
    return found


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as PNG, which every decoder reads alike."""
    path = tmp_path_factory.mktemp("pictures") / "chelsea.png"
    Image.fromarray(cl.sample().pixels).save(path)
    return path


@pytest.fixture(scope="session")
def explained(picture: Path) -> cl.Explanation:
    return cl.explain(picture, classes="all")
