"""Loss spikes, odd gradient norms and plateaus: told, and never a reason to stop.

Spikes are found by median and median absolute deviation (MAD) of the last steps' logarithms: losses
and norms are positive and skewed, a few large ones would drown in their own mean and deviation, and
1.4826 MAD is the standard deviation where the noise is normal (Rousseeuw and Croux 1993,
doi 10.1080/01621459.1993.10476408).
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from vlmpipe.config.train import WatchSection
from vlmpipe.pipeline.events import Reporter
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.watch.rows import append_row, rows_of_phase

WINDOW = 64
LEAST_VALUES = 20
"""With fewer the MAD itself is too uncertain: from 10 on, normal noise alarms two to six times as
often."""

LEAST_SPREAD = 0.05
"""Of the logarithm: less is not told apart, however quiet the last steps were."""

MAD_TO_DEVIATION = 1.4826
TINY = 1e-12


@dataclass(frozen=True)
class Spike:
    """A value far above those before it."""

    value: float
    median: float
    spreads: float
    """How many spreads of the logarithm it lies above the median's."""


@dataclass
class SpikeFinder:
    """Finds the first step of each spike in a series of positive numbers."""

    factor: float
    _logs: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _within: bool = False

    def see(self, value: float) -> Spike | None:
        """The next value; a Spike where one begins."""
        if not math.isfinite(value):
            return None
        seen = math.log(max(value, TINY))
        found = self._spike(value, seen)
        self._logs.append(seen)
        begins, self._within = found is not None and not self._within, found is not None
        return found if begins else None

    def _spike(self, value: float, seen: float) -> Spike | None:
        if len(self._logs) < LEAST_VALUES:
            return None
        median = statistics.median(self._logs)
        deviation = statistics.median(abs(each - median) for each in self._logs)
        spreads = (seen - median) / max(MAD_TO_DEVIATION * deviation, LEAST_SPREAD)
        return Spike(value, math.exp(median), spreads) if spreads > self.factor else None


@dataclass
class PlateauFinder:
    """Finds series of `steps` values whose later half is not lower than the earlier one.

    Lower means by at least one standard error of the difference of the halves' means.
    """

    steps: int
    _values: list[float] = field(default_factory=list)
    _within: bool = False

    def see(self, value: float) -> bool:
        """The next value; true where a plateau becomes known."""
        if not math.isfinite(value):
            return False
        self._values.append(value)
        if len(self._values) < self.steps:
            return False
        flat = not _falls(self._values)
        self._values = []
        begins, self._within = flat and not self._within, flat
        return begins


class AnomalyWatch(TrainerCallback):
    """Tells what is odd about the losses and gradient norms of one phase, once each time."""

    def __init__(
        self,
        phase: Phase,
        settings: WatchSection,
        metrics_path: Path,
        reporter: Reporter,
        *,
        is_main: bool = True,
    ) -> None:
        """Looks at the rows already written first: a resumed phase tells nothing twice."""
        self._phase = phase
        self._path = metrics_path
        self._reporter = reporter
        self._is_main = is_main
        self._spikes = {name: SpikeFinder(settings.spike_factor) for name in ("loss", "grad_norm")}
        self._plateau = PlateauFinder(settings.plateau_steps)
        for row in rows_of_phase(metrics_path, phase):
            self._events(row)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Look at one optimiser step."""
        if not logs or "loss" not in logs:
            return
        step = self._phase.first_step + state.global_step
        for event, figures, note in self._events(logs):
            if self._is_main:
                row = {"step": step, "phase": self._phase.name, "event": event, **figures}
                append_row(self._path, row)
            self._reporter.note(f"step {step}: {note}")

    def _events(self, figures: dict[str, Any]) -> list[tuple[str, dict[str, float], str]]:
        """Name, figures and sentence of each thing that begins with this step."""
        events = []
        for name, finder in self._spikes.items():
            spike = finder.see(float(figures[name])) if figures.get(name) is not None else None
            if spike:
                told = {"value": spike.value, "median": spike.median, "spreads": spike.spreads}
                events.append((f"{name}_spike", told, _sentence(name, spike)))
        if "loss" in figures and self._plateau.see(float(figures["loss"])):
            steps = self._plateau.steps
            note = f"the mean loss did not fall over the last {steps} steps"
            events.append(("plateau", {"steps": float(steps)}, note))
        return events


def _sentence(name: str, spike: Spike) -> str:
    what = {"loss": "the loss", "grad_norm": "the gradient's norm"}[name]
    return (
        f"{what} is {spike.value:.4g}, {spike.spreads:.1f} spreads above the median"
        f" {spike.median:.4g} of the steps before it"
    )


def _falls(values: list[float]) -> bool:
    half = len(values) // 2
    before, after = values[:half], values[half:]
    error = math.sqrt(
        statistics.variance(before) / len(before) + statistics.variance(after) / len(after)
    )
    return statistics.fmean(before) - statistics.fmean(after) > error
