"""How sure a mean is, and whether two systems really differ.

Bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap (1993), BCa intervals, samples
drawn with replacement. Paired permutation test: each sample's two values change places by lot;
Koehn (EMNLP 2004) and Dror et al. (ACL 2018) describe both for language systems.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 5000
SEED = 20
"""The same values give the same interval, whoever asks."""

ROWS_AT_ONCE = 250
"""Resamples held in memory at once, so that thousands of samples take megabytes."""


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Second system minus first, over samples that both answered."""

    samples: int
    difference: float
    """Mean of second minus first."""

    interval: Interval | None
    p_value: float | None
    """Two-sided: how often a difference this large comes from a lot; None below two samples."""

    @property
    def significant(self) -> bool:
        """Whether the difference is told apart from chance at 5 %."""
        return self.p_value is not None and self.p_value < 1 - CONFIDENCE


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Where the mean of these per-sample values lies with 95 % confidence; None below two.

    Where all values are equal, the interval is that value alone: resampling knows no others.
    """
    data = np.asarray(values, dtype=np.float64)
    if len(data) < 2 or not np.isfinite(data).all():
        return None
    if np.ptp(data) == 0:
        return Interval(float(data[0]), float(data[0]))
    return _bootstrap(data)


def ratio_interval(totals: Sequence[float], weights: Sequence[float]) -> Interval | None:
    """The same for sum(totals) / sum(weights), such as a loss over all tokens; whole samples are
    drawn, since the tokens of one answer are not independent.
    """
    pairs = np.asarray([totals, weights], dtype=np.float64)
    if pairs.shape[1] < 2 or not np.isfinite(pairs).all() or pairs[1].sum() <= 0:
        return None
    generator = np.random.default_rng(SEED)
    count = pairs.shape[1]
    found = []
    for _ in range(RESAMPLES // ROWS_AT_ONCE):
        drawn = pairs[:, generator.integers(0, count, (ROWS_AT_ONCE, count))].sum(axis=-1)
        found.append(drawn[0] / np.where(drawn[1] > 0, drawn[1], np.nan))
    low, high = np.nanquantile(np.concatenate(found), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def compare_paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Second minus first, value by value of the same samples.

    Raises:
        ValueError: for sequences of different lengths.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values cannot be paired with {len(second)}")
    differences = np.subtract(
        np.asarray(second, dtype=np.float64), np.asarray(first, dtype=np.float64)
    )
    if len(differences) == 0:
        return Paired(0, math.nan, None, None)
    return Paired(
        samples=len(differences),
        difference=float(differences.mean()),
        interval=mean_interval(list(differences)),
        p_value=_permutation_p(differences) if len(differences) > 1 else None,
    )


def _bootstrap(data: np.ndarray) -> Interval:
    from scipy import stats

    with warnings.catch_warnings():
        # A degenerate acceleration is met below with the percentile interval.
        warnings.simplefilter("ignore")
        for method in ("BCa", "percentile"):
            found = stats.bootstrap(
                (data,),
                np.mean,
                confidence_level=CONFIDENCE,
                n_resamples=RESAMPLES,
                batch=ROWS_AT_ONCE,
                method=method,
                rng=np.random.default_rng(SEED),
            ).confidence_interval
            if math.isfinite(found.low) and math.isfinite(found.high):
                break
    return Interval(float(found.low), float(found.high))


def _permutation_p(differences: np.ndarray) -> float:
    """Exact for few samples, by lot for many; 1.0 where nothing differs."""
    from scipy import stats

    if not np.isfinite(differences).all():
        return math.nan
    if not differences.any():
        return 1.0
    found = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=ROWS_AT_ONCE,
        alternative="two-sided",
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)
