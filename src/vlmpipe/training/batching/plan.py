"""Every micro-batch of a phase, planned before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe.training.batching.rows import Batch, Row


@dataclass(frozen=True)
class BatchRule:
    """What goes into a micro-batch: `batch_tokens` where it is set, else `batch_size` samples."""

    batch_size: int = 1
    batch_tokens: int | None = None
    packed: bool = False
    """Samples stand in one row without padding."""


@dataclass(frozen=True)
class PlanFigures:
    """What the batches of a plan hold."""

    samples: int
    """Rows that are not muted, over all passes."""

    muted: int
    passes: int
    tokens: int
    """Of samples, over all passes."""

    places: int
    """Tokens that go through the model, padding included."""

    fill: float | None
    """Share of the token budget that samples take; None for batches by number of samples."""

    oversized: int
    """Samples of a pass that are longer than the budget: each goes alone."""

    longest: int
    """Places of the largest micro-batch."""

    @property
    def padding_share(self) -> float:
        """Share of the places that padding takes."""
        return 1 - self.tokens / self.places if self.places else 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "padding_share": self.padding_share}


@dataclass(frozen=True)
class BatchPlan:
    """Micro-batches of a phase in the order of its steps.

    A step is `accumulation * processes` of them in a row; number m belongs to process
    m % processes.
    """

    batches: tuple[Batch, ...]
    accumulation: int
    processes: int
    largest: int
    """Number of the micro-batch with the most places."""

    figures: PlanFigures

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return len(self.batches) // (self.accumulation * self.processes)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows but the muted ones, in order."""
        return tuple(row for batch in self.batches for row in batch if not row.muted)

    def of_process(self, rank: int) -> tuple[Batch, ...]:
        """The micro-batches of one process, `accumulation` to a step."""
        return self.batches[rank :: self.processes]


def plan_batches(
    indices: Sequence[int],
    tokens: Sequence[int],
    aspects: Sequence[float],
    *,
    rule: BatchRule,
    accumulation: int = 1,
    processes: int = 1,
    seed: int,
    steps: int | None = None,
    epochs: float | None = None,
) -> BatchPlan:
    """Plan a phase of `steps` optimiser steps, or of `epochs` passes over its samples.

    `tokens` and `aspects` (height by width) are parallel to `indices`; an index that stands there
    twice is seen twice in a pass.

    Raises:
        ValueError: without samples, or unless exactly one of `steps` and `epochs` is given.
    """
    raise NotImplementedError
