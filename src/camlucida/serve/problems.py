"""Errors as RFC 9457 describes them: ``application/problem+json`` with type, title, status and detail."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from camlucida.images.picture import shown

MEDIA_TYPE = "application/problem+json"
logger = logging.getLogger("camlucida.serve")


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


def document(status: int, detail: str) -> bytes:
    """The body of a problem.

    Example:
        >>> document(404, "nothing is here")
        b'{"type": "about:blank", "title": "Not Found", "status": 404, "detail": "nothing is here"}'
    """
    title = HTTPStatus(status).phrase
    return json.dumps({"type": "about:blank", "title": title, "status": status, "detail": shown(detail)}).encode()


def response(problem: ProblemError) -> Response:
    """A problem as a response."""
    return Response(document(problem.status, problem.detail), problem.status, problem.headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Let every error of an app be answered as a problem: its own, FastAPI's and Starlette's."""

    def own(_: Request, error: Any) -> Response:
        return response(error)

    def http(request: Request, error: Any) -> Response:
        said = {404: f"there is nothing at {request.url.path}; see /openapi.json",
                405: f"{request.method} is not for {request.url.path}; see /openapi.json"}  # fmt: skip
        return response(ProblemError(error.status_code, said.get(error.status_code, str(error.detail)), error.headers))

    def invalid(_: Request, error: Any) -> Response:
        first = error.errors()[0]
        return response(ProblemError(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"))

    app.add_exception_handler(ProblemError, own)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


UNEXPECTED = "the server failed on this request; its log says why"
