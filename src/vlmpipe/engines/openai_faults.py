"""What the `openai` client raises, as this project's errors: which may pass when asked again."""

from __future__ import annotations

import math
from collections.abc import Mapping

import httpx2
import openai

from vlmpipe.engines.openai_transport import late
from vlmpipe.engines.patience import Fault
from vlmpipe.engines.replies import MAX_SAID, BrokenOffError
from vlmpipe.errors import ConfigError, ToolError

PASSING = (408, 409, 425, 429)
"""Statuses under 500 that say `not now`."""


def fault_of(
    error: openai.OpenAIError | httpx2.RequestError | BrokenOffError, url: str, timeout_s: float
) -> Fault:
    """An attempt's error in words that name the server."""
    if isinstance(error, openai.APIStatusError):
        return _refusal(error, url)
    if isinstance(error, openai.APIConnectionError):
        return _lost(error.__cause__ or error, url, timeout_s)
    if isinstance(error, httpx2.RequestError):
        # The client lets through what goes wrong while it reads a refusal.
        return _lost(error, url, timeout_s)
    # An error that stands in the stream, or a stream without an end: the server's own trouble.
    said = error.message if isinstance(error, openai.APIError | ToolError) else str(error)
    return Fault(ToolError(f"{url}: {_in_a_line(said)}"), passing=True)


def _refusal(error: openai.APIStatusError, url: str) -> Fault:
    status = error.status_code
    if status in (401, 403):
        return Fault(
            ConfigError(
                f"{url} answered {status}: it does not take the API key that it was sent",
                "export the right one, and name its variable: --api-key-env NAME",
            )
        )
    return Fault(
        ToolError(f"{url} answered {status}: {_said(error)}"),
        passing=status in PASSING or status >= 500,
        wait_s=retry_after(error.response.headers),
    )


def _lost(cause: BaseException, url: str, timeout_s: float) -> Fault:
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
        why = str(cause) or type(cause).__name__
        return Fault(ToolError(f"{url} cannot be reached: {why}"), passing=True, unreachable=True)
    if isinstance(cause, httpx2.TimeoutException | openai.APITimeoutError):
        # The same question would take as long again.
        return Fault(ToolError(f"{url}: {late(timeout_s)}"))
    why = str(cause) or type(cause).__name__
    return Fault(ToolError(f"{url} broke the connection off: {why}"), passing=True)


def _said(error: openai.APIStatusError) -> str:
    """The server's own words, where its body has OpenAI's form; else the body's beginning."""
    body = error.body
    if isinstance(body, Mapping) and isinstance(body.get("message"), str):
        return _in_a_line(str(body["message"]))
    return _in_a_line(error.response.text)


def _in_a_line(text: str) -> str:
    return " ".join(text.split())[:MAX_SAID] or "nothing"


def retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds that a `Retry-After` asks for; None where it is a date or nonsense."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
