"""Answers in the forms that the endpoints promise."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from vlmpipe.serving.problems import ApiError
from vlmpipe.serving.service import Answer
from vlmpipe.serving.wire import Event, WireChoice, WireToken

END_OF_STREAM = b"data: [DONE]\n\n"


def usage(end: Event) -> dict[str, int]:
    """Token counts; an image counts its image tokens."""
    return {
        "prompt_tokens": end.prompt_tokens,
        "completion_tokens": end.completion_tokens,
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }


def timings(answer: Answer) -> dict[str, float]:
    """Seconds by the engine's clock, waiting apart."""
    return {
        "queue_seconds": round(answer.queue_seconds, 6),
        "first_token_seconds": round(answer.end.first_token_seconds, 6),
        "total_seconds": round(answer.end.seconds, 6),
        "tokens_per_second": round(answer.end.tokens_per_second, 3),
    }


def chat_answer(answer: Answer) -> dict[str, Any]:
    """`POST /chat`."""
    return {"answer": answer.text, "usage": usage(answer.end), "timings": timings(answer)}


def logprobs(choices: Sequence[WireChoice] | None) -> dict[str, Any] | None:
    """In OpenAI's form, with each token's `id` as well: its bytes do not tell it in every case."""
    if choices is None:
        return None
    content = [
        {**_token(choice), "top_logprobs": list(map(_token, choice.top))} for choice in choices
    ]
    return {"content": content, "refusal": None}


def _token(token: WireToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "token": token.data.decode(errors="replace"),
        "logprob": token.logprob,
        "bytes": list(token.data),
    }


def completion(answer: Answer, model_id: str) -> dict[str, Any]:
    """`POST /v1/chat/completions`."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text},
        "logprobs": logprobs(answer.choices),
        "finish_reason": answer.end.finish_reason,
    }
    return {
        **_head("chat.completion", model_id),
        "choices": [choice],
        "usage": usage(answer.end),
        "timings": timings(answer),
    }


async def completion_chunks(
    first: Event, events: AsyncGenerator[Event, None], model_id: str, *, include_usage: bool
) -> AsyncIterator[bytes]:
    """The same as server-sent events, ended by `[DONE]`.

    A fault after the first token can no longer be an HTTP status: it is an event of its own, and
    the stream ends without `[DONE]`.
    """
    head = _head("chat.completion.chunk", model_id)
    yield _chunk(head, {"role": "assistant", "content": ""}, None)
    event = first
    try:
        async with aclosing(events):
            while event.event == "piece":
                choices = None if event.choice is None else [event.choice]
                yield _chunk(head, {"content": event.text}, None, logprobs(choices))
                event = await anext(events)
    except ApiError as exc:
        yield _sse(exc.body)
        return
    yield _chunk(head, {}, event.finish_reason)
    if include_usage:
        yield _sse({**head, "choices": [], "usage": usage(event)})
    yield END_OF_STREAM


def _head(kind: str, model_id: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model_id,
    }


def _chunk(
    head: dict[str, Any],
    delta: dict[str, str],
    finish_reason: str | None,
    likely: dict[str, Any] | None = None,
) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": likely, "finish_reason": finish_reason}
    return _sse({**head, "choices": [choice]})


def _sse(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
