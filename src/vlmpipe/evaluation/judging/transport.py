"""A connection that holds each attempt to a time and a size, under the client that tries again."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
from openai import DefaultAsyncHttpxClient

MAX_REPLY_BYTES = 4_000_000
"""Of a reply, decompressed: tens of times what a reasoning model writes."""


class BoundedClient(DefaultAsyncHttpxClient):
    """A whole reply within `timeout_s`, or a time-out, which the `openai` client tries again.

    The limits of the HTTP client are on each read: a server that trickles is never late by them.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout=timeout_s)
        self._timeout_s = timeout_s

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """One attempt; of a reply that is too long, one byte more than `MAX_REPLY_BYTES`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._whole(request, options)
        except TimeoutError as exc:
            raise httpx2.ReadTimeout("the reply took too long", request=request) from exc

    async def _whole(self, request: httpx2.Request, options: dict[str, Any]) -> httpx2.Response:
        response = await super().send(request, **(options | {"stream": True}))
        try:
            content = await _begin(response)
        finally:
            await response.aclose()
        # What was read is no longer compressed, and may not be all.
        told = ("content-encoding", "content-length", "transfer-encoding")
        headers = response.headers.multi_items()
        return httpx2.Response(
            response.status_code,
            headers=[(name, value) for name, value in headers if name.lower() not in told],
            content=content,
            request=response.request,
        )


async def _begin(response: httpx2.Response) -> bytes:
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > MAX_REPLY_BYTES:
            break
    return bytes(content[: MAX_REPLY_BYTES + 1])
