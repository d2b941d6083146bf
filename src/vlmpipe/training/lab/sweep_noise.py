"""Which settings of a sweep differ by more than seeds do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlmpipe.training.lab.sweep_rows import TrialRow, is_smaller_better

CONFIDENCE = 0.95


@dataclass(frozen=True)
class SettingMean:
    """One setting over its seeds, against the best one."""

    label: str
    seeds: int
    mean: float
    spread: float | None
    """Standard deviation over seeds; None for one seed."""

    difference: float | None
    """From the best setting, over the seeds that both have; None for the best itself."""

    interval: tuple[float, float] | None
    """95 %, of the difference; None below two shared seeds."""

    @property
    def within_noise(self) -> bool | None:
        """Whether the best setting may be no better; None where that is not known."""
        if self.interval is None:
            return None
        return self.interval[0] <= 0 <= self.interval[1]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"within_noise": self.within_noise}


def over_seeds(rows: Sequence[TrialRow], metric: str) -> list[SettingMean]:
    """Settings by their mean over seeds, best first; those that failed in every seed are left out.

    Differences are paired by seed, since the same seed draws the same data, and their interval is
    Student's; it supposes that differences over seeds are about normal.
    """
    values: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.metric is not None and row.seed is not None:
            values.setdefault(row.label, {})[row.seed] = row.metric
    sign = 1 if is_smaller_better(metric) else -1
    order = sorted(values, key=lambda label: sign * float(np.mean(list(values[label].values()))))
    return [_mean(label, values[label], values[order[0]], label == order[0]) for label in order]


def _mean(label: str, own: dict[int, float], best: dict[int, float], first: bool) -> SettingMean:
    numbers = list(own.values())
    spread = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    shared = [own[seed] - best[seed] for seed in own if seed in best]
    difference = None if first or not shared else float(np.mean(shared))
    interval = None if first else _student(shared)
    return SettingMean(label, len(own), float(np.mean(numbers)), spread, difference, interval)


def _student(differences: Sequence[float]) -> tuple[float, float] | None:
    from scipy import stats

    count = len(differences)
    if count < 2:
        return None
    error = float(np.std(differences, ddof=1)) / math.sqrt(count)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    middle = float(np.mean(differences))
    return middle - reach, middle + reach
