"""Around every request: the token, headers that keep browsers safe, the count, and no error without a problem body.

Kept by hand: Starlette has middleware for none of these.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Collection

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from camlucida.serve.concurrency import refuse
from camlucida.serve.problems import UNEXPECTED, ProblemError, problem_response

logger = logging.getLogger("camlucida.serve")

CSP = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self' blob: data:; worker-src 'self' blob:; media-src 'self' blob:; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
]
_DRAINED = 2**20


class SecurityMiddleware:
    """ASGI middleware.

    Args:
        app: what it stands around.
        token: if given, requests must carry it.
        open_paths: where they need not.
        on_answer: called with each request's path and status.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, open_paths: Collection[str], on_answer: Callable[[str, int], None]
    ) -> None:
        self._app, self._open, self._on_answer = app, frozenset(open_paths), on_answer
        self._expected = None if token is None else b"bearer " + token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        try:
            if self._is_allowed(scope):
                await self._app(scope, receive, send_with_headers)
            else:
                problem = ProblemError(401, "the token is missing or wrong; send Authorization: Bearer TOKEN",
                                       {"WWW-Authenticate": "Bearer"})  # fmt: skip
                problem = await refuse(Request(scope, receive), problem, _DRAINED)
                await problem_response(problem)(scope, receive, send_with_headers)
        except Exception:
            logger.exception("a request failed")
            if status:
                raise
            await problem_response(ProblemError(500, UNEXPECTED))(scope, receive, send_with_headers)
        finally:
            self._on_answer(scope["path"], status)

    def _is_allowed(self, scope: Scope) -> bool:
        if self._expected is None or scope["path"] in self._open:
            return True
        header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = header.partition(b" ")
        return hmac.compare_digest(scheme.lower() + b" " + token.strip(), self._expected)
