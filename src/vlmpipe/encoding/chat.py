"""Conversations rendered through the contract's chat template, the same for every engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vlmpipe.encoding.conversation import Message

IMAGE_SLOT = "<|vision_start|><|image_pad|><|vision_end|>"
IMAGE_PAD = "<|image_pad|>"
END_OF_TURN = "<|im_end|>"
_CONTROL = re.compile(r"<\|(?=[a-z_]+\|>)")
_OPEN, _CLOSE = "\ue000", "\ue001"
"""Private-use characters that mark an answer while a template is rendered."""


@dataclass(frozen=True)
class Segment:
    """A stretch of rendered text; `answer` is set on an assistant's words and its end of turn."""

    text: str
    answer: bool


def render(
    template: str, messages: Sequence[Message], *, add_generation_prompt: bool = False
) -> str:
    """The prompt as text, each image as one `<|vision_start|><|image_pad|><|vision_end|>`.

    Control tokens written out in a message's text are broken up: no text can end a turn or
    pretend to be an image.
    """
    turns = [_turn(message, mark_answer=False) for message in messages]
    return _compiled(template).render(messages=turns, add_generation_prompt=add_generation_prompt)


def render_segments(template: str, messages: Sequence[Message]) -> list[Segment]:
    """The conversation cut where answers begin and end.

    Each piece is tokenized by itself, so that an answer has the ids that it has when generated.

    Raises:
        ValueError: when the template does not end an assistant's turn with `<|im_end|>`.
    """
    turns = [_turn(message, mark_answer=message.role == "assistant") for message in messages]
    text = _compiled(template).render(messages=turns, add_generation_prompt=False)
    segments: list[Segment] = []
    for piece in text.split(_OPEN):
        answer, closed, rest = piece.rpartition(_CLOSE)
        if closed:
            if not rest.startswith(END_OF_TURN):
                raise ValueError(f"the chat template does not end a turn with {END_OF_TURN}")
            segments.append(Segment(answer + END_OF_TURN, answer=True))
            rest = rest.removeprefix(END_OF_TURN)
        segments.append(Segment(rest, answer=False))
    return [segment for segment in segments if segment.text]


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    # A template that came with a model is foreign code: sandboxed, and unable to change its input.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=False,
        lstrip_blocks=False,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.from_string(template)


def _turn(message: Message, *, mark_answer: bool) -> dict[str, Any]:
    parts = [
        {"type": "text", "text": _plain(part)} if isinstance(part, str) else {"type": "image"}
        for part in message.parts
    ]
    if mark_answer:
        parts = [{"type": "text", "text": _OPEN}, *parts, {"type": "text", "text": _CLOSE}]
    if all(part["type"] == "text" for part in parts):
        return {"role": message.role, "content": "".join(part["text"] for part in parts)}
    return {"role": message.role, "content": parts}


def _plain(text: str) -> str:
    return _CONTROL.sub("< |", text.replace(_OPEN, "").replace(_CLOSE, ""))
