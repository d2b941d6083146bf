"""Every micro-batch of a phase, planned before its first step."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from vlmpipe.training.batching.grouping import Entry, grouped_by_budget
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
    batches: int
    tokens: int
    """Of samples, over all passes."""

    places: int
    """Tokens that go through the model: samples, padding and muted rows."""

    fill: float | None
    """Mean share of the token budget that samples take, over the batches within the budget; None
    for batches by number of samples."""

    oversized: int
    """Samples, over all passes, that are longer than the budget: each goes alone."""

    longest: int
    """Places of the largest micro-batch."""

    @property
    def padding_share(self) -> float:
        """Share of the places that padding and muted rows take."""
        return 1 - self.tokens / self.places if self.places else 0.0

    @property
    def samples_per_batch(self) -> float:
        """Mean over the micro-batches."""
        return self.samples / self.batches if self.batches else 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        shares = {
            "padding_share": self.padding_share,
            "samples_per_batch": self.samples_per_batch,
        }
        return asdict(self) | shares


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
    twice is seen twice in a pass. Of a last pass that is not whole, a random part is seen. Every
    process plans the same: nothing but the arguments decides.

    Raises:
        ValueError: without samples, or unless exactly one of `steps` and `epochs` is given.
    """
    if not indices:
        raise ValueError("a phase without samples cannot be planned")
    if (steps is None) == (epochs is None):
        raise ValueError(f"one of steps and epochs is needed: steps={steps}, epochs={epochs}")
    entries = [Entry(*each) for each in zip(indices, tokens, aspects, strict=True)]
    to_a_step = accumulation * processes
    drawn = _draw(entries, rule, seed, epochs)
    wanted = None if steps is None else steps * to_a_step
    groups = list(islice(drawn, wanted))
    missing = -len(groups) % to_a_step
    shortest = min(entries, key=lambda entry: entry.tokens)
    groups += [[(shortest, -1)]] * missing
    batches = tuple(tuple(_row(entry, epoch) for entry, epoch in group) for group in groups)
    return BatchPlan(
        batches=batches,
        accumulation=accumulation,
        processes=processes,
        largest=max(range(len(groups)), key=lambda number: _places(groups[number], rule)),
        figures=_figures(groups, rule),
    )


Group = list[tuple[Entry, int]]
"""Entries of a micro-batch, each with its pass; -1: muted."""


def _row(entry: Entry, epoch: int) -> Row:
    return Row(entry.sample, max(epoch, 0), muted=epoch < 0)


def _draw(
    entries: Sequence[Entry], rule: BatchRule, seed: int, epochs: float | None
) -> Iterator[Group]:
    """Micro-batches without end, or of `epochs` passes."""
    if rule.batch_tokens is None:
        yield from _by_number(_stream(entries, seed, epochs), rule.batch_size)
        return
    for epoch, order in _passes(entries, seed, epochs):
        rng = _generator(seed, epoch, "batches")
        batches = grouped_by_budget(order, rule.batch_tokens, packed=rule.packed)
        rng.shuffle(batches)
        for batch in batches:
            yield [(entry, epoch) for entry in batch]


def _passes(
    entries: Sequence[Entry], seed: int, epochs: float | None
) -> Iterator[tuple[int, list[Entry]]]:
    """Each pass's number and its entries in a random order of its own."""
    left = math.inf if epochs is None else max(1, round(epochs * len(entries)))
    epoch = 0
    while left > 0:
        order = list(entries)
        _generator(seed, epoch, "samples").shuffle(order)
        yield epoch, order[: int(min(left, len(order)))]
        left -= len(order)
        epoch += 1


def _generator(seed: int, epoch: int, purpose: str) -> random.Random:
    # Seeded with text, which Python hashes by SHA-512: near seeds draw unlike orders.
    return random.Random(f"{seed}/{epoch}/{purpose}")


def _stream(
    entries: Sequence[Entry], seed: int, epochs: float | None
) -> Iterator[tuple[Entry, int]]:
    for epoch, order in _passes(entries, seed, epochs):
        for entry in order:
            yield entry, epoch


def _by_number(stream: Iterator[tuple[Entry, int]], batch_size: int) -> Iterator[Group]:
    """Unsorted, across the ends of passes: every step is a random draw of the same size."""
    while batch := list(islice(stream, batch_size)):
        yield batch


def _places(group: Group, rule: BatchRule) -> int:
    lengths = [entry.tokens for entry, _ in group]
    return sum(lengths) if rule.packed else len(lengths) * max(lengths)


def _figures(groups: Sequence[Group], rule: BatchRule) -> PlanFigures:
    seen = [(entry, epoch) for group in groups for entry, epoch in group if epoch >= 0]
    budget = rule.batch_tokens
    return PlanFigures(
        samples=len(seen),
        muted=sum(len(group) for group in groups) - len(seen),
        passes=1 + max((epoch for _, epoch in seen), default=-1),
        batches=len(groups),
        tokens=sum(entry.tokens for entry, _ in seen),
        places=sum(_places(group, rule) for group in groups),
        fill=None if budget is None else _fill(groups, budget),
        oversized=0 if budget is None else sum(entry.tokens > budget for entry, _ in seen),
        longest=max(_places(group, rule) for group in groups),
    )


def _fill(groups: Sequence[Group], budget: int) -> float:
    """Over batches of real samples that the budget holds."""
    sums = [sum(entry.tokens for entry, _ in group) for group in groups if group[0][1] >= 0]
    held = [total / budget for total in sums if total <= budget]
    return sum(held) / len(held) if held else 1.0
