"""Servers in threads, models whose runs a test can hold back, and requests byte by byte."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from PIL import Image

from camlucida.images.preprocess import Preprocess
from camlucida.models import Model
from camlucida.runners.runner import Facts, MapBatch
from camlucida.serve.app import create_app
from camlucida.serve.listening import listen, server_of
from camlucida.serve.settings import ServerSettings
from camlucida.targets import choose


def picture(seed: int = 0, size_hw: tuple[int, int] = (60, 90), kind: str = "PNG") -> bytes:
    """A picture's file: noise in large squares."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8))
    out = io.BytesIO()
    small.resize(size_hw[::-1], Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


class BlockedRunner:
    """A runner of three classes whose maps are simple: class k's map is k + the picture's mean, over a grid of 2×2.

    Each run waits until ``open`` is set. ``runs`` notes each run's size and classes.
    """

    def __init__(self) -> None:
        self.open, self.begun = threading.Event(), threading.Semaphore(0)
        self.runs: list[tuple[int, Any]] = []
        self.failure: Exception | None = None
        self.value: float | None = None

    def explain(self, batch: Any, classes: Any, class_names: Sequence[str] | None) -> MapBatch:
        if np.any(batch):  # not the blank picture of the start
            self.runs.append((len(batch), classes))
            self.begun.release()
            assert self.open.wait(20)
            if self.failure is not None:
                raise self.failure
        mean = batch.mean((1, 2, 3)) if self.value is None else np.full(len(batch), self.value, np.float32)
        logits = (np.arange(3) * 4 + 4 * mean[:, None]).astype(np.float32)
        targets = choose(classes, logits, class_names)
        scores = np.asarray(targets.of(logits))
        maps = np.broadcast_to(scores[:, :, None, None] / 4, (*scores.shape, 2, 2))
        return MapBatch(logits, targets, scores, maps, np.zeros_like(scores), Facts("", "", (2, 2), 3, None))

    def model(self) -> Model:
        preprocess = Preprocess((8, 8), "stretch", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        return Model("held", lambda method, layer: self, preprocess, ("ant", "bee", "cat"))


@dataclass(frozen=True)
class Running:
    """A server in a thread."""

    url: str
    port: int
    app: Any
    server: Any
    thread: threading.Thread

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, **options)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, data: bytes) -> bytes:
        """Everything that comes back for these bytes."""
        with self.connect() as one:
            one.sendall(data)
            return received(one)


def received(one: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := one.recv(65536):
            parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def running(model: Any = None, **limits: Any) -> Iterator[Running]:
    settings = ServerSettings(port=0, **limits)
    app = create_app(model, settings)
    server = server_of(app)
    with listen(settings) as opened:
        port = opened.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([opened],))
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield Running(f"http://127.0.0.1:{port}", port, app, server, thread)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def wait_until(holds: Any, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)


def post(client: httpx.Client, image: bytes | None = None, **fields: Any) -> httpx.Response:
    """A multipart request."""
    return client.post("/v1/explain", files={"image": ("a.png", picture() if image is None else image)}, data=fields)


def problem(response: httpx.Response, status: int) -> str:
    """A problem's detail, its form checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return detail(response.content, status)


def detail(body: bytes, status: int) -> str:
    said = json.loads(body)
    assert said.keys() == {"type", "title", "status", "detail"}
    assert said["status"] == status
    assert said["type"] == "about:blank"
    assert "\n" not in said["detail"]
    return str(said["detail"])


def refused(answer: bytes, status: int) -> str:
    """The detail of a problem in a raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer[:200]
    assert b"application/problem+json" in head.lower()
    return detail(body, status)
