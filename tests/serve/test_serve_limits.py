"""Queue, batches, time and connections: held models and bare sockets."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import uvicorn.protocols.http.h11_impl
from serving import BlockedRunner, picture, post, problem, received, refused, running, wait_until

from camlucida.serve import http_protocol

HEAD = b"POST /v1/explain HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"


@pytest.fixture
def held():
    return BlockedRunner()


@pytest.fixture(params=["the fastest there is", "h11"])
def each_protocol(request, monkeypatch):
    """With httptools where it is installed, and without it."""
    if request.param == "h11":
        monkeypatch.setattr(http_protocol, "Fastest", uvicorn.protocols.http.h11_impl.H11Protocol)


def form(image: bytes, classes: str = "3") -> bytes:
    body = (f'--x\r\nContent-Disposition: form-data; name="classes"\r\n\r\n{classes}\r\n'
            '--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n').encode()  # fmt: skip
    body += image + b"\r\n--x--\r\n"
    return HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_batching(demo):
    """Many at once get what each gets alone, whatever they ask; and they do share runs."""
    asks = [{"classes": "all"}, {"classes": "2"}, {"classes": "dog,cat"}, {"maps": "png"}]
    with demo.client() as client:
        alone = [post(client, picture(i), **asks[i % 4]).json() for i in range(24)]

        def ask(i):
            return post(client, picture(i), **asks[i % 4]).json()

        before = demo.app.state.batcher.under_way
        with ThreadPoolExecutor(24) as pool:
            together = list(pool.map(ask, range(24)))
    assert before == 0
    for one, other in zip(alone, together, strict=True):
        assert [row["id"] for row in one["classes"]] == [row["id"] for row in other["classes"]]
        assert [row["box"] for row in one["classes"]] == [row["box"] for row in other["classes"]]
        assert [row["logit"] for row in one["classes"]] == pytest.approx([row["logit"] for row in other["classes"]])
    counts = {s.name: s.value for family in demo.app.state.metrics.batches.collect() for s in family.samples}
    assert counts["camlucida_batch_pictures_sum"] > counts["camlucida_batch_pictures_count"]


def test_groups_and_full_batches(held):
    """While the model is busy pictures gather; then they go through it by what they ask, at most a batch at once."""
    with running(held.model(), batch=4, threads=1) as server, server.client() as client, ThreadPoolExecutor(8) as pool:
        first = pool.submit(post, client, picture(0), classes="1")
        assert held.begun.acquire(timeout=20)
        later = [pool.submit(post, client, picture(i), classes="1" if i < 4 else "cat") for i in range(1, 7)]
        batcher = server.app.state.batcher
        wait_until(lambda: len(batcher._ready) == 6)
        held.open.set()
        assert {one.result().status_code for one in (first, *later)} == {200}
    sizes = [size for size, _ in held.runs]
    assert sum(sizes) == 7
    assert max(sizes) <= 4
    assert len(held.runs) < 7
    assert {str(classes) for _, classes in held.runs} == {"1", "[2]"}


def test_full_queue(held):
    with running(held.model(), queue=2) as server, server.client() as client, ThreadPoolExecutor(4) as pool:
        inside = [pool.submit(post, client, picture(i)) for i in range(2)]
        wait_until(lambda: server.app.state.batcher.under_way == 2)
        said = post(client)
        assert problem(said, 503) == "the server is busy; try again in a moment"
        assert said.headers["retry-after"] == "1"
        assert client.get("/healthz").status_code == 200  # the event loop is free
        held.open.set()
        assert [one.result().status_code for one in inside] == [200, 200]
        assert post(client).status_code == 200


def test_one_client_too_many(held):
    with running(held.model(), per_client=2) as server, server.client() as client, ThreadPoolExecutor(4) as pool:
        inside = [pool.submit(post, client, picture(i)) for i in range(2)]
        wait_until(lambda: server.app.state.batcher.under_way == 2)
        said = post(client)
        assert problem(said, 429) == "you have 2 requests under way, as many as are allowed; wait"
        assert said.headers["retry-after"] == "1"
        held.open.set()
        assert [one.result().status_code for one in inside] == [200, 200]
        assert post(client).status_code == 200


def test_answer_too_late(held):
    with running(held.model(), timeout=0.2) as server, server.client() as client:
        assert "the answer took longer than 0.2 seconds" in problem(post(client), 504)
        held.open.set()
        wait_until(lambda: server.app.state.batcher.under_way == 0)
        assert post(client).status_code == 200


def test_client_leaves(held, each_protocol):
    """What nobody waits for is not run."""
    with running(held.model(), batch=1, threads=1) as server, server.client() as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, client)
        assert held.begun.acquire(timeout=20)
        for _ in range(3):
            with server.connect() as one:
                waiting = len(server.app.state.batcher._ready)
                one.sendall(form(picture()))
                wait_until(lambda before=waiting: len(server.app.state.batcher._ready) > before)
        wait_until(lambda: all(ready.job.abandoned for ready in server.app.state.batcher._ready))
        held.open.set()
        assert first.result().status_code == 200
        wait_until(lambda: server.app.state.batcher.under_way == 0)
        assert len(held.runs) == 1
        assert 'status="499"' in client.get("/metrics").text


def trickle(one: socket.socket, data: bytes) -> None:
    """Byte by byte, until an answer comes."""
    for byte in data:
        one.sendall(bytes([byte]))
        if select.select([one], [], [], 0.03)[0]:
            return


def test_slow_body(held, each_protocol):
    held.open.set()
    with running(held.model(), body_timeout=0.3) as server:
        with server.connect() as one:
            one.sendall(form(picture())[:200])
            assert "the request's body came too slowly" in refused(received(one), 408)
        with server.connect() as one:  # a trickle does not help
            one.sendall(form(picture())[:200])
            trickle(one, b"x" * 100)
            assert "came too slowly" in refused(received(one), 408)
        with server.client() as client:
            assert post(client).status_code == 200


def test_slow_head(held, each_protocol):
    with running(held.model(), body_timeout=0.3) as server:
        with server.connect() as one:
            assert refused(received(one), 408) == "the request's head came too slowly"
        with server.connect() as one:
            trickle(one, b"POST /v1/explai")
            assert refused(received(one), 408) == "the request's head came too slowly"
        with server.connect() as one:  # the second request of a connection too
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            said = b""
            while b'"ok"' not in said:
                said += one.recv(65536)
            one.sendall(b"GET /hea")
            assert refused(received(one), 408) == "the request's head came too slowly"


def test_large_head(demo):
    with demo.connect() as one:
        one.sendall(b"GET /healthz HTTP/1.1\r\n")
        with contextlib.suppress(OSError):  # it may have closed already
            for i in range(40):
                one.sendall(f"X-{i}: {'y' * 1000}\r\n".encode())
                time.sleep(0.001)
        assert received(one).startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))


@pytest.mark.parametrize("garbage", [b"\0\1\2\r\n\r\n", b"GET / HTTQ/1.1\r\n\r\n", b"{}\r\n\r\n"])
def test_no_http(demo, garbage):
    assert refused(demo.raw(garbage), 400) == "this is not a valid HTTP request"


def test_bad_length(demo):
    answer = demo.raw(HEAD + b"Content-Length: -5\r\n\r\n")
    assert refused(answer, 400) == "this is not a valid HTTP request"


def test_too_many_connections(held, each_protocol):
    held.open.set()
    with running(held.model(), connections=3) as server:
        kept = [server.connect() for _ in range(3)]
        try:
            wait_until(lambda: len(server.server.server_state.connections) == 3)
            assert "too many connections" in refused(server.raw(b""), 503)
        finally:
            for one in kept:
                one.close()
        wait_until(lambda: not server.server.server_state.connections)
        with server.client() as client:
            assert post(client).status_code == 200


def test_too_much_held(held):
    """Bodies that are being received share a limit on memory."""
    with running(held.model(), max_body=1000, max_held=1000, body_timeout=5) as server, server.connect() as slow:
        slow.sendall(HEAD + b"Content-Length: 900\r\n\r\n" + b"x" * 800)
        too_much = HEAD + b"Content-Length: 600\r\n\r\n" + b"y" * 600
        wait_until(lambda: b" 503 " in server.raw(too_much)[:20])
        slow.close()
        wait_until(
            lambda: b" 400 " in server.raw(too_much.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))[:20]
        )


def test_stops_with_what_is_under_way(held):
    """A stop takes no new connection, finishes what is inside, and ends every thread."""
    before = threading.active_count()
    with running(held.model()) as server, server.client() as client, ThreadPoolExecutor(1) as pool:
        inside = pool.submit(post, client)
        assert held.begun.acquire(timeout=20)
        server.server.should_exit = True
        wait_until(lambda: not _accepts(server.port))
        assert not inside.done()
        held.open.set()
        assert inside.result().status_code == 200
        server.thread.join(20)
        assert not server.thread.is_alive()
    wait_until(lambda: threading.active_count() <= before)


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def test_event_loop_stays_free(demo):
    """While many pictures are decoded and explained, a small request is answered at once."""
    stop = threading.Event()
    image = picture(size_hw=(990, 990), kind="JPEG")

    def flood():
        with demo.client() as client:
            while not stop.is_set():
                post(client, image, classes="all")

    threads = [threading.Thread(target=flood) for _ in range(8)]
    for one in threads:
        one.start()
    try:
        waits = []
        with demo.client() as client:
            for _ in range(15):
                begun = time.monotonic()
                assert client.get("/healthz").status_code == 200
                waits.append(time.monotonic() - begun)
    finally:
        stop.set()
        for one in threads:
            one.join()
    assert sorted(waits)[7] < 1.0  # an answer of the model takes seconds here, for eight share the processors


def test_hostile_mixture(demo):
    """Oversize, slow, broken and abandoned requests at once, then all is as before."""

    def hostile(i: int) -> None:
        with demo.connect() as one:
            data = (form(b"x" * 400_000), form(picture())[:-5], b"\0\0\0\r\n\r\n", form(picture()))[i % 4]
            with contextlib.suppress(OSError):  # the server may close first
                one.sendall(data)
                if i % 4 in (0, 2):
                    received(one)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(hostile, range(48)))
    with demo.client() as client:
        assert post(client).status_code == 200
    wait_until(lambda: demo.app.state.batcher.under_way == 0)


def test_closed_batcher(held):
    with running(held.model()) as server:
        held.open.set()
    app = server.app
    transport = httpx.ASGITransport(app)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post("/v1/explain", files={"image": picture()})

    import asyncio

    assert "shutting down" in problem(asyncio.run(ask()), 503)
