"""ASGI middleware: counts requests and their seconds by route, and sets headers on every answer."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlmpipe.serving.metrics import Metrics

ROUTES = frozenset(
    ("/", "/health", "/health/live", "/metrics", "/chat", "/v1/models", "/v1/chat/completions")
)
ANSWERING = frozenset(("/chat", "/v1/chat/completions"))
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


class Watched:
    """Wraps the whole application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Unknown paths share one label: a scanner must not be able to grow the metrics.
        route = scope["path"] if scope["path"] in ROUTES else "other"
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.requests.labels(route=route, status=str(status)).inc()
            if route in ANSWERING and status == 200:
                self._metrics.request_seconds.observe(time.perf_counter() - started)
