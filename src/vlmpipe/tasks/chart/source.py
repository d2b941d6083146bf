"""A Mermaid text before its statements are read: no fence, no front matter, no comments."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vlmpipe.tasks.text_metrics import composed

FRONT_MATTER = re.compile(r"\s*---[ \t]*\n(.*?\n)?[ \t]*---[ \t]*(?:\n|$)", re.DOTALL)
FRONT_TITLE = re.compile(r"^title:[ \t]*(\S.*)$", re.MULTILINE)
ACCESSIBILITY = re.compile(r"acc(?:Title|Descr) ?:")
"""Texts for screen readers, which are not in the picture."""


@dataclass(frozen=True)
class Source:
    """What is left to be read."""

    lines: tuple[str, ...]
    """Without blank ones; white space is single, so that patterns which may begin or end with it
    stay linear.
    """

    title: str
    """From the front matter; empty where there is none."""


def source_of(text: str) -> Source:
    """The lines of a Mermaid text that draw something, in canonical composition (NFC)."""
    body = composed(unfenced(text))
    front = FRONT_MATTER.match(body)
    title = FRONT_TITLE.search(front[1] or "") if front else None
    body = _without_directives(body[front.end() :] if front else body)
    lines = (" ".join(line.split()) for line in body.splitlines())
    kept = (line for line in lines if line and not line.startswith("%%"))
    return Source(
        tuple(line for line in kept if not ACCESSIBILITY.match(line)),
        title[1].strip().strip("\"'") if title else "",
    )


def unfenced(text: str) -> str:
    """Without a Markdown fence around it, and without white space there."""
    text = text.strip()
    if not (text.startswith("```") and text.endswith("```") and "\n" in text):
        return text
    first, rest = text.split("\n", 1)
    return rest.removesuffix("```") if first.strip() in ("```", "```mermaid") else text


def _without_directives(text: str) -> str:
    """Settings between `%%{` and `}%%` say how a chart looks."""
    parts, place = [], 0
    while (begin := text.find("%%{", place)) >= 0 and (end := text.find("}%%", begin)) >= 0:
        parts.append(text[place:begin])
        place = end + 3
    return "".join([*parts, text[place:]])
