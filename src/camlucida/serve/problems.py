"""Errors as RFC 9457 describes them: ``application/problem+json`` with type, title, status and detail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from camlucida.images.picture import shown

MEDIA_TYPE = "application/problem+json"
UNEXPECTED = "the server failed on this request; its log says why"


class ProblemError(Exception):
    """A request that cannot be answered as asked.

    Args:
        status: of the response.
        detail: what was wrong and what to do, on one line.
        headers: of the response.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


def problem_json(status: int, detail: str) -> bytes:
    """The body of a problem.

    Example:
        >>> problem_json(404, "nothing is here")
        b'{"type": "about:blank", "title": "Not Found", "status": 404, "detail": "nothing is here"}'
    """
    title = HTTPStatus(status).phrase
    return json.dumps({"type": "about:blank", "title": title, "status": status, "detail": shown(detail)}).encode()


def problem_response(problem: ProblemError) -> Response:
    """A problem as a response."""
    return Response(problem_json(problem.status, problem.detail), problem.status, problem.headers, MEDIA_TYPE)


async def _own(_: Request, error: Any) -> Response:
    return problem_response(error)


async def _of_starlette(request: Request, error: Any) -> Response:
    details = {404: f"there is nothing at {request.url.path}; see /openapi.json",
               405: f"{request.method} is not for {request.url.path}; see /openapi.json"}  # fmt: skip
    detail = details.get(error.status_code, str(error.detail))
    return problem_response(ProblemError(error.status_code, detail, error.headers))


HANDLERS: dict[Any, Any] = {ProblemError: _own, HTTPException: _of_starlette}
"""What lets every error of an application be answered as a problem: its own and Starlette's."""
