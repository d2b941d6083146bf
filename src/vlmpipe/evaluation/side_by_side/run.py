"""One engine over a source, past its deaths, into its record file and its summary."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.engines.base import Failure
from vlmpipe.errors import StageError
from vlmpipe.evaluation.measuring import MetricPool
from vlmpipe.evaluation.records import System, read_records
from vlmpipe.evaluation.side_by_side.child import Asked, Finished, Outcome, Plan, Ready, Work
from vlmpipe.evaluation.side_by_side.ledger import Ledger
from vlmpipe.evaluation.side_by_side.process import EngineDiedError, EngineProcess
from vlmpipe.evaluation.side_by_side.recorder import Recorder
from vlmpipe.evaluation.sources import SampleSource
from vlmpipe.evaluation.summary import SUMMARY_SUFFIX, collect, read_summary, write_summary
from vlmpipe.evaluation.systems import SystemOrder

DEATHS_IN_A_ROW = 3
"""An engine that dies so often without one answer between is not asked again."""

Progress = Callable[[str, int, int], None]
"""Told the engine's name, how many samples are done, and of how many."""


@dataclass(frozen=True)
class Setting:
    """What is the same for every engine."""

    source: SampleSource
    plan: Plan
    folder: Path
    """Where records go."""

    log: Path
    seed: int
    timeout_s: float
    """For one answer."""

    whole: bool
    """Whether the source is all there is, so that records of other samples are out of date."""


@dataclass(frozen=True)
class Pass:
    """What one engine's pass came to."""

    engine: str
    path: Path
    known: int
    """Samples whose records were there already."""

    written: int
    failed: int
    first_error: str | None
    """Why the first of them failed."""

    set_aside: Path | None
    """Where records of an earlier state of the engine went."""

    given_up: str | None
    """Why the engine was not asked to the end; None where it was."""


def ask_engine(order: SystemOrder, setting: Setting, pool: MetricPool, progress: Progress) -> Pass:
    """Ask one engine all samples that it has no record of.

    Raises:
        StageError: when the engine cannot be opened.
        ToolError: when its process ends before it is open.
    """
    one = _EnginePass(order, setting, pool, progress)
    try:
        return one.run()
    finally:
        one.close()


class _EnginePass:
    def __init__(
        self, order: SystemOrder, setting: Setting, pool: MetricPool, progress: Progress
    ) -> None:
        self._order = order
        self._setting = setting
        self._pool = pool
        self._progress = progress
        self._books: _Books | None = None
        self._asked: deque[Asked] = deque()
        self._finished: Finished | None = None
        self._deaths = 0

    def run(self) -> Pass:
        """Go on after each death of the engine, until all is asked or it dies too often."""
        given_up = None
        while self._finished is None and given_up is None:
            try:
                self._go()
            except EngineDiedError as exc:
                given_up = self._bury(str(exc))
        books = self._opened()
        books.recorder.write(most_waiting=0)
        known = self._finished.samples if self._finished and self._setting.whole else None
        books.ledger.close(known)
        self._summarise(books)
        return Pass(
            engine=self._order.name,
            path=books.ledger.path,
            known=books.known,
            written=books.recorder.written,
            failed=books.recorder.failed,
            first_error=books.recorder.first_error,
            set_aside=books.ledger.set_aside,
            given_up=given_up,
        )

    def close(self) -> None:
        """Write what is measured: an interrupted pass goes on from there."""
        if self._books is not None and not self._books.ledger.closed:
            self._books.recorder.write(most_waiting=len(self._asked) + 1)
            self._books.ledger.close()

    def _go(self) -> None:
        setting = self._setting
        with EngineProcess(
            self._order, setting.source, setting.plan, setting.log, timeout_s=setting.timeout_s
        ) as process:
            books = self._begin(process.ready())
            process.begin(Work(dict(books.ledger.done), self._reliance_known(books)))
            for message in process.messages():
                if isinstance(message, Asked):
                    self._asked.append(message)
                elif isinstance(message, Outcome):
                    self._deaths = 0
                    books.recorder.take(self._asked.popleft(), message.completion, message.score)
                else:
                    self._finished = message

    def _begin(self, ready: Ready) -> _Books:
        if self._books is None:
            self._books = _open_books(
                self._order, self._setting, self._pool, ready.version, self._tell
            )
            self._tell()
        return self._books

    def _bury(self, cause: str) -> str | None:
        """Mark what the engine held as failed; a reason when it should not be asked again."""
        if self._books is None:
            raise StageError(f"{self._order.name}: {cause}", f"see {self._setting.log}")
        self._deaths += 1
        while self._asked:
            self._books.recorder.take(self._asked.popleft(), Failure(cause), None)
        self._books.recorder.write(most_waiting=0)
        return (
            f"{cause}, {self._deaths} times in a row" if self._deaths == DEATHS_IN_A_ROW else None
        )

    def _tell(self) -> None:
        count = self._setting.source.count
        self._progress(self._order.name, min(len(self._opened().ledger.done), count), count)

    def _summarise(self, books: _Books) -> None:
        found = collect(read_records(books.ledger.path), self._order.name)
        facts = self._facts(books)
        write_summary(
            books.summary, facts, {split: each.summary() for split, each in found.items()}
        )

    def _facts(self, books: _Books) -> dict[str, Any]:
        """Of this pass; what it did not measure is kept from the last one of the same system."""
        facts: dict[str, Any] = {"engine": self._order.name, "system": books.system.model_dump()}
        split = self._setting.source.name
        passes = dict(self._earlier(books).get("passes", {}))
        if self._finished is not None:
            passes[split] = _pass_facts(self._finished, passes.get(split, {}))
        return {**facts, "passes": passes}

    def _reliance_known(self, books: _Books) -> bool:
        known = self._earlier(books).get("passes", {}).get(self._setting.source.name, {})
        return bool(known.get("reliance")) and len(books.ledger.done) >= self._setting.source.count

    def _earlier(self, books: _Books) -> dict[str, Any]:
        """The summary that stands there, if it is of the same system."""
        found = read_summary(books.summary)
        return found if found.get("system") == books.system.model_dump() else {}

    def _opened(self) -> _Books:
        if self._books is None:
            raise RuntimeError("the engine said nothing yet")
        return self._books


@dataclass
class _Books:
    """What is written of one system."""

    system: System
    ledger: Ledger
    recorder: Recorder
    known: int

    @property
    def summary(self) -> Path:
        path = self.ledger.path
        return path.with_name(path.stem + SUMMARY_SUFFIX)


def _open_books(
    order: SystemOrder,
    setting: Setting,
    pool: MetricPool,
    version: str,
    on_record: Callable[[], None],
) -> _Books:
    system = order.identity(version, max_new_tokens=setting.plan.max_new_tokens, seed=setting.seed)
    ledger = Ledger(setting.folder, system, setting.source.name)
    recorder = Recorder(ledger, system, setting.source.name, pool, on_record)
    return _Books(system, ledger, recorder, len(ledger.done))


def _pass_facts(finished: Finished, earlier: dict[str, Any]) -> dict[str, Any]:
    if finished.busy is None and not finished.reliance:
        return earlier
    return {
        "busy": finished.busy if finished.busy is not None else earlier.get("busy"),
        "peak_memory_mib": finished.peak_memory_mib,
        "reliance": dict(finished.reliance) or earlier.get("reliance", {}),
        "reliance_unmeasured": finished.reliance_unmeasured,
    }
