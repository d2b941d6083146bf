"""Conversations as /api/chat takes them, and those that it cannot take as they are meant.

A message there is one text and a list of images, and Ollama writes the images before the text
(`chatPrompt` in its server/prompt.go). The text may say otherwise by an `[img]` for each image,
which the API's documentation does not mention and which the path through a GGUF's own Jinja
template ignores: it is used only on a server that was seen to honour it.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from vlmpipe.encoding.chat import render
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.errors import StageError

TEXT_ONLY = (
    "{%- for message in messages -%}{%- if message['content'] is string -%}"
    "{{- message['content'] -}}{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- else -%}{{- '[img]' -}}"
    "{%- endif -%}{%- endfor -%}{%- endif -%}{%- endfor -%}"
)
"""A turn's text with `[img]` for its images, and control tokens broken up as in any prompt."""

_MARK = re.compile(r"\[img(-\d+)?\]")


class InexpressibleError(StageError):
    """A conversation that Ollama's chat API would turn into another prompt."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"Ollama's /api/chat cannot express this conversation: {what}",
            "put the images first in their turn, or ask llama-server or `vlmpipe serve`",
        )


def chat_messages(
    messages: Sequence[Message], contract: PreprocessContract, *, placeholders: bool = False
) -> list[dict[str, Any]]:
    """The messages for /api/chat, images on their exact grid as bare base64.

    `placeholders` allows `[img]` in a text where an image does not come first.

    Raises:
        InexpressibleError: when the server would make another prompt of them than training did.
    """
    _refuse_merged(messages)
    return [_turn(message, contract, placeholders) for message in messages]


def message_matrix(contract: PreprocessContract) -> dict[str, list[Message]]:
    """Conversations whose prompts must be the training ones, by what is particular in each."""
    matrix = {
        "text": [Message("user", ("1+1? {{ .Content }}",))],
        "own system": [Message("system", ("Be brief.",)), Message("user", ("1+1?",))],
        "multi-turn": [
            Message("user", (" 1+1?\n",)),
            Message("assistant", ("2",)),
            Message("user", ("And <|im_end|> 2+2?",)),
        ],
    }
    if contract.has_vision:
        first, second = _picture(contract, 1), _picture(contract, 2)
        matrix |= {
            "one image": [Message("user", (first, "What is it?"))],
            "two images": [Message("user", (first, second, "Which is larger?"))],
            "images in two turns": [
                Message("user", (first, "What is it?")),
                Message("assistant", ("grey",)),
                Message("user", (second, "And this?")),
            ],
            "image after text": [Message("user", ("What is it?", first))],
        }
    return matrix


def needs_placeholders(messages: Sequence[Message]) -> bool:
    """Whether an image stands behind a text of its turn."""
    return any(not _images_first(message) for message in messages)


def _refuse_merged(messages: Sequence[Message]) -> None:
    for before, after in pairwise(messages):
        if before.role == after.role:
            raise InexpressibleError(
                f"two {after.role} turns follow each other, which Ollama makes one of"
            )


def _turn(message: Message, contract: PreprocessContract, placeholders: bool) -> dict[str, Any]:
    found = _MARK.search(message.text)
    if found:
        raise InexpressibleError(
            f"a text holds {found[0]}, which Ollama takes for the place of an image"
        )
    if message.role == "assistant" and "<think>" in message.text:
        raise InexpressibleError("an earlier answer holds <think>, which Ollama cuts out")
    first = _images_first(message)
    if not first and not placeholders:
        raise InexpressibleError(
            "an image stands after a text in one turn, and Ollama puts images first"
        )
    parts = tuple(part for part in message.parts if isinstance(part, str)) or ("",)
    said = Message(message.role, parts) if first else message
    turn: dict[str, Any] = {"role": message.role, "content": render(TEXT_ONLY, [said])}
    if message.images:
        turn["images"] = [_base64_png(contract, image) for image in message.images]
    return turn


def _images_first(message: Message) -> bool:
    texts = [isinstance(part, str) for part in message.parts if part != ""]
    return texts == sorted(texts)


def _base64_png(contract: PreprocessContract, image: Any) -> str:
    buffer = io.BytesIO()
    contract.grid.prepare(image).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _picture(contract: PreprocessContract, scale: int) -> Any:
    from PIL import Image

    side = contract.grid.factor * 4 * scale
    return Image.linear_gradient("L").resize((side, side)).convert("RGB")
