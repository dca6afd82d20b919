"""Listening: the application behind a socket, until a signal ends it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette

from camlucida.errors import ServeError
from camlucida.serve.http_protocol import limited_protocol
from camlucida.serve.settings import ServerSettings


def listen(settings: ServerSettings) -> socket.socket:
    """A socket that listens where the settings say.

    Raises:
        ServeError: the address is not this machine's, or taken.
    """
    try:
        info = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        opened = socket.socket(info[0], socket.SOCK_STREAM)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(info[4])
            opened.listen(2048)
        except OSError:
            opened.close()
            raise
    except OSError as error:
        why = error.strerror or error
        raise ServeError(f"{settings.host}:{settings.port}: cannot listen there ({why}); choose another --host or "
                         "--port") from error  # fmt: skip
    return opened


def server_of(app: Starlette) -> uvicorn.Server:
    """Uvicorn, set up with the settings of an application from ``create_app``."""
    settings: ServerSettings = app.state.settings
    config = uvicorn.Config(
        app,
        http=limited_protocol(settings.connections, settings.body_timeout),
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


def serve(app: Starlette, on_ready: Callable[[str], Any]) -> None:
    """Serve until SIGINT or SIGTERM; then finish what is under way.

    Args:
        app: from ``create_app``, whose settings say where.
        on_ready: called with the address when requests are accepted (they are queued until the threads run).

    Raises:
        ServeError: the address cannot be listened on.
    """
    server = server_of(app)
    with listen(app.state.settings) as opened:
        host, port = opened.getsockname()[:2]
        on_ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        # Uvicorn sends itself the signal again once it has stopped; by then it is no longer news.
        former = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.run([opened])
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
