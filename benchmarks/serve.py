"""The server under load, against the bare ONNX Runtime session; then under attack.

    python benchmarks/serve.py                     64 clients for 60 s, then floods for 20 s
    python benchmarks/serve.py --seconds 10        shorter
    python benchmarks/serve.py --classes all       maps and boxes of every class
    python benchmarks/serve.py --threads 1         one batch at a time, also in the server

Every client sends the sample picture (a JPEG of 451×300 pixels) again and again over one connection and waits for each
answer: its maps, boxes and numbers, as the defaults give them. All clients are one process that does nothing but copy
bytes, and shares the processors with the server; its processor time is stated apart.

The bare session runs the same ONNX file with nothing around it, on a ready batch of the same size, before and after;
its mean counts. Two arrangements: as it comes (one batch at a time, ONNX Runtime's own threads inside it), which is the
measure; and as the server runs it (a batch for each processor side by side, each in one thread), which is the most that
these processors give, and leaves nothing for clients, HTTP, decoding, boxes and JSON. Where other work shares the
machine, rates mean little; then compare processor times (the session as it comes spends some of its own on waiting).
Exit status 1: a limit is not kept.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

CLIENTS, BATCH = 64, 8
SPEED, MEMORY, EARLY = 0.8, 1.1, 10
DELIBERATE = {"200", "429", "503"}
TICKS = os.sysconf("SC_CLK_TCK")


def request_of(classes: str) -> bytes:
    """A whole HTTP request, ready to be sent."""
    from camlucida import sample

    picture = io.BytesIO()
    Image.fromarray(sample().pixels).save(picture, "JPEG", quality=88)
    fields = [b'Content-Disposition: form-data; name="classes"\r\n\r\n' + classes.encode(),
              b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
              + picture.getvalue()]  # fmt: skip
    body = b"".join(b"--x\r\n" + field + b"\r\n" for field in fields) + b"--x--\r\n"
    head = (f"POST /v1/explain HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            f"Content-Length: {len(body)}\r\n\r\n")  # fmt: skip
    return head.encode() + body


class Client:
    """One connection that asks again as soon as it is answered."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.request, self.left, self.needed, self.head = request, memoryview(b""), -1, bytearray()
        self.ask()

    def ask(self) -> None:
        self.begun, self.left, self.needed = time.perf_counter(), memoryview(self.request), -1
        self.head.clear()
        self.send()

    def send(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.left:
                self.left = self.left[self.socket.send(self.left) :]

    def receive(self, buffer: bytearray) -> int:
        """The status once the answer is there; 0 before; -1 where the connection ended."""
        try:
            count = self.socket.recv_into(buffer)
        except BlockingIOError:
            return 0
        if not count:
            return -1
        if self.needed < 0:
            self.head += memoryview(buffer)[:count]
            end = self.head.find(b"\r\n\r\n")
            if end < 0:
                return 0
            lower = bytes(self.head[:end]).lower()
            at = lower.index(b"content-length:") + 15
            self.needed = end + 4 + int(lower[at:].partition(b"\r\n")[0]) - len(self.head)
            self.status = int(lower[9:12])
        else:
            self.needed -= count
        return self.status if self.needed == 0 else 0


def load(port: int, seconds: float, classes: str) -> None:
    """All clients; prints what they saw as JSON."""
    request, selector, buffer = request_of(classes), selectors.DefaultSelector(), bytearray(1 << 18)
    for _ in range(CLIENTS):
        client = Client(port, request)
        selector.register(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
    latencies, statuses = [], collections.Counter[str]()
    start = time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        for key, events in selector.select(1):
            client = key.data
            if events & selectors.EVENT_WRITE:
                client.send()
                if not client.left:
                    selector.modify(client.socket, selectors.EVENT_READ, client)
            if not events & selectors.EVENT_READ:
                continue
            status = client.receive(buffer)
            if status == -1:
                statuses["connection lost"] += 1
                selector.unregister(client.socket)
            elif status:
                statuses[str(status)] += 1
                if status == 200:
                    latencies.append(time.perf_counter() - client.begun)
                client.ask()
                if client.left:
                    selector.modify(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
    print(json.dumps({"latencies": latencies, "statuses": statuses, "seconds": now - start,
                      "cpu": time.process_time()}))  # fmt: skip


def bare(batch: int, side_by_side: int, inside: int, seconds: float) -> tuple[float, float]:
    """Pictures a second of the session alone, and ms of processor time for each; ``inside`` 0 is its default."""
    import onnxruntime

    import camlucida
    from camlucida import Explainer, sample

    options = onnxruntime.SessionOptions()
    if inside:
        options.intra_op_num_threads = inside
    content = Path(camlucida.__file__).with_name("models").joinpath("demo.onnx").read_bytes()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    values = np.stack([Explainer().preprocess(sample().pixels)[0]] * batch)
    feed = {session.get_inputs()[0].name: values}
    session.run(["logits", "maps"], feed)
    counts = [0] * side_by_side
    start, cpu = time.perf_counter(), time.process_time()

    def run(which: int) -> None:
        while time.perf_counter() < start + seconds:
            session.run(["logits", "maps"], feed)
            counts[which] += batch

    threads = [threading.Thread(target=run, args=(which,)) for which in range(side_by_side)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = sum(counts)
    return count / (time.perf_counter() - start), 1e3 * (time.process_time() - cpu) / count


def serve(batch: int, threads: int | None) -> None:
    """The server with its default limits, but a shorter one for slow bodies, so that more of them fit into the time."""
    from camlucida.serve.app import create_app
    from camlucida.serve.listening import serve
    from camlucida.serve.settings import ServerSettings

    settings = ServerSettings(port=0, batch=batch, threads=threads, body_timeout=3)
    serve(create_app(settings=settings), lambda address: print(address.rpartition(":")[2], flush=True))


@contextlib.contextmanager
def running(batch: int, threads: int | None):
    command = [sys.executable, __file__, "--server", "--batch", str(batch)]
    command += ["--threads", str(threads)] if threads else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as one:  # wait until it answers
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            one.recv(1000)
        try:
            yield process, port
        finally:
            process.terminate()
            process.wait(30)


def used(process: int) -> tuple[float, float]:
    """Processor time in seconds and resident memory in MiB of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS, int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def clients(port: int, seconds: float, classes: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--clients", str(port), "--seconds", str(seconds), "--classes", classes]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def batches(port: int) -> tuple[float, float]:
    """Batches and pictures so far, as the server counts them."""
    with socket.create_connection(("127.0.0.1", port)) as one, one.makefile("rb") as answer:
        one.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = answer.read().decode()
    return tuple(float(text.partition(f"camlucida_batch_pictures_{what} ")[2].split()[0]) for what in ("count", "sum"))


def attack(port: int, seconds: float) -> collections.Counter[str]:
    """Oversize, slow, malformed and abandoned requests, all at once; what each kind was told."""
    told: collections.Counter[str] = collections.Counter()
    until = time.monotonic() + seconds
    lock = threading.Lock()
    good = request_of("5")
    head = b"POST /v1/explain HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"

    def oversize(one: socket.socket) -> None:
        one.sendall(head + b"Content-Length: 999999999\r\n\r\n" + b"x" * 100_000)

    def oversize_chunks(one: socket.socket) -> None:
        one.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(25):
            one.sendall(b"100000\r\n" + b"x" * 2**20 + b"\r\n")

    def slow_head(one: socket.socket) -> None:
        for byte in good[:20]:
            one.sendall(bytes([byte]))
            time.sleep(0.3)

    def slow_body(one: socket.socket) -> None:
        one.sendall(good[:300])
        for byte in good[300:320]:
            one.sendall(bytes([byte]))
            time.sleep(0.3)

    def no_http(one: socket.socket) -> None:
        one.sendall(os.urandom(300) + b"\r\n\r\n")

    def broken_body(one: socket.socket) -> None:
        body = b"--x\r\nContent-Disposition: form-data; nam-"
        one.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def no_picture(one: socket.socket) -> None:
        body = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n\xff\xd8\xff' + os.urandom(300)
        body += b"\r\n--x--\r\n"
        one.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def leaves(one: socket.socket) -> None:
        one.sendall(good)
        one.close()

    def again(kind) -> None:
        while time.monotonic() < until:
            status = "closed"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as one:
                with contextlib.suppress(OSError):
                    kind(one)
                if one.fileno() >= 0:
                    status = one.recv(2000)[9:12].decode(errors="replace") or "closed"
            with lock:
                told[f"{kind.__name__} {status}"] += 1
            time.sleep(0.02)

    kinds = [oversize, oversize_chunks, no_http, broken_body, no_picture, leaves, *[slow_head] * 20, *[slow_body] * 20]
    threads = [threading.Thread(target=again, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of load")
    parser.add_argument("--attack", type=float, default=20, help="seconds of floods; 0 leaves them out")
    parser.add_argument("--batch", type=int, default=BATCH, help="pictures a batch")
    parser.add_argument("--classes", default="5", help="what each request asks for")
    parser.add_argument("--threads", type=int, help="batches at once in the server; one a processor if not given")
    parser.add_argument("--server", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--clients", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.server:
        serve(asked.batch, asked.threads)
        return 0
    if asked.clients:
        load(asked.clients, asked.seconds, asked.classes)
        return 0

    cores = len(os.sched_getaffinity(0))
    arrangements = {"as it comes": (1, 0), "as the server runs it": (asked.threads or cores, 1)}
    short = min(10.0, asked.seconds / 2)
    alone = {name: [bare(asked.batch, *threads, short)] for name, threads in arrangements.items()}
    with running(asked.batch, asked.threads) as (process, port):
        clients(port, 2, asked.classes).communicate()  # warm
        before, counted = used(process.pid)[0], batches(port)
        flood = clients(port, asked.seconds, asked.classes)
        time.sleep(min(EARLY, asked.seconds / 2))
        early = used(process.pid)[1]
        seen = json.loads(flood.communicate()[0])
        (after, late), size = used(process.pid), np.subtract(batches(port), counted)
        for name, threads in arrangements.items():
            alone[name].append(bare(asked.batch, *threads, short))
        told = attack(port, asked.attack) if asked.attack else {}
        held = used(process.pid)[1]
        again = json.loads(clients(port, 5, asked.classes).communicate()[0])["statuses"] if asked.attack else {}

    good = len(seen["latencies"])
    wall, own, others = good / seen["seconds"], 1e3 * (after - before) / good, 1e3 * seen["cpu"] / good
    median, slow = (float(np.percentile(seen["latencies"], share)) * 1e3 for share in (50, 99))
    print(f"{CLIENTS} clients for {seen['seconds']:.0f} s, {cores} processors, classes={asked.classes}")
    print(
        f"  batches            {asked.threads or cores} at once, of up to {asked.batch}, mean {size[1] / size[0]:.1f}"
    )
    print(f"  answers            {seen['statuses']}")
    print(f"  throughput         {wall:.1f} pictures a second")
    print(f"  latency            {median:.0f} ms median, {slow:.0f} ms p99")
    print(f"  processor time     {own:.2f} ms a picture in the server, {others:.2f} ms in the clients")
    fine = set(seen["statuses"]) <= DELIBERATE
    for name, runs in alone.items():
        rate, cost = (sum(column) / len(runs) for column in zip(*runs, strict=True))
        kept = name != "as it comes" or wall / rate >= SPEED
        limit = f", at least {SPEED}: {'OK' if kept else 'FAIL'}" if name == "as it comes" else ""
        print(f"  bare, {name}: {rate:.1f} pictures a second, {cost:.2f} ms of processor time each")
        print(f"    ratio            {wall / rate:.2f} in pictures a second{limit}; {cost / own:.2f} in processor time")
        fine = fine and kept
    flat = late <= MEMORY * early
    verdict = "OK" if flat else "FAIL"
    print(f"  memory             {early:.0f} MiB early, {late:.0f} MiB at the end: {late / early:.3f}, "
          f"at most {MEMORY}: {verdict}")  # fmt: skip
    if asked.attack:
        print(f"  after {asked.attack:.0f} s of floods: {again}, {held:.0f} MiB")
        for kind, count in sorted(told.items()):
            print(f"    {kind:24} {count}")
    return 0 if fine and flat and set(again) <= DELIBERATE else 1


if __name__ == "__main__":
    sys.exit(main())
