"""Receiving a request's body within its limits: size, time, and the memory of all bodies together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from starlette.requests import Request
from starlette.types import Receive

from camlucida.serve.problems import ProblemError
from camlucida.serve.settings import MIN_RATE, Settings

CLOSE = {"Connection": "close"}
RETRY = {"Retry-After": "1"}
_LINGER = 1.0
"""Seconds that the rest of a refused body is still received, so that its sender sees the answer."""


class ClientGoneError(Exception):
    """The client closed the connection."""


class Door:
    """Who is inside, and how many bytes they hold. Used by the event loop alone."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inside: Counter[str] = Counter()
        self._held = 0

    def check_client(self, request: Request) -> None:
        """Refuse a request whose client has too many others under way.

        Raises:
            ProblemError: 429.
        """
        limit = self._settings.per_client
        if self._inside[_client(request)] >= limit:
            raise ProblemError(429, f"you have {limit} requests under way, as many as are allowed; wait", RETRY)

    @contextmanager
    def visit(self, request: Request) -> Iterator[Visit]:
        """One request's time inside."""
        client = _client(request)
        self._inside[client] += 1
        visit = Visit(self, self._settings)
        try:
            yield visit
        finally:
            visit.release()
            self._inside[client] -= 1
            if not self._inside[client]:
                del self._inside[client]

    def take(self, count: int) -> bool:
        """Hold more bytes (or fewer, if negative); False if these are too many for now."""
        if count > 0 and self._held + count > self._settings.max_held:
            return False
        self._held += count
        return True


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


class Visit:
    """What one request holds."""

    def __init__(self, door: Door, settings: Settings) -> None:
        self._door, self._settings = door, settings
        self._held = 0

    def release(self) -> None:
        """Give back what is held."""
        self._door.take(-self._held)
        self._held = 0

    async def receive(self, request: Request) -> bytes:
        """The whole body.

        Raises:
            ProblemError: 413, it is too large; 408, it comes too slowly; 503, too much is held for others.
            ClientGoneError: the client left.
        """
        limit = self._settings.max_body
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > limit:
            await _drain(request.receive, limit)
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        start = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(start + self._settings.body_timeout) as deadline:
                while True:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    chunk: bytes = message.get("body", b"")
                    size += len(chunk)
                    if size > limit:
                        break
                    if not self._door.take(len(chunk)):
                        raise ProblemError(503, "the server holds too much; try again later", {**RETRY, **CLOSE})
                    self._held += len(chunk)
                    parts.append(chunk)
                    if not message.get("more_body", False):
                        return b"".join(parts)
                    deadline.reschedule(start + self._settings.body_timeout + size / MIN_RATE)
        except TimeoutError:
            raise ProblemError(408, f"the request's body came too slowly: {size} bytes so far", CLOSE) from None
        parts.clear()
        await _drain(request.receive, limit)
        raise _too_large(limit)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(413, f"the body is larger than the limit of {limit} bytes; scale the picture down", CLOSE)


async def refuse(request: Request, problem: ProblemError, most: int) -> ProblemError:
    """A problem for a request whose body was not read: it is received and thrown away, as far as it comes at once."""
    if not await _drain(request.receive, most):
        problem.headers.update(CLOSE)
    return problem


async def _drain(receive: Receive, most: int) -> bool:
    """Receive and forget the rest of a body, for a moment. Whether all of it came."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if not message.get("more_body", False):  # also where the client left
                    return True
    return False
