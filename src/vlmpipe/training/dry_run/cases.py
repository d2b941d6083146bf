"""What there is to try in a phase: its micro-batches, and how much each puts on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vlmpipe.encoding.images import ImageGrid
from vlmpipe.training.batching.lengths import SampleLengths
from vlmpipe.training.batching.plan import BatchRule
from vlmpipe.training.batching.rows import Batch, Row
from vlmpipe.training.curriculum import Phase


@dataclass(frozen=True)
class Load:
    """What a micro-batch puts on the device."""

    samples: int
    places: int
    """Tokens that go through the model, padding included."""

    image_tokens: int


@dataclass(frozen=True)
class PhaseCase:
    """One phase as it will be trained."""

    phase: Phase
    batches: Sequence[Batch]
    """Of its plan, those of all processes."""

    rule: BatchRule
    lengths: SampleLengths
    collate: Callable[[Batch], dict[str, Any]]
    """Rows of the plan, in any company, to a batch as the model takes it."""

    step: Callable[[dict[str, Any]], None]
    """Forward and backward of the phase on one batch, without an update."""

    enter: Callable[[], None] = lambda: None
    """Opens the parts that the phase trains; called before its steps."""

    def load_of(self, batch: Batch) -> Load:
        """Load of a micro-batch at the phase's image size."""
        return self.load_at([row.sample for row in batch], self.phase.grid)

    def load_at(self, samples: Sequence[int], grid: ImageGrid) -> Load:
        """Load of these samples together at an image size."""
        tokens = [self.lengths.tokens(sample, grid) for sample in samples]
        places = sum(tokens) if self.rule.packed else len(tokens) * max(tokens)
        images = sum(self.lengths.image_tokens(sample, grid) for sample in samples)
        return Load(len(samples), places, images)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """One row of the plan for each sample in it, the shortest sample first."""
        found = {row.sample: row for batch in self.batches for row in batch if not row.muted}
        return tuple(sorted(found.values(), key=lambda row: self.load_of((row,)).places))

    def worst(self) -> list[Batch]:
        """The micro-batch of most places and, where it is another, that of most image tokens."""
        largest = max(self.batches, key=lambda batch: self.load_of(batch).places)
        fullest = max(self.batches, key=lambda batch: self.load_of(batch).image_tokens)
        more = self.load_of(fullest).image_tokens > self.load_of(largest).image_tokens
        return [largest, fullest] if more else [largest]

    def batch_within(self, places: float) -> Batch:
        """Samples of the phase that together come near to so many places, and not above.

        One sample by itself where it is nearly that long, else one several times over; the shortest
        alone where even that is longer.
        """
        fitting = [row for row in self.rows if self.load_of((row,)).places <= places]
        if not fitting:
            return self.rows[:1]
        longest = fitting[-1]
        return (longest,) * int(places // self.load_of((longest,)).places)
