"""How far two judgements agree, with intervals where there are enough of them.

Share: Wilson, Journal of the American Statistical Association 22 (1927). Kappa: Cohen, Educational
and Psychological Measurement 20 (1960), weighted 1968. Spearman's interval: Bonett and Wright,
Psychometrika 65 (2000).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from vlmpipe.evaluation.statistics import CONFIDENCE, SEED, mean_interval, ratio_interval

ENOUGH = 10
"""Pairs below which kappa and Spearman's rho are given without an interval."""

RESAMPLES = 2000
NORMAL_QUANTILE = 1.959964

Weights = Literal["linear"] | None


class Estimate(BaseModel):
    """A figure over `n` cases, with its 95 % interval; None where it is not defined."""

    model_config = ConfigDict(frozen=True)

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """None where there is none, or it is one point: a bootstrap of equal values knows no other,
        and does not say that the figure is certain.
        """
        if self.low is None or self.high is None or self.low == self.high:
            return None
        return self.low, self.high


def share(count: int, n: int) -> Estimate:
    """count / n with Wilson's interval; not defined for n = 0."""
    from scipy import stats

    if n == 0:
        return Estimate(value=None, n=0)
    found = stats.binomtest(count, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(value=count / n, n=n, low=float(found.low), high=float(found.high))


def mean(values: Sequence[float]) -> Estimate:
    """Arithmetic mean with its bootstrap interval; not defined for no values."""
    if not values:
        return Estimate(value=None, n=0)
    found = mean_interval(values)
    low, high = (found.low, found.high) if found else (None, None)
    return Estimate(value=sum(values) / len(values), n=len(values), low=low, high=high)


def share_over_cases(counted: Sequence[tuple[int, int]]) -> Estimate:
    """Sum of counts / sum of totals over cases of (count, total), with a bootstrap over the cases:
    what is counted within one depends on the rest of it. `n` is the cases with a total above 0.
    """
    count, n = sum(each for each, _ in counted), sum(total for _, total in counted)
    if n == 0:
        return Estimate(value=None, n=0)
    found = ratio_interval([each for each, _ in counted], [total for _, total in counted])
    low, high = (found.low, found.high) if found else (None, None)
    return Estimate(value=count / n, n=sum(total > 0 for _, total in counted), low=low, high=high)


def cohens_kappa(
    first: Sequence[str], second: Sequence[str], labels: Sequence[str], weights: Weights = None
) -> Estimate:
    """Agreement beyond chance; not defined where both give one and the same label throughout.

    `labels` in their order: linear weights count how many places two labels lie apart. The interval
    is a percentile bootstrap over the cases.
    """
    from sklearn.metrics import cohen_kappa_score, confusion_matrix

    n = len(first)
    if n == 0:
        return Estimate(value=None, n=0)
    with warnings.catch_warnings():
        # One label alone is what `None` says.
        warnings.simplefilter("ignore")
        value = float(cohen_kappa_score(first, second, labels=list(labels), weights=weights))
        matrix = confusion_matrix(first, second, labels=list(labels))
    low, high = _kappa_interval(matrix, weights) if n >= ENOUGH else (None, None)
    known = math.isfinite(value)
    return Estimate(value=value if known else None, n=n, low=low, high=high)


def spearman(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Rank correlation; not defined where either does not vary."""
    from scipy import stats

    n = len(first)
    if n < 2 or len(set(first)) == 1 or len(set(second)) == 1:
        return Estimate(value=None, n=n)
    value = float(stats.spearmanr(first, second).statistic)
    low, high = _spearman_interval(value, n) if n >= ENOUGH else (None, None)
    return Estimate(value=value, n=n, low=low, high=high)


def kappas_of(matrices: Any, weights: Weights = None) -> Any:
    """Kappa of each confusion matrix in [..., k, k]; NaN where not defined."""
    counts = np.asarray(matrices, dtype=np.float64)
    places = np.arange(counts.shape[-1])
    apart = np.abs(places[:, None] - places[None, :])
    cost = apart if weights == "linear" else (apart > 0)
    total = counts.sum(axis=(-2, -1))
    by_chance = counts.sum(axis=-1)[..., :, None] * counts.sum(axis=-2)[..., None, :]
    expected = (cost * by_chance).sum(axis=(-2, -1)) / total
    seen = (cost * counts).sum(axis=(-2, -1))
    return 1 - np.divide(seen, expected, out=np.full_like(seen, np.nan), where=expected > 0)


def _kappa_interval(matrix: Any, weights: Weights) -> tuple[float | None, float | None]:
    """Drawing n cases with replacement is drawing the counts of the matrix's cells."""
    generator = np.random.default_rng(SEED)
    n = int(matrix.sum())
    drawn = generator.multinomial(n, matrix.ravel() / n, RESAMPLES)
    found = kappas_of(drawn.reshape(RESAMPLES, *matrix.shape), weights)
    defined = found[np.isfinite(found)]
    if len(defined) < RESAMPLES / 2:
        return None, None
    low, high = np.quantile(defined, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _spearman_interval(value: float, n: int) -> tuple[float | None, float | None]:
    if abs(value) >= 1:
        return None, None
    centre = math.atanh(value)
    reach = NORMAL_QUANTILE * math.sqrt((1 + value**2 / 2) / (n - 3))
    return math.tanh(centre - reach), math.tanh(centre + reach)
