"""Whether a text is Mermaid, by Mermaid's own parser in a Node process beside this one."""

from __future__ import annotations

import atexit
import os
import threading

from vlmpipe.system.mermaid_tool import installed_mermaid
from vlmpipe.tasks.chart.mermaid.process import ParserProcess, ParserStartError, ParserStoppedError

MAX_CHARACTERS = 50_000
"""Mermaid's own limit (`maxTextSize`): it draws no longer text."""

TRIES = 2
"""A parser that died or hung may have been killed by somebody else: the text is tried once more."""


class _Held:
    """The one parser of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.parser: ParserProcess | None = None
        self.failed = False
        """It could not be started; asking again would cost each text the same wait."""


_held = _Held()


def is_valid_mermaid(text: str) -> bool | None:
    """Whether Mermaid's parser accepts `text`; None where there is no parser that starts.

    The parser is started at the first call of a process and kept. A text on which it dies or
    hangs twice is not valid, and neither is one of more than 50,000 characters.
    """
    with _held.lock:
        if _held.parser is None and not _start():
            return None
        if len(text) > MAX_CHARACTERS:
            return False
        return _asked(text)


def close_parser() -> None:
    """Stop this process's parser; the next question starts another, if there is one by then."""
    with _held.lock:
        _stop()
        _held.failed = False


def _asked(text: str) -> bool | None:
    for _ in range(TRIES):
        if _held.parser is None and not _start():
            return None
        assert _held.parser is not None
        try:
            return _held.parser.accepts(text)
        except ParserStoppedError:
            _stop()
    return False


def _start() -> bool:
    tool = None if _held.failed else installed_mermaid()
    if tool is None:
        return False
    try:
        _held.parser = ParserProcess(tool)
    except ParserStartError:
        _held.failed = True
    return not _held.failed


def _stop() -> None:
    if _held.parser is not None:
        _held.parser.stop()
        _held.parser = None


def _forget() -> None:
    """In a forked child: the parser is the parent's, and so may be the lock's holder."""
    global _held
    parser, _held = _held.parser, _Held()
    if parser is not None:
        parser.leave_to_parent()


os.register_at_fork(after_in_child=_forget)
atexit.register(close_parser)
