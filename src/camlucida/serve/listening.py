"""Listening: the application behind a socket, until a signal ends it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from camlucida.errors import MissingExtraError, ServeError
from camlucida.serve.settings import Settings

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI


def listen(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say.

    Raises:
        ServeError: the address is not this machine's, or taken.
    """
    try:
        info = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(info[0], socket.SOCK_STREAM)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(info[4])
            found.listen(2048)
        except OSError:
            found.close()
            raise
    except OSError as error:
        why = error.strerror or error
        raise ServeError(f"{settings.host}:{settings.port}: cannot listen there ({why}); choose another --host or "
                         "--port") from error  # fmt: skip
    return found


def server_of(app: FastAPI, settings: Settings) -> uvicorn.Server:
    """Uvicorn, set up for this application.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import uvicorn

        from camlucida.serve.protocol import bounded
    except ModuleNotFoundError as error:
        raise MissingExtraError("uvicorn", "serve") from error
    config = uvicorn.Config(
        app,
        http=bounded(settings.connections, settings.body_timeout),
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(settings.keep_alive) or 1,
        timeout_graceful_shutdown=int(settings.timeout) + 2,
    )
    return uvicorn.Server(config)


def serve(app: FastAPI, settings: Settings, on_ready: Callable[[str], Any]) -> None:
    """Serve until SIGINT or SIGTERM; then finish what is under way.

    Args:
        app: from ``create_app``.
        settings: the same.
        on_ready: told the address when requests are accepted (they are queued until the threads run).

    Raises:
        ServeError: the address cannot be listened on.
        MissingExtraError: uvicorn is not installed.
    """
    server = server_of(app, settings)
    with listen(settings) as opened:
        host, port = opened.getsockname()[:2]
        on_ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        # Uvicorn sends itself the signal again once it has stopped; by then it is no longer news.
        kept = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.run([opened])
        finally:
            for one, handler in kept.items():
                signal.signal(one, handler)
