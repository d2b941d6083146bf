"""One engine over a source, past its deaths, into its record file and its summary."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.engines.base import Failure
from vlmpipe.errors import StageError
from vlmpipe.evaluation.measuring import MetricPool
from vlmpipe.evaluation.records import System, read_records
from vlmpipe.evaluation.side_by_side.child import (
    Asked,
    Finished,
    Outcome,
    Plan,
    Ready,
    RelianceFound,
    Work,
)
from vlmpipe.evaluation.side_by_side.ledger import Ledger
from vlmpipe.evaluation.side_by_side.process import EngineDiedError, EngineProcess
from vlmpipe.evaluation.side_by_side.recorder import Recorder
from vlmpipe.evaluation.sources import SampleSource
from vlmpipe.evaluation.summary import SUMMARY_SUFFIX, collect, read_summary, write_summary
from vlmpipe.evaluation.systems import SystemOrder

BETWEEN_ATTEMPTS_S = 130.0
"""Longer than an engine waits before it asks a server again."""

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
    samples: frozenset[str] | None
    """Ids of the source's samples; None where not all were asked."""

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
        self._suspects: frozenset[str] = frozenset()
        self._finished: Finished | None = None
        self._reliance: RelianceFound | None = None
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
        seen = self._finished.samples if self._finished else None
        books.ledger.close(seen if self._setting.whole else None)
        books.write_summary(self._setting, self._finished, self._reliance)
        return Pass(
            engine=self._order.name,
            path=books.ledger.path,
            samples=seen,
            known=len(books.known if seen is None else books.known & seen),
            written=books.recorder.written,
            failed=books.recorder.failed,
            first_error=books.recorder.first_error,
            set_aside=books.ledger.set_aside,
            given_up=given_up,
        )

    def close(self) -> None:
        """Write what is measured: an interrupted pass goes on from there."""
        if self._books is not None and not self._books.ledger.closed:
            with suppress(StageError):  # told already, by what ended the pass
                self._books.recorder.write(most_waiting=len(self._asked) + 1)
            with suppress(StageError):
                self._books.ledger.close()

    def _go(self) -> None:
        setting, order = self._setting, self._order
        patience = order.attempts * setting.timeout_s + (order.attempts - 1) * BETWEEN_ATTEMPTS_S
        with EngineProcess(
            order, setting.source, setting.plan, setting.log, timeout_s=patience
        ) as process:
            books = self._begin(process.ready())
            known = books.reliance_known(setting)
            process.begin(Work(dict(books.ledger.done), self._suspects, known))
            for message in process.messages():
                self._take(message, books)

    def _take(self, message: Asked | Outcome | Finished | RelianceFound, books: _Books) -> None:
        if isinstance(message, Asked):
            self._asked.append(message)
        elif isinstance(message, Outcome):
            self._deaths = 0
            books.recorder.take(self._asked.popleft(), message.completion, message.score)
        elif isinstance(message, Finished):
            self._finished = message
        else:
            self._reliance = message

    def _begin(self, ready: Ready) -> _Books:
        if self._books is None:
            self._books = _open_books(self._order, self._setting, self._pool, ready, self._tell)
            self._tell()
        return self._books

    def _bury(self, cause: str) -> str | None:
        """What the engine held has failed, or is asked again one by one where that was several; a
        reason when the engine should not be asked again.
        """
        if self._books is None:
            raise StageError(f"{self._order.name}: {cause}", f"see {self._setting.log}")
        if self._finished is not None:  # all was answered; it died of the other images
            self._reliance = RelianceFound(unmeasured=cause)
            return None
        self._deaths += 1
        if len(self._asked) > 1 and self._deaths < DEATHS_IN_A_ROW:
            self._suspects = frozenset(each.sample for each in self._asked)
            self._asked.clear()
            return None
        while self._asked:
            self._books.recorder.take(self._asked.popleft(), Failure(cause))
        self._books.recorder.write(most_waiting=0)
        if self._deaths < DEATHS_IN_A_ROW:
            return None
        return f"{cause}, {self._deaths} times in a row"

    def _tell(self) -> None:
        count = self._setting.source.count
        self._progress(self._order.name, min(len(self._opened().ledger.done), count), count)

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
    known: frozenset[str]
    """Ids of samples that were done before."""

    @property
    def summary(self) -> Path:
        path = self.ledger.path
        return path.with_name(path.stem + SUMMARY_SUFFIX)

    def reliance_known(self, setting: Setting) -> bool:
        """Whether the last pass measured it on as many samples, and nothing was asked since."""
        facts = self._earlier().get("passes", {}).get(setting.source.name, {})
        wanted = setting.plan.reliance_samples
        return facts.get("reliance_samples") == wanted and bool(facts.get("reliance"))

    def write_summary(
        self, setting: Setting, finished: Finished | None, reliance: RelianceFound | None
    ) -> None:
        """Facts of the pass, and means by split."""
        passes = dict(self._earlier().get("passes", {}))
        split = setting.source.name
        if finished is not None:
            earlier = passes.get(split, {})
            passes[split] = _pass_facts(finished, earlier) | _reliance_facts(
                reliance, setting.plan.reliance_samples, earlier
            )
        found = collect(read_records(self.ledger.path), self.system.engine)
        write_summary(
            self.summary,
            {"engine": self.system.engine, "system": self.system.model_dump(), "passes": passes},
            {name: each.summary() for name, each in found.items()},
        )

    def _earlier(self) -> dict[str, Any]:
        """The summary that stands there, if it is of the same system."""
        found = read_summary(self.summary)
        return found if found.get("system") == self.system.model_dump() else {}


def _open_books(
    order: SystemOrder,
    setting: Setting,
    pool: MetricPool,
    ready: Ready,
    on_record: Callable[[], None],
) -> _Books:
    plan, split = setting.plan, setting.source.name
    system = order.identity(
        ready.version,
        max_new_tokens=plan.max_new_tokens,
        seed=setting.seed,
        served=ready.served,
    )
    wants_loss = plan.scored and ready.can_score
    ledger = Ledger(setting.folder, system, split, wants_loss=wants_loss)
    recorder = Recorder(ledger, system, split, pool, on_record)
    return _Books(system, ledger, recorder, frozenset(ledger.done))


def _pass_facts(finished: Finished, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Of all that was asked of this system, in however many goes."""
    before, busy = int(earlier.get("asked") or 0), earlier.get("busy")
    if finished.busy is None:
        return {name: earlier.get(name) for name in ("asked", "busy", "peak_memory_mib")}
    asked = before + finished.asked
    share = ((busy or 0.0) * before + finished.busy * finished.asked) / asked
    peak = max(finished.peak_memory_mib, earlier.get("peak_memory_mib") or 0.0)
    return {"asked": asked, "busy": share, "peak_memory_mib": peak}


def _reliance_facts(
    found: RelianceFound | None, samples: int, earlier: Mapping[str, Any]
) -> dict[str, Any]:
    """What was found now, or stands there from before."""
    if found is None or not (found.metrics or found.unmeasured):
        names = ("reliance", "reliance_samples", "reliance_unmeasured")
        return {name: earlier.get(name) for name in names}
    return {
        "reliance": dict(found.metrics),
        "reliance_samples": samples,
        "reliance_unmeasured": found.unmeasured,
    }
