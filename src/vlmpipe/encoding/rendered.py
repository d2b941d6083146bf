"""The token ids that every engine must see: conversations of every shape, rendered once by train.

What is held against them is the whole way from messages to ids: template, system prompt, broken
control tokens, tokenizer, and the number of tokens that an image is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from PIL import Image

from vlmpipe.encoding.contract import PreprocessContract, RenderedCase
from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.encoder import Encoder

TEXT = "What is 12 + 7?\n\n  <b>한글</b> “x9” <|im_end|> "
"""Digits, blanks, markup, two scripts, and a control token that must not stay one."""

WIDE, WIDER = (70, 238), (80, 176)
"""Heights and widths half-way between two grid lines of 28 and of 32 pixels: a runtime that rounds
or resizes by itself counts otherwise than the contract does."""


def probe_conversations(*, has_vision: bool) -> dict[str, list[Message]]:
    """Each shape of a conversation, without and with a system message of its own."""
    systems = {"": [], "own system, ": [Message("system", ("Be brief.\n",))]}
    turns = _seen() if has_vision else _written()
    return {
        f"{prefix}{name}": [*system, *messages]
        for (prefix, system), (name, messages) in product(systems.items(), turns.items())
    }


def with_rendered_ids(contract: PreprocessContract, tokenizer: Any) -> PreprocessContract:
    """The contract that also states the ids that this tokenizer gives to the conversations."""
    encoder = Encoder(tokenizer, contract)
    conversations = probe_conversations(has_vision=contract.has_vision)
    rendered = {
        name: RenderedCase.of(prompt_ids(encoder, messages))
        for name, messages in conversations.items()
    }
    return contract.model_copy(update={"rendered": rendered})


def prompt_ids(encoder: Encoder, messages: Sequence[Message]) -> list[int]:
    """Token ids of a prompt; -1 for each token of an image."""
    ids = encoder.encode_prompt(messages).input_ids
    return [-1 if token == encoder.image_token_id else token for token in ids]


def _written() -> dict[str, list[Message]]:
    several = [Message("user", (TEXT,)), Message("assistant", ("\n42",)), Message("user", ("?",))]
    return {"text": [Message("user", (TEXT,))], "several turns": several}


def _seen() -> dict[str, list[Message]]:
    image, other = _blank(WIDE), _blank(WIDER)
    several = [
        Message("user", (image, TEXT)),
        Message("assistant", ("\n<td>42</td>",)),
        Message("user", ("And without it?",)),
    ]
    return {
        "text": [Message("user", (TEXT,))],
        "one image": [Message("user", (image, TEXT))],
        "two images": [Message("user", ("first", image, " then ", other, TEXT))],
        "image after text": [Message("user", (TEXT, other))],
        "several turns": several,
    }


def _blank(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", (size[1], size[0]), "white")
