"""The application: routes, and what stands around them. Starlette answers; ``openapi.json`` describes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive

from camlucida.explainer import Explainer
from camlucida.models import Model, open_model
from camlucida.models.model import with_fields
from camlucida.serve.concurrency import ConcurrencyLimiter, refuse
from camlucida.serve.explain_request import multipart_boundary
from camlucida.serve.middleware import SecurityMiddleware
from camlucida.serve.openapi import openapi_document
from camlucida.serve.problems import HANDLERS, ProblemError
from camlucida.serve.request_batcher import RequestBatcher
from camlucida.serve.request_metrics import RequestMetrics
from camlucida.serve.settings import ServerSettings
from camlucida.web import SAMPLE, page_files

CLIENT_LEFT = 499
"""Counted where nobody waits for the answer any more."""

_MEDIA_TYPES = {
    ".css": "text/css", ".html": "text/html", ".jpg": "image/jpeg", ".js": "text/javascript", ".svg": "image/svg+xml",
}  # fmt: skip


def create_app(
    model: Model | str | Path | None = None,
    settings: ServerSettings | None = None,
    *,
    providers: Sequence[str] | None = None,
    output: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Starlette:
    """The server as an ASGI application. Its threads start and end with its lifespan.

    Args:
        model: as for ``open_model``; None is the demonstration model.
        settings: limits; None takes the defaults.
        providers: what runs an ONNX model; see ``open_model``.
        output: which output of the model scores the classes.
        fields: of ``Preprocess``, where the model's own are not to be taken.

    Returns:
        The application; ``app.state`` has its ``settings``, ``batcher`` and ``metrics``.

    Raises:
        CamlucidaError: the model cannot be opened or does not explain pictures.

    Example:
        >>> sorted(route.path for route in create_app().routes if route.path.startswith("/v1"))
        ['/v1/explain', '/v1/models']
    """
    settings = settings or ServerSettings()
    metrics = RequestMetrics(lambda: batcher.under_way)
    batcher = RequestBatcher(Explainer(_opened(model, providers, output, fields)), settings, metrics.batches.observe)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        batcher.start()
        try:
            yield
        finally:
            await asyncio.to_thread(batcher.close)

    page = _page_routes()
    names = dict.fromkeys([route.path for route in page], "page")
    names |= {path: path for path in ("/v1/explain", "/v1/models", "/healthz", "/metrics", "/openapi.json")}
    security = Middleware(
        SecurityMiddleware, token=settings.token,
        open_paths={"/healthz", "/config.json", *(route.path for route in page)},
        on_answer=lambda path, status: metrics.count_answer(names.get(path, "other"), status),
    )  # fmt: skip
    routes = [*_api_routes(batcher, metrics, settings), *page]
    app = Starlette(routes=routes, middleware=[security], exception_handlers=HANDLERS, lifespan=lifespan)
    app.state.settings, app.state.batcher, app.state.metrics = settings, batcher, metrics
    return app


def _api_routes(batcher: RequestBatcher, metrics: RequestMetrics, settings: ServerSettings) -> list[Route]:
    limiter = ConcurrencyLimiter(settings)
    model, preprocess = batcher.explainer.model, batcher.explainer.preprocess

    async def explain(request: Request) -> Response:
        try:
            boundary = multipart_boundary(request.headers)
            batcher.check_free()
            limiter.check_client(request)
        except ProblemError as problem:
            raise await refuse(request, problem, settings.max_body) from None
        try:
            async with limiter.received(request) as body:
                with metrics.seconds.time():
                    return await _answered(batcher, body, boundary, request.receive, settings.timeout)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)

    async def counters(_: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    models = [
        {"name": model.name, "classes": batcher.classes.all_names(), "input_hw": preprocess.size_hw,
         "grid_hw": batcher.grid_hw, "preprocess": asdict(preprocess), "activation": batcher.activation,
         "note": model.picture_note}
    ]  # fmt: skip
    routes = [
        Route("/v1/explain", explain, methods=["POST"]),
        Route("/v1/models", JSONResponse({"models": models}), methods=["GET"]),
        Route("/healthz", JSONResponse({"status": "ok"}), methods=["GET"]),
        Route("/metrics", counters, methods=["GET"]),
        Route("/config.json", JSONResponse({"engine": "server", "sample": SAMPLE}), methods=["GET"]),
    ]
    for route in routes:
        route.methods = (route.methods or set()) - {"HEAD"}  # which Starlette adds; the API has none
    document = openapi_document(batcher.classes, secured=settings.token is not None)
    return [*routes, Route("/openapi.json", JSONResponse(document), methods=["GET"])]


def _page_routes() -> list[Route]:
    """The page's files, in memory, at the paths where they are served."""
    files = {f"/{name}": file for name, file in page_files().items()}
    return [
        Route(path, Response(file.read_bytes(), media_type=_MEDIA_TYPES[Path(file.name).suffix],
                             headers={"Cache-Control": "no-cache"}), methods=["GET"])
        for path, file in {"/": files["/index.html"], **files}.items()
    ]  # fmt: skip


def _opened(
    model: Model | str | Path | None,
    providers: Sequence[str] | None,
    output: str | None,
    fields: Mapping[str, Any] | None,
) -> Model:
    """The model; an ONNX file has one thread a batch, for batches side by side cost less than threads inside one."""
    name = "demo" if model is None else str(model) if isinstance(model, str | Path) else ""
    threads = 1 if name == "demo" or name.endswith(".onnx") else None
    opened = open_model(model, providers=providers, threads=threads, output=output)
    return with_fields(opened, fields) if fields else opened


async def _answered(batcher: RequestBatcher, body: bytes, boundary: str, receive: Receive, timeout: float) -> Response:
    job = batcher.submit(body, boundary)
    left = asyncio.ensure_future(_client_left(receive))
    try:
        await asyncio.wait((job.future, left), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if job.future.done():
            return Response(job.future.result(), media_type="application/json")
        if left.done():
            return Response(status_code=CLIENT_LEFT)
        raise ProblemError(504, f"the answer took longer than {timeout:g} seconds; try again, or ask for fewer classes")
    finally:
        left.cancel()
        job.abandoned = True  # without effect where it is done


async def _client_left(receive: Receive) -> None:
    """Wait until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass
