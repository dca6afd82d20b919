"""How much may be under way at once: requests of a client, and the size, time and memory of their bodies.

Kept by hand: Starlette reads a body of any size, at any pace, and uvicorn counts requests but no client's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.requests import Request

from camlucida.serve.problems import ProblemError
from camlucida.serve.settings import MIN_RATE, ServerSettings

CLOSE = {"Connection": "close"}
RETRY = {"Retry-After": "1"}
_LINGER = 1.0
"""Seconds that the rest of a refused body is still received, so that its sender sees the answer."""


class ConcurrencyLimiter:
    """Counts the requests of each client, and the bytes that all of them hold. Used by the event loop alone."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._under_way: Counter[str] = Counter()
        self._held = 0

    def check_client(self, request: Request) -> None:
        """Refuse a request whose client has too many others under way.

        Raises:
            ProblemError: 429.
        """
        limit = self._settings.per_client
        if self._under_way[_address(request)] >= limit:
            raise ProblemError(429, f"you have {limit} requests under way, as many as are allowed; wait", RETRY)

    @asynccontextmanager
    async def received(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body of a request, which counts as under way until the block ends.

        Raises:
            ProblemError: 413, it is too large; 408, it comes too slowly; 503, too much is held for others.
            ClientDisconnect: the client left.
        """
        settings, client = self._settings, _address(request)
        announced = request.headers.get("content-length", "0")
        limit = settings.max_body
        too_large = f"the body is larger than the limit of {limit} bytes; scale the picture down"
        chunks: list[bytes] = []
        size = 0
        self._under_way[client] += 1
        try:
            if announced.isdecimal() and int(announced) > limit:
                raise await refuse(request, ProblemError(413, too_large, CLOSE), limit)
            latest = asyncio.get_running_loop().time() + settings.body_timeout
            try:
                async with asyncio.timeout_at(latest) as deadline:
                    async for chunk in request.stream():
                        if size + len(chunk) > limit:
                            chunks.clear()
                            deadline.reschedule(None)
                            raise await refuse(request, ProblemError(413, too_large, CLOSE), limit)
                        if self._held + len(chunk) > settings.max_held:
                            raise ProblemError(503, "the server holds too much; try again later", {**RETRY, **CLOSE})
                        self._held += len(chunk)
                        size += len(chunk)
                        chunks.append(chunk)
                        deadline.reschedule(latest + size / MIN_RATE)
            except TimeoutError:
                raise ProblemError(408, f"the request's body came too slowly: {size} bytes so far", CLOSE) from None
            body = b"".join(chunks)
            chunks.clear()
            yield body
        finally:
            self._held -= size
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


async def refuse(request: Request, problem: ProblemError, most: int) -> ProblemError:
    """A problem for a request whose body was not read: it is received and thrown away, as far as it comes at once."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            while most > 0:
                message = await request.receive()
                most -= len(message.get("body", b""))
                if not message.get("more_body", False):  # also where the client left
                    return problem
    problem.headers.update(CLOSE)
    return problem
