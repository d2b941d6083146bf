"""Texts between quotes in Mermaid, there and back."""

from __future__ import annotations

import html
import re

QUOTED = r'"[^"\n]*"'
NUMBER = r"[+-]?(?:\d{1,15}(?:\.\d{1,15})?|\.\d{1,15})"
ENTITY = re.compile(r"#(\w{1,8});")
ESCAPES = (("#", "#35;"), ('"', "#quot;"), ("`", "#96;"), ("%", "#37;"))
"""What would end a text or begin something else: entities, Markdown, comments."""


def escaped(text: str) -> str:
    """On one line, with Mermaid's entities for the characters that mean something to it."""
    single = " ".join(text.split())
    for character, entity in ESCAPES:
        single = single.replace(character, entity)
    return single


def plain(text: str) -> str:
    """A label without its quotes, its entities read, its white space single."""
    bare = text.strip()
    if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'":
        bare = bare[1:-1]
    return " ".join(ENTITY.sub(_character, bare).split())


def _character(match: re.Match[str]) -> str:
    entity = f"&#{match[1]};" if match[1].isdigit() else f"&{match[1]};"
    character = html.unescape(entity)
    return match[0] if character == entity else character
