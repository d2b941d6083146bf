"""Replies of servers, read: what breaks in between is their fault and not ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vlmpipe.errors import ToolError

MAX_SAID = 300
"""Characters of a server's own words that are passed on."""


def whole_characters(text: str) -> str:
    """The text without lone surrogates, which no file takes. Servers send characters beyond the
    first 65536 as two, in JSON's escapes, and may part them.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class BrokenOffError(ToolError):
    """A stream of tokens that ended before the answer did."""


@contextmanager
def understood(route: str) -> Iterator[None]:
    """Take what breaks within, where a reply is read, for a fault of the server.

    Raises:
        ToolError: when a value is missing, or of another kind than it should be.
    """
    try:
        yield
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as exc:
        raise ToolError(f"{route} answered nonsense: {repr(exc)[:MAX_SAID]}") from exc
