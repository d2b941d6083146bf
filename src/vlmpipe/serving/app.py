"""The gateway's routes; every path that is not named here is refused."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from vlmpipe import __version__
from vlmpipe.serving.answers import chat_answer, completion, completion_chunks
from vlmpipe.serving.backend import Backend
from vlmpipe.serving.page import render_page
from vlmpipe.serving.problems import (
    ApiError,
    body_too_large,
    http_error,
    internal_error,
    invalid_request,
)
from vlmpipe.serving.requests import (
    ChatBody,
    CompletionBody,
    chat_request,
    completion_request,
    parse,
)
from vlmpipe.serving.service import Service
from vlmpipe.serving.settings import ServiceSettings
from vlmpipe.serving.watch import Watched

BODY_TIMEOUT_S = 60.0
"""How long a client may take to send its body."""

_T = TypeVar("_T")


def create_app(settings: ServiceSettings, backend: Backend) -> FastAPI:
    """The gateway; the backend is started and stopped with it."""
    service = Service(settings, backend)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await backend.start()
        yield
        await backend.stop()

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    _add_error_handlers(app, service)
    _add_information(app, service)
    _add_answers(app, service)
    app.add_middleware(Watched, metrics=service.metrics)
    return app


def _add_error_handlers(app: FastAPI, service: Service) -> None:
    @app.exception_handler(ApiError)
    async def refused(_request: Request, error: ApiError) -> Response:
        service.metrics.refused.labels(code=error.code).inc()
        return JSONResponse(error.body, error.status, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(_request: Request, error: HTTPException) -> Response:
        return JSONResponse(http_error(error.status_code).body, error.status_code)

    @app.exception_handler(Exception)
    async def bug(_request: Request, _error: Exception) -> Response:
        return JSONResponse(internal_error().body, 500)


def _add_information(app: FastAPI, service: Service) -> None:
    settings = service.settings

    @app.get("/")
    async def page() -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}';"
            " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
            " frame-ancestors 'none'"
        )
        return HTMLResponse(
            render_page(settings, nonce), headers={"Content-Security-Policy": policy}
        )

    @app.get("/health")
    async def health() -> Response:
        state = service.backend.state
        content = {"status": state, "model": settings.model_id, "version": __version__}
        return JSONResponse(content, 200 if state == "ready" else 503)

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": settings.model_id, "object": "model", "created": 0, "owned_by": "vlmpipe"}
        return {"object": "list", "data": [model]}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_answers(app: FastAPI, service: Service) -> None:
    settings = service.settings

    @app.post("/chat")
    async def chat(request: Request) -> Response:
        body = parse(ChatBody, await _json_of(request, settings.max_body_bytes))
        asked = chat_request(body, settings)
        answer = await _unless_gone(request, service.answer(asked))
        return JSONResponse(chat_answer(answer))

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = parse(CompletionBody, await _json_of(request, settings.max_body_bytes))
        asked = completion_request(body, settings)
        if body.stream:
            events = service.events(asked)
            first = await anext(events)  # a fault before the first token is an HTTP status
            usage = body.stream_options is not None and body.stream_options.include_usage
            chunks = completion_chunks(first, events, settings.model_id, include_usage=usage)
            return StreamingResponse(chunks, media_type="text/event-stream")
        answer = await _unless_gone(request, service.answer(asked))
        return JSONResponse(completion(answer, settings.model_id))


async def _json_of(request: Request, limit: int) -> Any:
    """The body, read no further than the limit.

    A JSON content type is required: a foreign web page cannot send one without being asked first.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "unsupported_media_type", "send Content-Type: application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise body_too_large(limit)
    except TimeoutError as exc:
        raise ApiError(408, "timeout", "the request body did not arrive in time") from exc
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise invalid_request("the request body is not valid JSON") from exc


async def _unless_gone(request: Request, work: Awaitable[_T]) -> _T:
    """The result, given up when the client hangs up."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_hung_up(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "client_closed_request", "the client hung up")
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _hung_up(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
