"""``camlucida serve``."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer

from camlucida.cli.options import ProviderOption
from camlucida.errors import MissingExtraError

MIB = 2**20


def serve(
    model: Annotated[Optional[str], typer.Option("-m", "--model", help="Which model; see: camlucida models.")] = None,  # noqa: UP045
    host: Annotated[
        str, typer.Option(help="Address to listen on; this machine alone reaches the default.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
    token: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(envvar="CAMLUCIDA_TOKEN", show_envvar=True, help="Requests must carry it as a bearer token."),
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, help="Largest request, MiB.")] = 20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Largest picture, million pixels.")] = 50,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more get 503.")] = 256,
    per_client: Annotated[int, typer.Option(min=1, help="Requests of one address at a time; more get 429.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Pictures that go through the model at once.")] = 8,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Batches that run at once; as many as there are processors if not given."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take; then it is 504.")] = 30.0,
    provider: ProviderOption = None,
) -> None:
    """Serve explanations over HTTP, and the page."""
    from camlucida.serve.settings import Settings

    settings = Settings(
        host=host, port=port, token=token, max_body=max_body * MIB, max_pixels=max_pixels * 10**6,
        max_held=max(512, 2 * max_body) * MIB, queue=queue, per_client=per_client, batch=batch, threads=threads,
        timeout=timeout,
    )  # fmt: skip
    try:
        from camlucida.serve.app import create_app
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    from camlucida.serve.listening import serve as run

    app = create_app(model, settings, providers=provider)
    if not settings.loopback and token is None:
        print(f"warning: anyone who reaches {host} can use this server; set a token", file=sys.stderr)
    run(app, settings, lambda address: print(f"{app.state.engine.explainer.model.name} at {address}", flush=True))
