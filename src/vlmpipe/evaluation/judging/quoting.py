"""Texts that nobody vouches for, quoted so that they cannot speak to the judge.

A fence with a digest in its name: a text cannot close it, since its writer would have to know the
digest of the whole question. Control tokens of chat templates are broken up, because servers such
as llama-server read them as what they look like.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from vlmpipe.evaluation.answers import writable

_WORDS = r"""
    s | bos | eos | pad | unk | g?mask | cls | sep | sop | eop | eot | eod | eom | nl | sp
    | image | img | video | audio | media | box | ref | quad | pixel
    | sys | system | user | assistant | human | tool | tools | inst | think | thinking
    | (?:unused | reserved | ctrl | special | extra | dummy | sentinel) (?=\d)
"""
_CONTROL = re.compile(
    rf"""
    < (?=
        [|\uff5c] [^|\uff5c<>\n]{{1,60}} [|\uff5c] >           # <|im_end|>, <｜User｜>
        | /? \w{{0,40}}? _ \w{{0,40}} >                          # <end_of_turn>, <__media__>
        | /? (?: {_WORDS} ) \d{{0,5}} >                           # </s>, <image>, <unused7>
        | </?SYS>>
    )
    | \[ (?=
        /? (?: INST | IMG (?:_\w{{1,20}})? | SYSTEM_PROMPT | AVAILABLE_TOOLS | TOOL_\w{{1,20}}
        | MODEL_SETTINGS | ARGS | CALL_ID | THINK | AUDIO | BEGIN_\w{{1,20}} | PREFIX | SUFFIX
        | MIDDLE | g?MASK | CLS | SEP | PAD | UNK | BOS | EOS ) \]
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Where such a token begins. HTML's own elements have no underscore, and but for `<s>`, `<video>`
and `<audio>` other names."""


def quoted(texts: Mapping[str, str], max_characters: int) -> tuple[str, str]:
    """Each text in its fence, by title, and the mark that the fences carry.

    A text longer than `max_characters` is cut, and how much is missing is said outside the fence.
    """
    clean = {title: cleaned(text) for title, text in texts.items()}
    mark = _mark(clean)
    fences = [_fence(title, text, mark, max_characters) for title, text in clean.items()]
    return "\n\n".join(fences), mark


def cleaned(text: str) -> str:
    """UTF-8 that a server takes, with no NUL and no whole control token."""
    sendable = writable(text.replace("\0", "\ufffd"))
    return _CONTROL.sub(lambda match: f"{match[0]}\u200b", sendable)


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
