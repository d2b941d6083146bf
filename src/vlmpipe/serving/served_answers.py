"""What a running service answers to samples, and how likely: asked as any client asks."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmpipe.data.images import encode_png
from vlmpipe.encoding.conversation import Message, Part, Sample
from vlmpipe.engines.likely import Choice, LikelyToken
from vlmpipe.serving.requests import MAX_TOP_LOGPROBS

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class ServedAnswer:
    """One answer of the service."""

    text: str
    prompt_tokens: int
    choices: tuple[Choice, ...]
    """One for each token, the end of turn left out."""


@dataclass(frozen=True)
class NoAnswer:
    """A request that the service did not answer."""

    why: str
    too_large: bool = False
    """Beyond the limits that the service was given: HTTP 413."""


def ask_served(
    url: str,
    model_id: str,
    samples: Sequence[Sample],
    *,
    timeout_s: float,
    progress: Callable[[int], None],
) -> list[ServedAnswer | NoAnswer]:
    """Whole conversations, with images as the files that they came in: the gateway resizes them."""
    import httpx

    answers: list[ServedAnswer | NoAnswer] = []
    with httpx.Client(base_url=url, timeout=timeout_s) as client:
        for sample in samples:
            answers.append(_ask(client, _body(sample.prompt, model_id)))
            progress(len(answers))
    return answers


def _body(messages: Sequence[Message], model_id: str) -> dict[str, Any]:
    turns = [
        {"role": message.role, "content": [_part(part) for part in message.parts]}
        for message in messages
    ]
    return {
        "model": model_id,
        "messages": turns,
        "logprobs": True,
        "top_logprobs": MAX_TOP_LOGPROBS,
    }


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    data = base64.b64encode(encode_png(part)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def _ask(client: httpx.Client, body: dict[str, Any]) -> ServedAnswer | NoAnswer:
    import httpx

    try:
        response = client.post("/v1/chat/completions", json=body)
    except httpx.HTTPError as exc:
        return NoAnswer(f"{type(exc).__name__}: {exc}")
    if response.status_code != 200:
        why = f"HTTP {response.status_code}: {response.text[:200]}"
        return NoAnswer(why, too_large=response.status_code == 413)
    try:
        return _answer(response.json())
    except (ValueError, KeyError, IndexError, TypeError) as exc:
        return NoAnswer(f"unexpected answer: {exc!r}")


def _answer(content: Mapping[str, Any]) -> ServedAnswer:
    choice = content["choices"][0]
    return ServedAnswer(
        text=choice["message"]["content"],
        prompt_tokens=content["usage"]["prompt_tokens"],
        choices=tuple(map(_choice, choice["logprobs"]["content"])),
    )


def _choice(row: Mapping[str, Any]) -> Choice:
    return Choice(_token(row), tuple(map(_token, row["top_logprobs"])))


def _token(row: Mapping[str, Any]) -> LikelyToken:
    return LikelyToken(row["id"], bytes(row["bytes"]), row["logprob"])
