"""Steps of a few sizes, measured until it is known what fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmpipe.config.train import TrainConfig
from vlmpipe.training.batching.rows import Batch
from vlmpipe.training.dry_run.cases import Load, PhaseCase
from vlmpipe.training.dry_run.fit import MemoryFit, Trial, fit_memory
from vlmpipe.training.dry_run.memory import Room, optimizer_bytes
from vlmpipe.training.dry_run.proposals import image_share
from vlmpipe.training.dry_run.trying import try_batch

MARGIN = 0.1
"""Share of the free memory that a proposal leaves alone: allocators fragment, and the line through
a few steps is not the step itself."""

FORESEEN_MARGIN = 0.05
"""The same where a batch is tried or not by the line alone: less than a proposal leaves, so that
what was proposed is never refused for a rounding."""

MOST_TRIALS = 8
NEAR = 0.9
"""A proposal is measured unless a step nearly as large was."""


@dataclass
class Measuring:
    """The steps of one phase that were tried, and those that were too much."""

    case: PhaseCase
    model: Any
    config: TrainConfig
    device: Any
    room: Room
    reserve_bytes: int = 0
    """Kept for the optimiser's state."""

    trials: list[Trial] = field(default_factory=list)
    too_much: list[Load] = field(default_factory=list)

    def enter(self) -> None:
        """Make the model train what the phase trains."""
        self.case.enter()
        self.reserve_bytes = optimizer_bytes(self.model, self.config)

    @property
    def limit(self) -> float:
        """Bytes that a proposal may take."""
        return self._within(MARGIN)

    def _within(self, margin: float) -> float:
        return self.room() * (1 - margin) - self.reserve_bytes

    def fits(self, batch: Batch) -> bool:
        """Try a micro-batch: whether it fits, beside what is kept for the optimiser."""
        found = try_batch(self.case, batch, self.model, self.device)
        if found is not None:
            self.trials.append(found)
        if found is None or found.peak_bytes + self.reserve_bytes > self.room():
            self.too_much.append(self.case.load_of(batch))
            return False
        return True

    def foresees(self, batch: Batch) -> bool:
        """Whether a micro-batch will fit, from smaller ones: where a machine's own memory runs out
        nothing is raised, the process is killed.
        """
        case, load = self.case, self.case.load_of(batch)
        if not self.trials and not self.fits(case.rows[:1]):
            return False
        # Nothing in a step grows faster than attention's scores, which are quadratic.
        smallest = self.trials[0]
        steepest = smallest.peak_bytes * (load.places / smallest.load.places) ** 2
        if steepest <= self._within(FORESEEN_MARGIN):
            return True
        self._try_within(math.sqrt(smallest.load.places * load.places))
        fit = fit_memory(self.trials)
        while fit is not None and fit.predict(load) > self._within(FORESEEN_MARGIN):
            # A line through small steps overstates large ones: nearer ones, which fit by it, tell.
            if self._tried >= MOST_TRIALS or not self._try_within(self._proposed(fit)):
                return False
            fit = fit_memory(self.trials)
        return load.places < self._ceiling

    def fit(self, others: Sequence[Trial] = ()) -> MemoryFit | None:
        """The line through what was measured, closer and closer to what just fits.

        `others` are trials of other phases that train the same parts.
        """
        if not self.trials and not self.fits(self.case.rows[:1]):
            return fit_memory(others)
        while self._tried < MOST_TRIALS:
            found = fit_memory([*self.trials, *others])
            places = self._between() if found is None else self._proposed(found)
            if not self._try_within(places):
                break
        return fit_memory([*self.trials, *others])

    @property
    def _tried(self) -> int:
        return len(self.trials) + len(self.too_much)

    @property
    def _ceiling(self) -> float:
        """Places of the smallest batch that was too much."""
        return min((load.places for load in self.too_much), default=math.inf)

    def _between(self) -> float:
        """Half way, in ratio, from what fits to what does not."""
        return math.sqrt(max(trial.load.places for trial in self.trials) * self._ceiling)

    def _proposed(self, fit: MemoryFit) -> float:
        share = image_share(self.case, self.case.phase.grid)
        return min(fit.places_within(self.limit, share), self._ceiling - 1)

    def _try_within(self, places: float) -> bool:
        """Try the phase's own samples at about that size; False where that tells nothing new."""
        load = self.case.load_of(batch := self.case.batch_within(places))
        known = [trial.load.places for trial in self.trials]
        too_much = [each.places for each in self.too_much]
        if any(load.places >= each for each in too_much):
            return False
        if any(NEAR * load.places <= each <= load.places / NEAR for each in known):
            return False
        self.fits(batch)
        return True
