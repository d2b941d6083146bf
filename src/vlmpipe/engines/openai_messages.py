"""Conversations as `/v1/chat/completions` takes them: parts in order, images on their grid."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, Literal

from PIL import Image

from vlmpipe.encoding.chat import render
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message, Part
from vlmpipe.encoding.images import to_rgb

Resize = Literal["contract", "runtime"]
ITSELF = "{{ messages[0]['content'] }}"
"""A template that gives a text with its control tokens broken up, as in any prompt."""


def chat_messages(
    messages: Sequence[Message], contract: PreprocessContract, resize: Resize = "contract"
) -> list[dict[str, Any]]:
    """The turns with the contract's system prompt, images as PNG data addresses.

    A turn without images is one text: servers differ in what they make of a list of texts.
    """
    return [_turn(message, contract, resize) for message in contract.conversation(messages)]


def handed_over(image: Image.Image, contract: PreprocessContract, resize: Resize) -> Image.Image:
    """The image as the server is given it."""
    return to_rgb(image) if resize == "runtime" else contract.grid.prepare(image)


def _turn(message: Message, contract: PreprocessContract, resize: Resize) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": plain(message.text)}
    parts = [_part(part, contract, resize) for part in message.parts]
    return {"role": message.role, "content": parts}


def _part(part: Part, contract: PreprocessContract, resize: Resize) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": plain(part)}
    url = _png_address(handed_over(part, contract, resize))
    return {"type": "image_url", "image_url": {"url": url}}


def plain(text: str) -> str:
    """A text with its control tokens broken up: nothing in it can end a turn."""
    return render(ITSELF, [Message("user", (text,))])


def _png_address(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
