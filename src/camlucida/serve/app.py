"""The application: routes, and what stands around them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive

from camlucida.explainer import Explainer
from camlucida.models import Model, open_model
from camlucida.serve import problems, schema
from camlucida.serve.ask import media_type
from camlucida.serve.body import ClientGoneError, Door, refuse
from camlucida.serve.explaining import Engine
from camlucida.serve.guard import Guard
from camlucida.serve.meters import Meters
from camlucida.serve.problems import ProblemError
from camlucida.serve.settings import Settings
from camlucida.web import SAMPLE, page_files

CLIENT_LEFT = 499
"""Counted where nobody waits for the answer any more."""

_PAGE_KINDS = {
    ".css": "text/css", ".html": "text/html", ".jpg": "image/jpeg", ".js": "text/javascript", ".svg": "image/svg+xml",
}  # fmt: skip


def create_app(
    model: Model | str | Path | None = None,
    settings: Settings | None = None,
    *,
    providers: Sequence[str] | None = None,
) -> FastAPI:
    """The server as an ASGI application. Its threads start and end with its lifespan.

    Args:
        model: as for ``open_model``; None is the demonstration model.
        settings: limits; None takes the defaults.
        providers: what runs an ONNX model; see ``open_model``.

    Returns:
        The application; ``app.state.engine`` is its engine, ``app.state.meters`` its counters.

    Raises:
        CamlucidaError: the model cannot be opened or does not explain pictures.

    Example:
        >>> sorted(create_app().openapi()["paths"])
        ['/healthz', '/metrics', '/v1/explain', '/v1/models']
    """
    settings = settings or Settings()
    explainer = Explainer(_opened(model, providers))
    meters = Meters(lambda: engine.under_way)
    engine = Engine(explainer, settings, meters.batches.observe)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.close)

    app = FastAPI(docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.engine, app.state.meters = engine, meters
    page = _page()
    _add_api(app, explainer, engine, meters, settings)
    for path, (content, kind) in page.items():
        app.add_route(path, _serving(content, kind), methods=["GET"], include_in_schema=False)
    known = {"/v1/explain", "/v1/models", "/healthz", "/metrics", "/openapi.json"}

    def answered(path: str, status: int) -> None:
        meters.answered(path if path in known else "page" if path in page else "other", status)

    app.add_middleware(Guard, token=settings.token, open_paths={"/healthz", "/config.json", *page}, answered=answered)
    problems.install(app)
    secured = settings.token is not None
    described: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not described:
            described.update(schema.describe(app, secured=secured))
        return described

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _add_api(app: FastAPI, explainer: Explainer, engine: Engine, meters: Meters, settings: Settings) -> None:
    door = Door(settings)
    secured = settings.token is not None
    hw = explainer.preprocess.size_hw
    models = {
        "models": [
            {"name": explainer.model.name, "classes": engine.names.all(), "input_hw": hw, "grid_hw": engine.grid_hw,
             "preprocess": asdict(explainer.preprocess), "activation": engine.activation,
             "note": explainer.model.note}
        ]
    }  # fmt: skip

    @app.post(
        "/v1/explain",
        summary="Explain a picture.",
        response_class=Response,
        responses={
            200: {"model": schema.Answer, "description": "Classes, maps and boxes.",
                  "content": {"application/json": {"example": schema.EXAMPLE}}},
            **schema.responses(400, 408, 413, 415, 422, 429, 500, 503, 504, secured=secured),
        },
        openapi_extra={"requestBody": schema.request_body(engine.names)},
    )  # fmt: skip
    async def explain(request: Request) -> Response:
        try:
            boundary = _boundary(request)
            engine.check_free()
            door.check_client(request)
        except ProblemError as problem:
            raise await refuse(request, problem, settings.max_body) from None
        with door.visit(request) as visit:
            try:
                body = await visit.receive(request)
            except ClientGoneError:
                return Response(status_code=CLIENT_LEFT)
            with meters.seconds.time():
                return await _answered(engine, body, boundary, request.receive, settings.timeout)

    @app.get("/v1/models", summary="The model, its classes and what it takes.", response_model=schema.Models,
             responses=schema.responses(secured=secured))  # fmt: skip
    async def list_models() -> Response:
        return JSONResponse(models)

    @app.get("/healthz", summary="Whether the server is there.", response_model=schema.Health)
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get(
        "/metrics",
        summary="Counters for Prometheus.",
        response_class=Response,
        responses={200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {
            "type": "string"}}}}, **schema.responses(secured=secured)},
    )  # fmt: skip
    async def metrics() -> Response:
        return Response(meters.text(), media_type="text/plain; version=0.0.4")

    @app.get("/config.json", include_in_schema=False)
    async def config() -> Response:
        return JSONResponse({"engine": "server", "sample": SAMPLE})


def _opened(model: Model | str | Path | None, providers: Sequence[str] | None) -> Model:
    """The model; an ONNX file has one thread a batch, for batches side by side cost less than threads inside one."""
    name = "demo" if model is None else str(model) if isinstance(model, str | Path) else ""
    return open_model(model, providers=providers, threads=1 if name == "demo" or name.endswith(".onnx") else None)


def _boundary(request: Request) -> str:
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise ProblemError(415, f"Content-Encoding {coding[:40]!r} is not taken; send the body as it is")
    return media_type(request.headers.get("content-type"))[1]


async def _answered(engine: Engine, body: bytes, boundary: str, receive: Receive, timeout: float) -> Response:
    job = engine.submit(body, boundary)
    left = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((job.future, left), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if job.future.done():
            return Response(job.future.result(), media_type="application/json")
        if left.done():
            return Response(status_code=CLIENT_LEFT)
        raise ProblemError(504, f"the answer took longer than {timeout:g} seconds; try again, or ask for fewer classes")
    finally:
        left.cancel()
        job.gone = True  # without effect where it is done


async def _left(receive: Receive) -> None:
    """Wait until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _page() -> dict[str, tuple[bytes, str]]:
    """The page's files, in memory, with their media types, by the paths they are served at."""
    files = {
        f"/{name}": (file.read_bytes(), _PAGE_KINDS[Path(name).suffix])
        for name, file in page_files().items()
        if Path(name).suffix in _PAGE_KINDS
    }
    return {"/": files["/index.html"], **files} if "/index.html" in files else {}


def _serving(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(_: Request) -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return serve
