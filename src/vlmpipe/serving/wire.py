"""What gateway and worker say to each other: one JSON object a line, over the worker's pipes.

To the worker: a request (`WireRequest`), or `{"cancel": ID}`. From the worker: `{"event": "ready"}`
once, then for each request any number of `piece`, and one `done`, `refused` or `cancelled`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
"""The decoders that a request can reach; Pillow has many more, and each is a way in."""


class WirePart(BaseModel):
    """A piece of text, or an encoded image."""

    model_config = ConfigDict(frozen=True)

    text: str | None = None
    image: str | None = None
    """base64 of a PNG, JPEG or WEBP file whose header was found acceptable."""


class WireMessage(BaseModel):
    """One turn."""

    model_config = ConfigDict(frozen=True)

    role: Literal["system", "user", "assistant"]
    parts: tuple[WirePart, ...]


class WireRequest(BaseModel):
    """A conversation to answer."""

    model_config = ConfigDict(frozen=True)

    id: int = 0
    messages: tuple[WireMessage, ...]
    max_new_tokens: int
    top_logprobs: int | None = None
    """How many of the likeliest tokens come with each token; None: no probabilities at all."""


class WireToken(BaseModel):
    """A token and its probability."""

    # A token's bytes need not be whole characters.
    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    id: int
    data: bytes
    logprob: float


class WireChoice(WireToken):
    """A token of the answer, and the likeliest in its place."""

    top: tuple[WireToken, ...] = ()


class Event(BaseModel):
    """What a worker reports; the fields that an event of its kind has."""

    model_config = ConfigDict(frozen=True)

    event: Literal["ready", "piece", "done", "refused", "cancelled", "failed"]
    id: int = 0
    text: str = ""
    """piece: what comes next. refused: `bad_image` or `prompt_too_long`."""

    choice: WireChoice | None = None
    """piece: its token, where probabilities were asked for."""

    finish_reason: Literal["stop", "length"] = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0
    n_ctx: int = 0
    n_ctx_train: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Generation speed after the first token; 0 where there was no second one."""
        spent = self.seconds - self.first_token_seconds
        return (self.completion_tokens - 1) / spent if spent > 0 else 0.0

    @property
    def line(self) -> bytes:
        """As it is written to the pipe."""
        return self.model_dump_json(exclude_defaults=True).encode() + b"\n"
