"""The other end of an engine's process: its messages, and what becomes of its death."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from vlmpipe.errors import StageError, ToolError
from vlmpipe.evaluation.side_by_side.child import (
    Alive,
    Asked,
    Broken,
    Crashed,
    Finished,
    Outcome,
    Plan,
    Ready,
    RelianceFound,
    Work,
    hold_engine,
)
from vlmpipe.evaluation.sources import SampleSource
from vlmpipe.evaluation.systems import SystemOrder
from vlmpipe.system.parenthood import exit_cause, interrupts_held

Message = Ready | Alive | Asked | Outcome | Finished | RelianceFound

GRACE_S = 5.0
"""To an engine that was asked to end."""


class EngineDiedError(Exception):
    """The process ended, or was ended, before all was asked; the message says how."""


class EngineProcess:
    """One engine in a process of its own; use it in a `with` statement."""

    def __init__(
        self, order: SystemOrder, source: SampleSource, plan: Plan, log: Path, *, timeout_s: float
    ) -> None:
        """Start it. `timeout_s` bounds the wait for one answer."""
        self._order = order
        self._timeout_s = timeout_s
        self._log = log
        self._open = False
        # A forked child of a process with threads of torch or llama.cpp may never wake.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=hold_engine, args=(order, source, plan, log, theirs), name=order.name
        )
        with interrupts_held():
            self._process.start()
        theirs.close()

    def ready(self) -> Ready:
        """Wait until the engine is open.

        Raises:
            StageError: when it cannot be opened, in the engine's own words.
            ToolError: when the process ends or says nothing.
        """
        try:
            message = self._receive(None)
        except EngineDiedError as exc:
            raise ToolError(
                f"{self._order.name}: {exc}", f"its last words are in {self._log}"
            ) from exc
        if not isinstance(message, Ready):
            raise TypeError(f"expected Ready, got {message!r}")
        self._open = True
        return message

    def begin(self, work: Work) -> None:
        """Have it ask what is not done.

        Raises:
            EngineDiedError: when it is gone already.
        """
        try:
            self._connection.send(work)
        except OSError:
            raise self._died() from None

    def messages(self) -> Iterator[Asked | Outcome | Finished | RelianceFound]:
        """What happens, to the end.

        Raises:
            EngineDiedError: when the process ends before that, or gives no answer in time.
        """
        while True:
            message = self._receive(self._timeout_s)
            if isinstance(message, Alive):
                continue
            if isinstance(message, Ready):
                raise TypeError(f"unexpected {message!r}")
            yield message
            if isinstance(message, RelianceFound):
                return

    def _receive(self, timeout_s: float | None) -> Message:
        if timeout_s is not None and not self._connection.poll(timeout_s):
            self._process.kill()
            raise EngineDiedError(f"no answer for {timeout_s:g} s; the engine's process was ended")
        try:
            message = self._connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if isinstance(message, Crashed):
            self._process.join(GRACE_S)
            raise EngineDiedError(f"the engine failed: {message.message}")
        if isinstance(message, Broken) and self._open:
            raise EngineDiedError(f"the engine failed: {message.message}")
        if isinstance(message, Broken):
            raise StageError(
                f"{self._order.name}: {message.message}",
                *message.remedies,
                problems=message.problems,
            )
        found: Message = message
        return found

    def _died(self) -> EngineDiedError:
        self._process.join(GRACE_S)
        return EngineDiedError(f"the engine's process died ({exit_cause(self._process.exitcode)})")

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()
        self._process.join(GRACE_S if kind is None else 0)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
