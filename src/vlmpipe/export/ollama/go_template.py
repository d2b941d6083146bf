"""The training template in the syntax of Go's text/template, which is what Ollama renders.

Made from the Jinja template itself: what it puts before and after a turn of each role, and what
makes it ask for an answer. A template that does more than that cannot be said in these terms and
is refused, since Ollama would then send the model another prompt than it was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from vlmpipe.encoding.chat import render
from vlmpipe.encoding.conversation import Message, Role
from vlmpipe.errors import ConfigError

ROLES: tuple[Role, ...] = get_args(Role)
SENTINEL = "\ue010"
"""A private-use character that stands for a turn's text while a template is taken apart."""


@dataclass(frozen=True)
class TurnPieces:
    """What a chat template writes around the texts of a conversation."""

    before: Mapping[Role, str]
    after: Mapping[Role, str]
    opening: str
    """What asks for an answer."""

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt that these pieces make of texts; the model is to answer it."""
        turns = (
            self.before[message.role] + message.text + self.after[message.role]
            for message in messages
        )
        return "".join(turns) + self.opening


def turn_pieces(chat_template: str) -> TurnPieces:
    """Take a Jinja template apart.

    Raises:
        ConfigError: when it writes a turn otherwise than role by role.
    """
    before: dict[Role, str] = {}
    after: dict[Role, str] = {}
    for role in ROLES:
        text = render(chat_template, [Message(role, (SENTINEL,))])
        if text.count(SENTINEL) != 1:
            raise _inexpressible(f"it does not write a {role} turn's text once")
        before[role], after[role] = text.split(SENTINEL)
    question = [Message("user", (SENTINEL,))]
    without = render(chat_template, question)
    asked = render(chat_template, question, add_generation_prompt=True)
    if not asked.startswith(without):
        raise _inexpressible("it writes earlier turns otherwise when it asks for an answer")
    pieces = TurnPieces(before, after, asked.removeprefix(without))
    for talk in _conversations():
        if pieces.render(talk) != render(chat_template, talk, add_generation_prompt=True):
            roles = ", ".join(message.role for message in talk)
            raise _inexpressible(f"turns of {roles} are not the turns by themselves, joined")
    return pieces


def go_template(chat_template: str) -> str:
    """The same prompt by Ollama's rules.

    The system prompt is one of `.Messages`: Ollama puts it first. No trimming marks are used, so
    every character outside the braces is one of the prompt.

    Raises:
        ConfigError: when the template cannot be said in these terms.
    """
    pieces = turn_pieces(chat_template)
    branches = [
        f'{{{{ {"else " if index else ""}if eq .Role "{role}" }}}}'
        f"{_literal(pieces.before[role])}{{{{ .Content }}}}{_literal(pieces.after[role])}"
        for index, role in enumerate(ROLES)
    ]
    turns = "".join(branches) + "{{ end }}"
    return f"{{{{ range .Messages }}}}{turns}{{{{ end }}}}{_literal(pieces.opening)}"


def _conversations() -> list[list[Message]]:
    """Texts in every order of roles that a conversation may have, spaces at their edges."""
    system = Message("system", (" Be brief.\n",))
    user = Message("user", ("\n1+1? ",))
    assistant = Message("assistant", (" 2\n\n",))
    return [
        [user],
        [system, user],
        [user, assistant, user],
        [system, user, assistant, user, assistant, user],
        [Message("user", ("",))],
        [Message("user", ("{{ .Content }} {%- x -%}",))],
    ]


def _literal(text: str) -> str:
    """Text as it must stand between actions: an opening brace could begin one with the next."""
    return re.sub(r"\{+", lambda braces: f'{{{{ "{braces[0]}" }}}}', text)


def _inexpressible(why: str) -> ConfigError:
    return ConfigError(
        f"the chat template cannot be rendered by Ollama: {why}",
        "serve the GGUF files with llama-server or `vlmpipe serve`, which render it themselves",
    )
