"""A streamed chat completion, read as it comes and cut where it should have ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from vlmpipe.engines.base import Completion
from vlmpipe.engines.replies import MAX_SAID, BrokenOffError, understood, whole_characters
from vlmpipe.errors import ToolError

if TYPE_CHECKING:
    import openai

ROUTE = "/v1/chat/completions"
THOUGHTS = ("reasoning", "reasoning_content")
"""Where servers put what they take for thoughts."""

EVENT_STREAM = "text/event-stream"


def read_completion(chunks: openai.Stream[Any], *, max_new_tokens: int, begun: float) -> Completion:
    """The whole answer. A chunk is a token or several, so more chunks than tokens were asked for
    are cut off.

    Raises:
        ToolError: when the server sends something else, or ends for no reason that is known.
        BrokenOffError: when the stream ends before the answer does.
    """
    reading = _Reading(max_new_tokens, begun)
    with understood(ROUTE):
        _refuse_other_than_events(chunks)
        for chunk in chunks:
            reading.take(chunk)
            if reading.too_long:
                break
    return reading.completion()


@dataclass
class _Reading:
    limit: int
    begun: float
    pieces: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    first_at: float | None = None
    choices: int = 0
    usage: tuple[int, int] | None = None

    @property
    def too_long(self) -> bool:
        """Whether the server goes on past the limit."""
        return len(self.pieces) > self.limit

    def take(self, chunk: Any) -> None:
        """One event of the stream."""
        for choice in chunk.choices or ():
            self.choices += 1
            _refuse_thoughts(choice.delta)
            if choice.delta.content:
                self.first_at = self.first_at or time.perf_counter()
                self.pieces.append(str(choice.delta.content))
            self.finish_reason = choice.finish_reason or self.finish_reason
        if chunk.usage is not None:
            self.usage = int(chunk.usage.prompt_tokens), int(chunk.usage.completion_tokens)

    def completion(self) -> Completion:
        """What was read, as an answer."""
        now = time.perf_counter()
        finish_reason = self._ending()
        kept = self.pieces[: self.limit]
        prompt_tokens, tokens = self.usage or (0, len(kept))
        return Completion(
            text=whole_characters("".join(kept)),
            finish_reason=finish_reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=tokens,
            seconds=now - self.begun,
            first_token_seconds=(self.first_at or now) - self.begun,
        )

    def _ending(self) -> Literal["stop", "length"]:
        if self.too_long:
            return "length"
        if self.choices == 0:
            raise ToolError(f"{ROUTE} answered without any choice")
        if self.finish_reason is None:
            raise BrokenOffError(f"the stream broke off after {len(self.pieces)} pieces of text")
        if self.finish_reason == "length":
            return "length"
        if self.finish_reason == "stop":
            return "stop"
        raise ToolError(f"the server ended its answer for {self.finish_reason[:MAX_SAID]!r}")


def _refuse_other_than_events(chunks: openai.Stream[Any]) -> None:
    kind = chunks.response.headers.get("content-type", "nothing").partition(";")[0]
    if kind != EVENT_STREAM:
        said = chunks.response.read().decode(errors="replace").strip()[:MAX_SAID]
        raise ToolError(f"{ROUTE} answered {kind} and no stream of events: {said!r}")


def _refuse_thoughts(delta: Any) -> None:
    """An answer without the thoughts in it is not the one that other engines give."""
    if any(getattr(delta, field, None) for field in THOUGHTS):
        raise ToolError(
            "the server cuts thoughts out of its answers",
            "start it without a reasoning parser: vLLM and SGLang without --reasoning-parser",
        )
