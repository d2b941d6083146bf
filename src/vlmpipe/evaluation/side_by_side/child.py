"""The process that holds an engine: it asks sample after sample and sends what came of each.

A process of its own, so that a fault in a runtime ends this process and one sample, never the
evaluation; and so that each engine's memory is its own.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.engines.answering import answers
from vlmpipe.engines.base import Completion, Engine, Failure, Score, Served
from vlmpipe.errors import VlmpipeError
from vlmpipe.evaluation.answers import prompt_text
from vlmpipe.evaluation.measuring import MetricPool
from vlmpipe.evaluation.memory import peak_memory_mib, reset_peak_memory
from vlmpipe.evaluation.reliance import measure_reliance, probes_of, why_not_measurable
from vlmpipe.evaluation.sources import SampleSource, inputs_digest
from vlmpipe.evaluation.systems import SystemOrder
from vlmpipe.system.parenthood import die_with_parent
from vlmpipe.tasks import task_of

CANNOT_SCORE = "the engine cannot say how likely a given answer is"


@dataclass(frozen=True)
class Plan:
    """What every sample is asked."""

    max_new_tokens: int
    scored: bool = True
    """Whether references are scored, where the engine can."""

    reliance_samples: int = 0
    """Samples that are asked again with a blank and with another's image."""


@dataclass(frozen=True)
class Ready:
    """The engine is open."""

    version: str
    can_score: bool
    served: Served | None = None
    """What a server says of what it runs."""


@dataclass(frozen=True)
class Work:
    """What is known already, told to the engine's process when it is ready."""

    done: Mapping[str, str]
    """Digest of the inputs by id, of samples that need not be asked."""

    suspects: frozenset[str] = frozenset()
    """Samples that were in flight when the engine died: they are asked first, one at a time."""

    reliance_known: bool = False


@dataclass(frozen=True)
class Asked:
    """The engine is about to be given a sample."""

    sample: str
    inputs: str
    task: str
    prompt: str
    reference: str


@dataclass(frozen=True)
class Outcome:
    """What came of the earliest sample asked that had no outcome yet."""

    completion: Completion | Failure
    score: Score | Failure | None = None
    """A failure says why there is none; None: not asked for."""


@dataclass(frozen=True)
class Alive:
    """A step of what comes after the answers was taken."""


@dataclass(frozen=True)
class Finished:
    """Every sample was asked, or had been before."""

    samples: frozenset[str]
    """Ids of all samples of the source."""

    asked: int
    busy: float | None
    """Share of the time from the first question to the last answer in which the engine worked; None
    where nothing was asked."""

    peak_memory_mib: float


@dataclass(frozen=True)
class RelianceFound:
    """What came of asking with other images; the last message."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """Losses and task metric with true, blank and swapped images, and the gains."""

    unmeasured: str | None = None
    peak_memory_mib: float = 0.0


@dataclass(frozen=True)
class Broken:
    """The engine cannot be opened, or failed in a way that is no sample's own."""

    message: str
    remedies: Sequence[str]
    problems: Sequence[str]


@dataclass(frozen=True)
class Crashed:
    """An exception that nothing expected; the process ends after it."""

    message: str


def hold_engine(
    order: SystemOrder, source: SampleSource, plan: Plan, log: Path, connection: Connection
) -> None:
    """Entry point of the process: open, ask, send; ends when all is asked."""
    die_with_parent()
    _write_to(log)
    reset_peak_memory()
    try:
        with closing(order.open()) as engine:
            connection.send(Ready(engine.version, engine.can_score, _served_by(engine)))
            asking = _Asking(engine, source, plan, connection.recv(), connection)
            connection.send(asking.run())
            connection.send(asking.reliance())
    except VlmpipeError as error:
        connection.send(Broken(error.message, tuple(error.remedies), tuple(error.problems)))
    except BrokenPipeError:
        os._exit(0)
    except Exception as exc:
        connection.send(Crashed(f"{type(exc).__name__}: {str(exc)[:500]}"))
        raise


class _Asking:
    """One pass over the source."""

    def __init__(
        self,
        engine: Engine,
        source: SampleSource,
        plan: Plan,
        work: Work,
        connection: Connection,
    ) -> None:
        self._engine = engine
        self._source = source
        self._plan = plan
        self._work = work
        self._connection = connection
        self._waiting: deque[Sample] = deque()
        self._seen: set[str] = set()
        self._asked = 0
        self._loading_seconds = 0.0
        self._begun: float | None = None
        self._engine_seconds = 0.0

    def run(self) -> Finished:
        """Ask what is not done: suspects one at a time, then the others as the engine likes."""
        if self._work.suspects:
            for sample in self._source:
                if sample.id in self._work.suspects:
                    self._ask(iter([sample]))
        self._ask(iter(self._source))
        ended = time.perf_counter()
        return Finished(
            samples=frozenset(self._seen),
            asked=self._asked,
            busy=self._engine_seconds / (ended - self._begun) if self._begun else None,
            peak_memory_mib=peak_memory_mib(),
        )

    def _ask(self, samples: Iterator[Sample]) -> None:
        found = answers(
            self._engine, self._conversations(samples), max_new_tokens=self._plan.max_new_tokens
        )
        while True:
            begun, loading = time.perf_counter(), self._loading_seconds
            completion = next(found, None)
            if completion is None:
                break
            outcome = Outcome(completion, self._score(self._waiting.popleft(), completion))
            spent = time.perf_counter() - begun - (self._loading_seconds - loading)
            self._engine_seconds += spent
            self._connection.send(outcome)

    def reliance(self) -> RelianceFound:
        """What other images do to losses and answers."""
        metrics, unmeasured = self._reliance()
        return RelianceFound(metrics, unmeasured, peak_memory_mib())

    def _conversations(self, samples: Iterator[Sample]) -> Iterator[Sequence[Message]]:
        begun = time.perf_counter()
        for sample in samples:
            inputs = inputs_digest(sample)
            known = sample.id in self._seen or self._work.done.get(sample.id) == inputs
            self._seen.add(sample.id)
            if known:
                continue
            self._asked += 1
            self._waiting.append(sample)
            prompt = prompt_text(sample.prompt)
            asked = Asked(sample.id, inputs, sample.task, prompt, sample.reference)
            self._connection.send(asked)
            now = time.perf_counter()
            self._loading_seconds += now - begun
            self._begun = self._begun or now
            yield sample.prompt
            begun = time.perf_counter()
        self._loading_seconds += time.perf_counter() - begun

    def _score(self, sample: Sample, completion: Completion | Failure) -> Score | Failure | None:
        if isinstance(completion, Failure) or not self._plan.scored:
            return None
        if not self._engine.can_score:
            return Failure(CANNOT_SCORE)
        try:
            return self._engine.score(sample.prompt, sample.reference)
        except VlmpipeError as error:
            # A reference that does not fit the context, say: the answer stands without its loss.
            return Failure(error.message)

    def _reliance(self) -> tuple[Mapping[str, float], str | None]:
        """Reliance metrics without the engine's name, or why there are none."""
        if not self._plan.reliance_samples or self._work.reliance_known:
            return {}, None
        if not self._engine.can_score:
            return {}, CANNOT_SCORE
        samples = list(islice((s for s in self._source if s.images), self._plan.reliance_samples))
        unmeasured = why_not_measurable(samples)
        if unmeasured:
            return {}, unmeasured
        primary = task_of(samples[0].task).primary_metric
        try:
            with MetricPool(1) as pool:
                measured = measure_reliance(
                    self._engine,
                    probes_of(samples),
                    task_of,
                    primary,
                    max_new_tokens=self._plan.max_new_tokens,
                    measure=pool.measure,
                    on_step=lambda: self._connection.send(Alive()),
                )
        except VlmpipeError as error:
            return {}, error.message
        flat = measured.as_metrics(primary, "")
        return {name.split("/")[1]: value for name, value in flat.items()}, None


def _served_by(engine: Engine) -> Served | None:
    said = getattr(engine, "served", None)
    return Served(str(said.name)) if said and not isinstance(said, Served) else said


def _write_to(log: Path) -> None:
    """What this process and its libraries print belongs into the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
