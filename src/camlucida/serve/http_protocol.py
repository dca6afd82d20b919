"""Limits on connections that uvicorn leaves open: how many, how long a request's head may take, how large it may be.

Kept by hand, and the only file that knows uvicorn's inside (``cycle``, ``connections``, ``send_400_response``):
uvicorn waits for a head for ever, so that a client who sends a byte now and then would hold a connection for good;
and its own refusals are plain text.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from camlucida.serve.problems import MEDIA_TYPE, problem_json

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Fastest
except ModuleNotFoundError:
    Fastest = H11Protocol  # type: ignore[misc, assignment]

MAX_HEAD = 32 * 1024
"""Bytes of a request's line and headers."""


def limited_protocol(connections: int, head_timeout: float) -> type[asyncio.Protocol]:
    """A protocol for uvicorn's ``http`` setting.

    Args:
        connections: how many may be open; the next gets 503.
        head_timeout: seconds from a connection's beginning, or a request's first byte, to the end of the head.
    """

    class LimitedProtocol(Fastest):
        _deadline: asyncio.TimerHandle | None = None
        _head = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > connections:
                self._refuse(503, "the server has too many connections; try again later")
                return
            self._deadline = self.loop.call_later(head_timeout, self._head_is_late)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before or self._is_answering():
                self._head = 0
                self._cancel_deadline()
                return
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._refuse(431, f"the request's head is larger than {MAX_HEAD} bytes")
            elif self._deadline is None:
                self._deadline = self.loop.call_later(head_timeout, self._head_is_late)

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel_deadline()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "this is not a valid HTTP request")

        def _is_answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _cancel_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _head_is_late(self) -> None:
            self._deadline = None
            if not self._is_answering():
                self._refuse(408, "the request's head came too slowly")

        def _refuse(self, status: int, detail: str) -> None:
            if self.transport.is_closing():
                return
            self._cancel_deadline()
            if not self._is_answering():  # else an answer is being written on this connection
                body = problem_json(status, detail)
                head = (f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
                        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n")  # fmt: skip
                self.transport.write(head.encode() + body)
            self.transport.close()

    return LimitedProtocol
