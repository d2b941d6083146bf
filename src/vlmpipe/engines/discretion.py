"""What a server says, fit for a terminal and for records: without the key, without controls."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from vlmpipe.engines.replies import whole_characters
from vlmpipe.errors import VlmpipeError

HIDDEN = "***"
LEAST_SECRET = 4
"""Shorter keys are none, and their characters stand in any sentence."""

LEAST_BEGINNING = 8
"""Characters of a key's beginning that are taken for it: texts are cut, here and by servers."""

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, cursor, erasing
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # titles
    r"|\x1b[ -/]*[0-~]"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Discretion:
    """Keeps a key, or None, out of all that is told."""

    def __init__(self, secret: str | None) -> None:
        self._secret = secret if secret and len(secret) >= LEAST_SECRET else None

    def told(self, text: str) -> str:
        """The text as it may be shown and stored."""
        plain = _CONTROLS.sub("", _SEQUENCES.sub("", whole_characters(text)))
        return plain if self._secret is None else _hidden(plain, self._secret)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Errors that leave this context say nothing that may not be told."""
        try:
            yield
        except VlmpipeError as error:
            error.message = self.told(error.message)
            error.problems = tuple(self.told(each) for each in error.problems)
            error.args = (error.message,)
            raise


def _hidden(text: str, secret: str) -> str:
    """Each place of the secret, or of a beginning of it that is long enough, as stars."""
    beginning = secret[:LEAST_BEGINNING]
    pieces, rest = [], text
    while beginning in rest:
        before, _, after = rest.partition(beginning)
        tail = secret[len(beginning) :]
        common = next((n for n in range(len(tail), 0, -1) if after.startswith(tail[:n])), 0)
        pieces += [before, HIDDEN]
        rest = after[common:]
    return "".join([*pieces, rest])
