"""``camlucida serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from camlucida.cli import options
from camlucida.cli.exits import say
from camlucida.errors import MissingExtraError

MIB = 2**20


def serve(
    model: options.Model = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; this machine alone reaches the default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="CAMLUCIDA_TOKEN", show_envvar=True, help="Requests must carry it as a bearer token."),
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, help="Largest request, MiB.")] = 20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Largest picture, million pixels.")] = 50,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more get 503.")] = 256,
    per_client: Annotated[int, typer.Option(min=1, help="Requests of one address at a time; more get 429.")] = 128,
    batch: options.Batch = 8,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Batches that run at once; as many as there are processors if not given."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take; then it is 504.")] = 30.0,
    mean: options.Mean = None,
    std: options.Std = None,
    scale: options.Scale = None,
    bgr: options.Bgr = False,
    size: options.PictureSize = None,
    output: options.Output = None,
    provider: options.Provider = None,
) -> None:
    """Serve explanations over HTTP, and the page."""
    from camlucida.serve.settings import ServerSettings

    settings = ServerSettings(
        host=host, port=port, token=token, max_body=max_body * MIB, max_pixels=max_pixels * 10**6,
        max_held=max(512, 2 * max_body) * MIB, queue=queue, per_client=per_client, batch=batch, threads=threads,
        timeout=timeout,
    )  # fmt: skip
    try:
        from camlucida.serve.app import create_app
        from camlucida.serve.listening import serve as run
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "starlette", "serve") from error

    fields = options.preprocess_fields(mean, std, scale, bgr, size)
    app = create_app(model, settings, providers=provider, output=output, fields=fields)
    if assumption := app.state.batcher.explainer.model.assumption:
        say(f"note: {assumption}")
    if not settings.loopback and token is None:
        say(f"warning: anyone who reaches {host} can use this server; set a token")
    run(app, lambda address: print(f"{app.state.batcher.explainer.model.name} at {address}", flush=True))
