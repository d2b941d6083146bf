"""An endpoint of chat completions as a judge: what it is asked, what it refuses, when to give up.

Waiting and trying again after 429 (with `Retry-After`), 5xx, time-outs and lost connections is the
`openai` client's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from vlmpipe.config.judge import JudgeConfig
from vlmpipe.evaluation.answers import writable
from vlmpipe.evaluation.judging.cache import Reply, ReplyCache, request_key
from vlmpipe.evaluation.judging.connection import without_key
from vlmpipe.evaluation.judging.dialect import (
    ALL,
    DIALECTS,
    PLAIN,
    Dialect,
    in_dialect,
    next_dialect,
)
from vlmpipe.evaluation.judging.questions import Question, response_format

if TYPE_CHECKING:
    from openai import AsyncOpenAI

PATIENCE = 8
"""Requests that fail one after another, retries and all, until the endpoint is asked no more; at
least two rounds of all that are under way at a time."""

HOPELESS = frozenset({401, 403, 404})
"""Key, permission, address or model: the next request would meet the same."""

MAX_FAULT = 300


class NoReplyError(Exception):
    """The endpoint gave no reply, in words for a person."""


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


@dataclass
class Endpoint:
    """Answers questions, from the cache where it can; to be used within one event loop."""

    config: JudgeConfig
    cache: ReplyCache
    client: AsyncOpenAI
    requests: int = 0
    """Replies that were asked for now."""

    stopped: str | None = None
    """Why nothing is asked any more."""

    _dialect: Dialect = PLAIN
    _taken: Dialect = PLAIN
    """Fields that the server took once: what it refused with them was something else."""

    _failed_in_a_row: int = 0

    async def ask(self, question: Question) -> Reply:
        """The judge's reply.

        Raises:
            NoReplyError: where there is none, after all retries.
        """
        body = self._body(question)
        known = self._kept(body)
        if known is not None:
            return known
        if self.stopped:
            raise NoReplyError(f"not asked any more: {self.stopped}")
        dialect, reply = await self._counted(body)
        self.cache.put(self._key(body, dialect), reply)
        return reply

    def _body(self, question: Question) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": question.messages,
            "max_tokens": self.config.max_reply_tokens,
            "response_format": response_format(question.form),
        }
        if self.config.temperature is not None:
            body["temperature"] = self.config.temperature
        return body

    def _kept(self, body: Mapping[str, Any]) -> Reply | None:
        """The reply to this question in whichever dialect it was asked."""
        found = (self.cache.get(self._key(body, dialect)) for dialect in DIALECTS)
        return next((reply for reply in found if reply is not None), None)

    def _key(self, body: Mapping[str, Any], dialect: Dialect) -> str:
        return request_key(self.config.base_url, in_dialect(body, dialect))

    async def _counted(self, body: Mapping[str, Any]) -> tuple[Dialect, Reply]:
        self.requests += 1
        patience = max(PATIENCE, 4 * self.config.concurrency)
        try:
            found = await self._sent(body)
        except NoReplyError as fault:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= patience and not self.stopped:
                self.stopped = f"{patience} requests failed in a row, the last with: {fault}"
            raise
        self._failed_in_a_row = 0
        return found

    async def _sent(self, body: Mapping[str, Any]) -> tuple[Dialect, Reply]:
        """In the dialect that the server takes; one that its refusals lead to is kept where it
        helped.
        """
        import openai

        dialect = self._dialect
        while True:
            try:
                content = await self._posted(in_dialect(body, dialect))
            except (openai.BadRequestError, openai.UnprocessableEntityError) as exc:
                other = next_dialect(dialect, str(exc))
                if other is None:
                    raise NoReplyError(self._shown(f"refused the request: {exc}")) from exc
                dialect = other
            else:
                self._learn(dialect)
                return dialect, self._reply(content)

    async def _posted(self, body: Mapping[str, Any]) -> bytes:
        import openai

        try:
            raw = await self.client.chat.completions.with_raw_response.create(**body)
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            raise
        except openai.APIStatusError as exc:
            if exc.status_code in HOPELESS:
                self.stopped = self._shown(str(exc))
            raise NoReplyError(self._shown(str(exc))) from exc
        except openai.APITimeoutError as exc:
            raise NoReplyError(f"no whole reply within {self.config.timeout_s:g} s") from exc
        except openai.APIError as exc:
            raise NoReplyError(self._shown(f"no reply: {exc}")) from exc
        content: bytes = raw.content
        return content

    def _learn(self, dialect: Dialect) -> None:
        self._taken |= ALL - dialect
        self._dialect = (self._dialect | dialect) - self._taken

    def _reply(self, content: bytes) -> Reply:
        from vlmpipe.evaluation.judging.transport import MAX_REPLY_BYTES

        if len(content) > MAX_REPLY_BYTES:
            raise NoReplyError(f"a reply of more than {MAX_REPLY_BYTES:,} bytes")
        try:
            found = _Completion.model_validate(json.loads(content))
        except (ValueError, ValidationError, RecursionError) as exc:
            begin = self._shown(content.decode("utf-8", "replace"))[:80]
            raise NoReplyError(f"what came is no chat completion: {begin!r}") from exc
        choice = found.choices[0]
        return Reply(
            text=writable(self._without_key(choice.message.content or "")),
            finish_reason="length" if choice.finish_reason == "length" else None,
            input_tokens=found.usage.prompt_tokens if found.usage else None,
            output_tokens=found.usage.completion_tokens if found.usage else None,
        )

    def _without_key(self, text: str) -> str:
        return without_key(text, self.client.api_key)

    def _shown(self, text: str) -> str:
        """Short, and safe to print: no key, nothing that steers a terminal."""
        plain = "".join(c if c.isprintable() else " " for c in self._without_key(text))
        return plain if len(plain) <= MAX_FAULT else f"{plain[:MAX_FAULT]}…"
