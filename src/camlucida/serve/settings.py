"""What a server allows: one frozen set of limits."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field

from camlucida.errors import ServeError

MIN_RATE = 20_000
"""Bytes a second: a body may take ``body_timeout`` seconds, and longer the more of it has come at this rate."""


@dataclass(frozen=True)
class ServerSettings:
    """The server's address and limits.

    Attributes:
        host: address to listen on; only this machine reaches the default.
        port: 0 takes any free one.
        token: if given, requests must carry it (``Authorization: Bearer TOKEN``), but for ``/healthz`` and the page.
        max_body: bytes of one request.
        max_pixels: of one picture, width × height.
        max_held: bytes of all requests that are being received or wait.
        queue: requests that wait for, or are in, the model; more get 503.
        per_client: requests of one client's address at a time; more get 429.
        connections: open at a time; more get 503.
        batch: pictures that go through the model at once.
        wait: seconds that a batch may wait for more pictures that are being read.
        threads: batches that run at once, each in one thread; None: as many as there are processors.
        timeout: seconds from a request's last byte to its answer; then it gets 504.
        body_timeout: seconds that a request's head, and its body at less than ``MIN_RATE``, may take; then it gets 408.
        keep_alive: seconds that a connection may wait for its next request.

    Raises:
        ServeError: a field is out of range.

    Example:
        >>> ServerSettings(batch=0)
        Traceback (most recent call last):
        camlucida.errors.ServeError: batch: expected at least 1, got 0
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    max_body: int = 20 * 2**20
    max_pixels: int = 50_000_000
    max_held: int = 512 * 2**20
    queue: int = 256
    per_client: int = 128
    connections: int = 1024
    batch: int = 8
    wait: float = 0.002
    threads: int | None = None
    timeout: float = 30.0
    body_timeout: float = 10.0
    keep_alive: float = 15.0

    def __post_init__(self) -> None:
        least = {"max_body": 1, "max_pixels": 1, "max_held": self.max_body, "queue": 1, "per_client": 1,
                 "connections": 1, "batch": 1, "threads": 1}  # fmt: skip
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ServeError(f"{name}: expected at least {lowest}, got {value}")
        if not 0 <= self.port < 2**16:
            raise ServeError(f"port: expected 0 to 65535, got {self.port}")
        for name in ("timeout", "body_timeout", "keep_alive"):
            if not 0 < getattr(self, name) < 1e6:
                raise ServeError(f"{name}: expected seconds above 0, got {getattr(self, name)}")
        if not 0 <= self.wait < 1e6:
            raise ServeError(f"wait: expected seconds, 0 or more, got {self.wait}")
        if self.token is not None and (not self.token.isascii() or not self.token.isprintable() or " " in self.token):
            raise ServeError("token: expected printable ASCII characters without spaces")
        if self.token == "":
            raise ServeError("token: it is empty; leave it out, or choose a long random one")

    @property
    def workers(self) -> int:
        """Threads of each kind: those that run the model and those that read pictures."""
        if self.threads is not None:
            return self.threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the server.

        Example:
            >>> ServerSettings().loopback, ServerSettings(host="0.0.0.0").loopback
            (True, False)
        """
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
