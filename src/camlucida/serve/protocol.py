"""Limits on connections that uvicorn leaves open: how long a request's head may take, and how large it may be."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from camlucida.serve.problems import MEDIA_TYPE, document

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Fastest
except ModuleNotFoundError:
    Fastest = H11Protocol  # type: ignore[misc, assignment]

MAX_HEAD = 32 * 1024
"""Bytes of a request's line and headers."""

_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


def bounded(connections: int, head_timeout: float) -> type[asyncio.Protocol]:
    """A protocol for uvicorn's ``http`` setting.

    Args:
        connections: how many may be open; the next is told 503.
        head_timeout: seconds from a connection's beginning, or a request's first byte, to the end of the head.
    """

    class Bounded(Fastest):
        _deadline: asyncio.TimerHandle | None = None
        _head = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > connections:
                self._refuse(503, "the server has too many connections; try again later")
                return
            self._deadline = self.loop.call_later(head_timeout, self._late)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before or self._busy():
                self._head = 0
                self._done_waiting()
                return
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._refuse(431, f"the request's head is larger than {MAX_HEAD} bytes")
            elif self._deadline is None:
                self._deadline = self.loop.call_later(head_timeout, self._late)

        def connection_lost(self, exc: Exception | None) -> None:
            self._done_waiting()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "this is not a valid HTTP request")

        def _busy(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _done_waiting(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _late(self) -> None:
            self._deadline = None
            if not self._busy():
                self._refuse(408, "the request's head came too slowly")

        def _refuse(self, status: int, detail: str) -> None:
            if self.transport.is_closing():
                return
            self._done_waiting()
            if not self._busy():  # else an answer is being written on this connection
                body = document(status, detail)
                head = (f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: {MEDIA_TYPE}\r\n"
                        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n")  # fmt: skip
                self.transport.write(head.encode() + body)
            self.transport.close()

    return Bounded
