"""Runs the gateway until it is told to stop: finishes what is under way, takes nothing new."""

from __future__ import annotations

import errno
import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from vlmpipe.errors import ToolError
from vlmpipe.serving.settings import read_settings

BACKLOG = 128
CONNECTIONS_BEYOND_QUEUE = 64
"""Connections held beside those that wait for the engine: health checks, metrics, the page."""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        ToolError: when the address is taken or is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise ToolError(
                f"port {port} of {host} is in use by another program",
                f"take another: deploy.port={port + 1 if port < 65535 else 0}",
                "or any free one: deploy.port=0",
            ) from exc
        raise ToolError(
            f"cannot listen on {host}, port {port}: {exc.strerror or exc}",
            "listen on another address or port: deploy.host=ADDRESS deploy.port=N",
        ) from exc
    return listening


def url_of(listening: socket.socket) -> str:
    """The address of a listening socket, as a client on this machine writes it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host and host[0] != "[" else f"http://{host}:{port}"


def run_gateway(
    bundle: Path,
    listening: socket.socket,
    *,
    worker_log: Path | None = None,
    on_state: Callable[[str], None] | None = None,
) -> None:
    """Serve a bundle on a socket until SIGTERM or SIGINT.

    `on_state` is told when the model is `loading`, `ready` or `failed`.

    Raises:
        ArtifactError: when the bundle is damaged; every byte that it loads is hashed first.
    """
    import uvicorn

    from vlmpipe.serving.app import create_app
    from vlmpipe.serving.backend import WorkerBackend

    settings = read_settings(bundle)
    settings.verify(bundle)
    settings.contract(bundle)
    config = uvicorn.Config(
        create_app(settings, WorkerBackend(bundle, worker_log, on_state)),
        log_level=logging.WARNING,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.max_queue + CONNECTIONS_BEYOND_QUEUE,
        timeout_graceful_shutdown=int(settings.request_timeout_s) + 1,
        timeout_keep_alive=30,
        lifespan="on",
    )
    # uvicorn raises the signal that stopped it once more when it is done.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listening])
