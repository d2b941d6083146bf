"""That a registered model is sent the prompts it was trained on, asked of the server itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vlmpipe.encoding.chat import IMAGE_SLOT, render
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.ollama_api import OllamaApi
from vlmpipe.engines.ollama_messages import chat_messages, message_matrix, needs_placeholders
from vlmpipe.errors import ToolError

_MEDIA = re.compile(r"\[img-\d+\]|<__(?:ollama_)?media[0-9a-f_]*__>")
"""How a server marks an image in the prompt that it shows; libmtmd puts vision_start and
vision_end around it when it is evaluated."""


@dataclass(frozen=True)
class PromptProof:
    """Conversations whose prompt the server showed, each equal to the training one."""

    shown: tuple[str, ...]
    """Empty where the server does not show prompts: then nothing is proven."""

    placeholders: bool | None
    """Whether an image may stand after a text; None where it could not be seen."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of it."""
        if not self.shown:
            return ("this server does not show its prompts; only answers were compared",)
        if self.placeholders is False:
            return ("an image after a text cannot be sent through this server's chat API",)
        return ()


def prove_prompts(api: OllamaApi, name: str, contract: PreprocessContract) -> PromptProof:
    """Hold the server's prompts against the contract's, conversation by conversation.

    Raises:
        ToolError: when one differs, with the place.
    """
    shown: list[str] = []
    placeholders: bool | None = None
    for kind, messages in message_matrix(contract).items():
        sent = chat_messages(messages, contract, placeholders=True)
        found = api.rendered(name, sent)
        if found is None:
            return PromptProof((), None)
        expected = expected_prompt(messages, contract)
        equal = _MEDIA.sub(IMAGE_SLOT, found) == expected
        if needs_placeholders(messages):
            placeholders = equal
            continue
        if not equal:
            raise ToolError(_difference(kind, _MEDIA.sub(IMAGE_SLOT, found), expected))
        shown.append(kind)
    return PromptProof(tuple(shown), placeholders)


def expected_prompt(messages: Sequence[Message], contract: PreprocessContract) -> str:
    """The training prompt of a conversation that the model is to answer."""
    turns = contract.conversation(messages)
    return render(contract.chat_template, turns, add_generation_prompt=True)


def _difference(kind: str, found: str, expected: str) -> str:
    pairs = zip(found, expected, strict=False)
    at = next((i for i, (one, other) in enumerate(pairs) if one != other), 0)
    at = at or min(len(found), len(expected))
    begin = max(at - 20, 0)
    return (
        f"its prompt for {kind} differs from the training one at character {at}:"
        f" {found[begin : at + 30]!r} instead of {expected[begin : at + 30]!r}"
    )
