"""Section `validate.judge`: a language model that judges answers; off unless it is given."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from vlmpipe.config.base import Section, UserPath

JudgeMode = Literal["pairwise", "pointwise"]


class JudgeConfig(Section):
    """A judge behind any endpoint that speaks OpenAI's chat completions."""

    base_url: str
    """Address of the endpoint, `/v1` included: `http://127.0.0.1:8000/v1`."""

    model: str = Field(min_length=1)
    """Name of the judging model, as the endpoint knows it. One of another family than the judged
    models: judges prefer answers like their own."""

    rubric: UserPath | None = None
    """What the judge goes by: a text file for all tasks, or a folder of `<task>.txt`, where a task
    without a file has the shipped rubric; unset: the shipped ones."""

    api_key_env: str | None = None
    """Environment variable that holds the key, e.g. `OPENAI_API_KEY`; unset: none is sent, so
    that no key goes to an address that it is not meant for."""

    mode: JudgeMode | None = None
    """pairwise: which of two answers is better, each pair asked in both orders; pointwise: each
    answer by itself, 1 to 5. Unset: pairwise for two engines, pointwise for one."""

    samples: int | None = Field(None, ge=1)
    """Samples judged, at most, drawn by their ids; unset: all."""

    concurrency: int = Field(4, ge=1, le=64)
    """Samples in work at a time."""

    max_retries: int = Field(4, ge=0, le=20)
    """How often a request is sent again after 429, 5xx, a time-out or a lost connection. A
    `Retry-After` of up to 2 minutes is obeyed; the wait grows from 0.5 to 8 s otherwise."""

    nonsense_retries: int = Field(2, ge=0, le=10)
    """How often a judge is asked again whose reply is no verdict."""

    timeout_s: float = Field(120.0, gt=0)
    """How long one reply may take, from the request to its last byte; each retry has as long."""

    max_reply_tokens: int = Field(1024, ge=16)
    """Longest reply, a reasoning model's thoughts included."""

    temperature: float | None = Field(0.0, ge=0, le=2)
    """Unset (`null`) it is not sent: some reasoning models refuse it."""

    max_image_side: int = Field(1280, ge=64, le=8192)
    """Images are sent no longer than this on a side, pixels."""

    max_characters: int = Field(12_000, ge=200)
    """Of each text sent; the judge is told how much was left out."""

    price_per_million_input_tokens: float | None = Field(None, ge=0)
    """In any currency; with both prices the cost is reported."""

    price_per_million_output_tokens: float | None = Field(None, ge=0)
    """In the same currency."""

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        if not address.startswith(("http://", "https://")):
            raise ValueError("is no address; give it as http://HOST:PORT/v1")
        try:
            parts = urlsplit(address)
            named = bool(parts.hostname) and parts.port != 0
        except ValueError:
            named = False
        if not named or not address.isprintable() or " " in address:
            raise ValueError("is no address with a host; give it as http://HOST:PORT/v1")
        return address

    @field_validator("base_url")
    @classmethod
    def _carries_no_secret(cls, address: str) -> str:
        """The address stands in every summary of what was judged."""
        if "@" in address.partition("://")[2].partition("/")[0]:
            raise ValueError(
                "holds a user or a password, which would be written into results; give the address"
                " without, and the key as validate.judge.api_key_env=NAME"
            )
        return address
