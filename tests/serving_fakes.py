"""A backend of our own protocol that answers from a script, and images of many kinds."""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from collections.abc import AsyncGenerator
from io import BytesIO

from PIL import Image

from vlmpipe.serving.backend import State
from vlmpipe.serving.problems import not_ready
from vlmpipe.serving.settings import ServiceSettings
from vlmpipe.serving.wire import Event, WireChoice, WireRequest, WireToken


def settings(**changed: object) -> ServiceSettings:
    """Settings of a service that no file stands behind."""
    values = {
        "model_id": "demo-finetune-q8_0",
        "gguf": "model/demo.gguf",
        "mmproj": "model/demo-mmproj.gguf",
        "has_vision": True,
        "n_ctx": 1024,
        "n_threads": 1,
        "max_new_tokens": 64,
        "max_images": 2,
        "max_image_bytes": 100_000,
        "max_image_pixels": 4_000_000,
        "max_body_bytes": 500_000,
        "max_queue": 1,
        "request_timeout_s": 30.0,
        **changed,
    }
    return ServiceSettings.model_validate(values)


class ScriptedBackend:
    """Answers every request with the same pieces; `gate` holds answers back until it is set."""

    def __init__(self, *pieces: str, state: State = "ready") -> None:
        self.pieces = pieces or ("12 ", "<b>", "34")
        self.state: State = state
        self.restarts = 0
        self.requests: list[WireRequest] = []
        self.given_up = 0
        self.refusal: Event | None = None
        self.gate: asyncio.Event | None = None

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.state = "stopped"

    async def generate(self, request: WireRequest) -> AsyncGenerator[Event, None]:
        if self.state != "ready":
            raise not_ready()
        self.requests.append(request)
        finished = False
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.refusal is not None:
                finished = True
                yield self.refusal
                return
            for piece in self.pieces:
                yield Event(event="piece", text=piece, choice=self._choice(request, piece))
            finished = True
            yield self._end(request)
        finally:
            self.given_up += not finished

    def _choice(self, request: WireRequest, piece: str) -> WireChoice | None:
        if request.top_logprobs is None:
            return None
        likely = [WireToken(id=n, data=b"\xec\x95", logprob=-1.0 - n) for n in range(20)]
        top = tuple(likely[: request.top_logprobs])
        return WireChoice(id=7, data=piece.encode(), logprob=-0.5, top=top)

    def _end(self, request: WireRequest) -> Event:
        return Event(
            event="done",
            prompt_tokens=10,
            completion_tokens=min(len(self.pieces) + 1, request.max_new_tokens),
            seconds=0.5,
            first_token_seconds=0.1,
        )


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{encoded(data)}"


def picture(kind: str = "PNG", size: tuple[int, int] = (151, 97)) -> bytes:
    """A readable image file."""
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    stream = BytesIO()
    image.save(stream, format=kind)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG file of any size, with no picture behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"x")


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum
