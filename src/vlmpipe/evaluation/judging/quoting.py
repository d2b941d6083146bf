"""Texts that nobody vouches for, quoted so that they cannot speak to the judge.

A fence with a digest in its name: a text cannot close it, since its writer would have to know the
digest of the whole question. Control tokens of chat templates are broken up, because servers such
as llama-server read them as what they look like.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

_CONTROL = re.compile(
    r"<(?=\|[^|<>\s]{1,60}\|>|/?(?:start|end)_of_turn>|</?SYS>>)|\[(?=/?(?:INST|SYSTEM_PROMPT)\])"
)


def quoted(texts: Mapping[str, str], max_characters: int) -> tuple[str, str]:
    """Each text in its fence, by title, and the mark that the fences carry.

    A text longer than `max_characters` is cut, and how much is missing is said outside the fence.
    """
    clean = {title: _clean(text) for title, text in texts.items()}
    mark = _mark(clean)
    fences = [_fence(title, text, mark, max_characters) for title, text in clean.items()]
    return "\n\n".join(fences), mark


def _mark(texts: Mapping[str, str]) -> str:
    whole = "\0".join(f"{title}\0{text}" for title, text in texts.items())
    digest = hashlib.sha256(whole.encode())
    while (mark := digest.hexdigest()[:12]) in whole:
        digest.update(b"\0")
    return mark


def _fence(title: str, text: str, mark: str, max_characters: int) -> str:
    name = f"{title.upper().replace(' ', '_')}-{mark}"
    fence = f"<{name}>\n{text[:max_characters]}\n</{name}>"
    hidden = len(text) - max_characters
    return f"{fence}\n({hidden} more characters of it are left out here.)" if hidden > 0 else fence


def _clean(text: str) -> str:
    """UTF-8 that a server takes, with no NUL and no whole control token."""
    sendable = text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return _CONTROL.sub(lambda match: f"{match[0]}\u200b", sendable)
