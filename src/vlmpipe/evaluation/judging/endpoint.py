"""An endpoint of chat completions as a judge: retries, time limits, what it refuses, its costs.

Waiting and trying again after 429 (with `Retry-After`), 5xx, time-outs and lost connections is the
`openai` client's.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, ValidationError

from vlmpipe.config.judge import JudgeConfig
from vlmpipe.errors import ConfigError
from vlmpipe.evaluation.judging.cache import Reply, ReplyCache, request_key
from vlmpipe.evaluation.judging.questions import Question, response_format

if TYPE_CHECKING:
    from openai import AsyncOpenAI

LONGEST_WAIT_S = 120
"""A longer `Retry-After` is not obeyed by the client: the request fails."""

PATIENCE = 8
"""Requests that fail one after another, retries and all, until the endpoint is asked no more."""

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

    _refused: set[str] = field(default_factory=set)
    _failed_in_a_row: int = 0

    async def ask(self, question: Question) -> Reply:
        """The judge's reply.

        Raises:
            NoReplyError: where there is none, after all retries.
        """
        body = self._body(question)
        key = request_key(self.config.base_url, body)
        known = self.cache.get(key)
        if known is not None:
            return known
        if self.stopped:
            raise NoReplyError(f"not asked any more: {self.stopped}")
        reply = await self._counted(body)
        self.cache.put(key, reply)
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

    async def _counted(self, body: Mapping[str, Any]) -> Reply:
        self.requests += 1
        try:
            reply = await self._sent(body)
        except NoReplyError as fault:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= PATIENCE and not self.stopped:
                self.stopped = f"{PATIENCE} requests failed in a row, the last with: {fault}"
            raise
        self._failed_in_a_row = 0
        return reply

    async def _sent(self, body: Mapping[str, Any]) -> Reply:
        """In the dialect that the server takes, which its refusals teach."""
        import openai

        while True:
            refused = frozenset(self._refused)
            try:
                return _reply(await self._posted(in_dialect(body, refused)))
            except (openai.BadRequestError, openai.UnprocessableEntityError) as exc:
                lesson = _lesson(str(exc), refused)
                if lesson is None:
                    raise NoReplyError(_shown(f"refused the request: {exc}")) from exc
                self._refused.add(lesson)
            except openai.APIStatusError as exc:
                if exc.status_code in HOPELESS:
                    self.stopped = _shown(str(exc))
                raise NoReplyError(_shown(str(exc))) from exc
            except openai.APIError as exc:
                raise NoReplyError(_shown(f"no reply: {exc}")) from exc
            except TimeoutError as exc:
                raise NoReplyError(f"no whole reply within {self._deadline_s:g} s") from exc

    async def _posted(self, body: Mapping[str, Any]) -> bytes:
        # The client's time limit is on each read: a server that trickles would hold it for ever.
        async with asyncio.timeout(self._deadline_s):
            raw = await self.client.chat.completions.with_raw_response.create(**body)
            content: bytes = raw.content
            return content

    @property
    def _deadline_s(self) -> float:
        retries = self.config.max_retries
        return self.config.timeout_s * (retries + 1) + LONGEST_WAIT_S * retries


def open_client(config: JudgeConfig) -> AsyncOpenAI:
    """The client for a judge's endpoint.

    Raises:
        ConfigError: where the key's variable is not set, or the library is not installed.
    """
    try:
        from openai import AsyncOpenAI
    except ImportError as exc:
        raise ConfigError(
            "a judge needs the `openai` client, which is not installed",
            "install it: pip install 'vlmpipe[eval]'",
        ) from exc
    return AsyncOpenAI(
        base_url=config.base_url,
        api_key=_key(config),
        timeout=config.timeout_s,
        max_retries=config.max_retries,
    )


def in_dialect(body: Mapping[str, Any], refused: frozenset[str]) -> dict[str, Any]:
    """The body without what a server refuses, or with another name for it."""
    spoken = dict(body)
    if "response_format" in refused:
        # The question says in words what the schema says.
        del spoken["response_format"]
    if "max_tokens" in refused:
        spoken["max_completion_tokens"] = spoken.pop("max_tokens")
    return spoken


def _lesson(error: str, refused: frozenset[str]) -> str | None:
    """What to leave out next; servers word the refusal of a schema in many ways, or not at all."""
    if "max_completion_tokens" in error and "max_tokens" not in refused:
        return "max_tokens"
    return None if "response_format" in refused else "response_format"


def _key(config: JudgeConfig) -> str:
    if config.api_key_env is None:
        return "none"
    key = os.environ.get(config.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"the judge's key is not there: the environment variable {config.api_key_env} is empty",
            f"set it: export {config.api_key_env}=…",
            "or leave validate.judge.api_key_env out, for an endpoint that needs no key",
        )
    return key


def _reply(content: bytes) -> Reply:
    try:
        found = _Completion.model_validate(json.loads(content))
    except (ValueError, ValidationError, RecursionError) as exc:
        begin = content[:80].decode("utf-8", "replace")
        raise NoReplyError(f"what came is no chat completion: {begin!r}") from exc
    choice = found.choices[0]
    return Reply(
        text=(choice.message.content or "").encode("utf-8", "replace").decode("utf-8"),
        finish_reason=choice.finish_reason,
        input_tokens=found.usage.prompt_tokens if found.usage else None,
        output_tokens=found.usage.completion_tokens if found.usage else None,
    )


def _shown(text: str) -> str:
    return text if len(text) <= MAX_FAULT else f"{text[:MAX_FAULT]}…"
