"""Over-fit: how much better the tuned model does what it was trained on.

The gap itself is judged, not the end of its interval: on few samples an interval reaches below any
limit, and a gate that opens the wider the less was asked would be no gate. What the interval says
stands in the sentence.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmpipe.evaluation.statistics import CONFIDENCE, RESAMPLES, ROWS_AT_ONCE, SEED, Interval
from vlmpipe.evaluation.validation.comparison import HELDOUT, TRAIN, TUNED, Comparison
from vlmpipe.tasks import task_of


@dataclass(frozen=True)
class Gap:
    """Primary metric of the tuned model on training probes minus held-out samples of one task."""

    metric: str
    train: float
    heldout: float
    train_samples: int
    heldout_samples: int
    interval: Interval | None
    """None where either has fewer than two samples."""

    @property
    def value(self) -> float:
        """Training probes minus held-out samples."""
        return self.train - self.heldout

    @property
    def counts(self) -> str:
        """`5 and 3 samples`."""
        return f"{self.train_samples} and {self.heldout_samples} samples"


def overfit_gaps(comparison: Comparison) -> dict[str, Gap | None]:
    """The gap of each task that was asked, in its own primary metric; None where a side was not
    measured.
    """
    return {task: _gap(comparison, task) for task in comparison.tasks}


def _gap(comparison: Comparison, task: str) -> Gap | None:
    metric = task_of(task).primary_metric
    train, heldout = (
        [
            record.metrics[metric]
            for record in comparison.of(split, TUNED, task)
            if metric in record.metrics
        ]
        for split in (TRAIN, HELDOUT)
    )
    if not train or not heldout:
        return None
    return Gap(
        metric=metric,
        train=float(np.mean(train)),
        heldout=float(np.mean(heldout)),
        train_samples=len(train),
        heldout_samples=len(heldout),
        interval=difference_interval(train, heldout),
    )


def difference_interval(first: Sequence[float], second: Sequence[float]) -> Interval | None:
    """Where mean(first) - mean(second) of two independent samples lies with 95 % confidence.

    Both are resampled by themselves (Efron and Tibshirani 1993, chapter 8). None where either has
    fewer than two values.
    """
    if min(len(first), len(second)) < 2:
        return None
    from scipy import stats

    with warnings.catch_warnings():
        # A degenerate acceleration is met below with the percentile interval.
        warnings.simplefilter("ignore")
        for method in ("BCa", "percentile"):
            found = stats.bootstrap(
                (np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)),
                lambda a, b, axis: np.mean(a, axis=axis) - np.mean(b, axis=axis),
                confidence_level=CONFIDENCE,
                n_resamples=RESAMPLES,
                batch=ROWS_AT_ONCE,
                method=method,
                vectorized=True,
                rng=np.random.default_rng(SEED),
            ).confidence_interval
            if math.isfinite(found.low) and math.isfinite(found.high):
                break
    return Interval(float(found.low), float(found.high))
