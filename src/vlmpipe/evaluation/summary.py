"""What one engine's records of one split come to: means with intervals, counts, speed."""

from __future__ import annotations

import json
import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vlmpipe.evaluation.records import Record
from vlmpipe.evaluation.statistics import (
    Interval,
    Paired,
    compare_paired,
    mean_interval,
    ratio_interval,
)
from vlmpipe.tasks import task_of

SUMMARY_SUFFIX = ".summary.json"


@dataclass(frozen=True)
class Figure:
    """A mean over samples."""

    value: float
    interval: Interval | None
    samples: int


@dataclass(frozen=True)
class SplitSummary:
    """One engine on one split."""

    engine: str
    split: str
    primary_metric: str
    """Of the task that most samples are of."""

    answered: int
    failed: int
    unmeasured: int
    cut: int
    metrics: Mapping[str, Figure]
    """Task metrics; `loss` (token mean, nats), `perplexity` and `token_accuracy` where the engine
    was teacher-forced."""

    latency_s: Mapping[str, float]
    """`mean`, `median` and `p95` of whole requests, `first_token` the median until the first
    token."""

    tokens_per_second: float
    """After each first token, over all answers."""


@dataclass
class Values:
    """Per-sample values of one engine on one split: numbers alone, no texts."""

    engine: str
    split: str
    keys: list[str] = field(default_factory=list)
    """Ids of answered samples, in the order of the file."""

    metrics: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    """Metric to value by sample id."""

    losses: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Loss and tokens by sample id."""

    accuracies: dict[str, float] = field(default_factory=dict)
    seconds: array[float] = field(default_factory=lambda: array("d"))
    first: array[float] = field(default_factory=lambda: array("d"))
    tokens: int = 0
    tasks: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    failed: int = 0
    unmeasured: int = 0
    cut: int = 0

    def add(self, record: Record) -> None:
        """Count one record."""
        self.tasks[record.task] += 1
        if record.status == "failed":
            self.failed += 1
            return
        self.keys.append(record.sample)
        self.unmeasured += record.unmeasured is not None
        self.cut += record.cut
        self.seconds.append(record.seconds)
        self.first.append(record.first_token_seconds)
        self.tokens += max(record.completion_tokens - 1, 0)
        for name, value in record.metrics.items():
            self.metrics[name][record.sample] = value
        if record.loss is not None and record.reference_tokens:
            self.losses[record.sample] = record.loss, record.reference_tokens
        if record.token_accuracy is not None:
            self.accuracies[record.sample] = record.token_accuracy

    @property
    def primary_metric(self) -> str:
        """Of the task that most samples are of."""
        if not self.tasks:
            return ""
        return task_of(max(self.tasks, key=self.tasks.__getitem__)).primary_metric

    def summary(self) -> SplitSummary:
        """All of it as means."""
        spent = sum(self.seconds) - sum(self.first)
        return SplitSummary(
            engine=self.engine,
            split=self.split,
            primary_metric=self.primary_metric,
            answered=len(self.keys),
            failed=self.failed,
            unmeasured=self.unmeasured,
            cut=self.cut,
            metrics=self._figures(),
            latency_s=self._latency(),
            tokens_per_second=self.tokens / spent if spent > 0 else 0.0,
        )

    def paired_with(self, other: Values, metric: str) -> Paired:
        """This engine minus the other on one metric, over samples that both have it for."""
        mine, theirs = self.metrics.get(metric, {}), other.metrics.get(metric, {})
        common = [key for key in mine if key in theirs]
        return compare_paired([theirs[key] for key in common], [mine[key] for key in common])

    def _figures(self) -> dict[str, Figure]:
        found = {name: _mean_figure(values.values()) for name, values in self.metrics.items()}
        if self.losses:
            found |= _loss_figures(list(self.losses.values()))
        if self.accuracies:
            found["token_accuracy"] = self._token_accuracy()
        return found

    def _token_accuracy(self) -> Figure:
        """Over all tokens, as the loss is."""
        counts = [float(self.losses[key][1]) for key in self.accuracies]
        right = [rate * count for rate, count in zip(self.accuracies.values(), counts, strict=True)]
        return Figure(sum(right) / sum(counts), ratio_interval(right, counts), len(counts))

    def _latency(self) -> dict[str, float]:
        if not self.seconds:
            return {}
        return {
            "mean": float(np.mean(self.seconds)),
            "median": float(np.median(self.seconds)),
            "p95": float(np.quantile(self.seconds, 0.95)),
            "first_token": float(np.median(self.first)),
        }


def collect(records: Iterable[Record], engine: str) -> dict[str, Values]:
    """Values by split, from records read one by one."""
    found: dict[str, Values] = {}
    for record in records:
        if record.split not in found:
            found[record.split] = Values(engine, record.split)
        found[record.split].add(record)
    return found


def write_summary(path: Path, facts: Mapping[str, Any], splits: Mapping[str, SplitSummary]) -> None:
    """Write `<engine>.summary.json` beside the records: facts of the pass, means by split."""
    from vlmpipe.pipeline.files import write_json

    write_json(path, {**facts, "splits": {name: asdict(found) for name, found in splits.items()}})


def read_summary(path: Path) -> dict[str, Any]:
    """The file as it was written; empty where it is absent or unreadable."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _mean_figure(values: Iterable[float]) -> Figure:
    data = list(values)
    return Figure(sum(data) / len(data), mean_interval(data), len(data))


def _loss_figures(pairs: list[tuple[float, int]]) -> dict[str, Figure]:
    totals = [loss * tokens for loss, tokens in pairs]
    weights = [float(tokens) for _, tokens in pairs]
    loss = Figure(sum(totals) / sum(weights), ratio_interval(totals, weights), len(pairs))
    return {"loss": loss, "perplexity": _through(perplexity_of, loss)}


def _through(function: Callable[[float], float], figure: Figure) -> Figure:
    """A figure under an increasing function, its interval too."""
    found = figure.interval
    interval = Interval(function(found.low), function(found.high)) if found else None
    return Figure(function(figure.value), interval, figure.samples)


def perplexity_of(loss: float) -> float:
    """exp(loss); beyond what a float holds, its largest value."""
    return math.exp(min(loss, 700.0))
