"""Outcomes become records: measured beside the engine, written in the order in which they came."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from vlmpipe.engines.base import Completion, Failure, Score
from vlmpipe.evaluation.answers import answered_fields, scored_fields, writable
from vlmpipe.evaluation.measuring import Measured, MetricPool
from vlmpipe.evaluation.records import Record, System
from vlmpipe.evaluation.side_by_side.child import Asked
from vlmpipe.evaluation.side_by_side.ledger import Ledger

UNMEASURED_AT_ONCE = 64
"""Answers that wait for their metrics before the engine has to: their texts are held meanwhile."""


class Recorder:
    """Takes outcomes of one system on one split."""

    def __init__(
        self,
        ledger: Ledger,
        system: System,
        split: str,
        pool: MetricPool,
        on_record: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._system = system
        self._split = split
        self._pool = pool
        self._on_record = on_record
        self._waiting: deque[tuple[Record, Future[dict[str, float]] | None]] = deque()
        self.written = 0
        self.failed = 0
        self.first_error: str | None = None

    def take(
        self, asked: Asked, completion: Completion | Failure, score: Score | Failure | None = None
    ) -> None:
        """An outcome; blocks where too many wait to be measured."""
        record = self._record(asked, completion, score)
        future = None
        if isinstance(completion, Completion):
            future = self._pool.submit(record.task, record.prediction, record.reference)
        self._waiting.append((record, future))
        self.write(most_waiting=UNMEASURED_AT_ONCE)

    def write(self, *, most_waiting: int) -> None:
        """Write what is measured; wait while more than `most_waiting` are not."""
        while self._waiting:
            record, future = self._waiting[0]
            if future and not future.done() and len(self._waiting) <= most_waiting:
                return
            self._waiting.popleft()
            if future:
                record = _with_metrics(record, self._pool.measured(record.task, future))
            self._ledger.add(record)
            self.written += 1
            self.failed += record.status == "failed"
            self.first_error = self.first_error or record.error
            self._on_record()

    def _record(
        self, asked: Asked, completion: Completion | Failure, score: Score | Failure | None
    ) -> Record:
        known = self._system.model_dump() | {
            "sample": asked.sample,
            "split": self._split,
            "inputs": asked.inputs,
            "task": asked.task,
            "prompt": writable(asked.prompt),
            "reference": writable(asked.reference),
        }
        if isinstance(completion, Failure):
            return Record(**known, status="failed", error=writable(completion.message))
        found = answered_fields(completion) | scored_fields(score)
        return Record(**known, status="answered", **found)


def _with_metrics(record: Record, measured: Measured) -> Record:
    metrics = {name: value for name, value in measured.metrics.items() if math.isfinite(value)}
    return record.model_copy(update={"metrics": metrics, "unmeasured": measured.unmeasured})
