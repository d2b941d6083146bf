"""A comparison as figures: means of each split and model, their intervals, base against tuned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmpipe.evaluation.records import Record
from vlmpipe.evaluation.statistics import Interval, Paired, compare_paired, mean_interval
from vlmpipe.evaluation.summary import collect
from vlmpipe.evaluation.validation.comparison import BASE, TUNED, Comparison


@dataclass(frozen=True)
class Figures:
    """Flat, by `split/metric/model`; pairs by `split/metric`."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    paired: Mapping[str, Paired] = field(default_factory=dict)

    def __or__(self, other: Figures) -> Figures:
        return Figures(
            {**self.metrics, **other.metrics},
            {**self.intervals, **other.intervals},
            {**self.paired, **other.paired},
        )


def figures_of(comparison: Comparison) -> Figures:
    """Everything that the answers and the image reliance of both models come to."""
    found = Figures()
    for model, records in comparison.records.items():
        for split in dict.fromkeys(record.split for record in records):
            found |= _split_figures(comparison.of(split, model), split, model)
        if model in comparison.reliance:
            found |= _reliance_figures(comparison, model)
        found |= _speed(records, model)
    splits = dict.fromkeys(r.split for own in comparison.records.values() for r in own)
    for split in splits:
        base, tuned = comparison.of(split, BASE), comparison.of(split, TUNED)
        found |= Figures(paired={f"{split}/{n}": p for n, p in paired(base, tuned).items()})
    return found


def paired(first: Sequence[Record], second: Sequence[Record]) -> dict[str, Paired]:
    """Second minus first for every metric, over samples that both have it for.

    A loss here is the mean of the samples' own, each counting once; that of `metrics` is the mean
    of all tokens.
    """
    before = {record.key: values_of(record) for record in first}
    after = {record.key: values_of(record) for record in second}
    common = [key for key in before if key in after]
    names = dict.fromkeys(name for key in common for name in before[key])
    found = {}
    for name in names:
        keys = [key for key in common if name in before[key] and name in after[key]]
        if keys:
            values = [[each[key][name] for key in keys] for each in (before, after)]
            found[name] = compare_paired(*values)
    return found


def paired_json(pairs: Mapping[str, Paired]) -> dict[str, dict[str, Any]]:
    """As results.json holds them."""
    return {
        name: {
            "samples": each.samples,
            "difference": each.difference,
            "interval": interval_json(each.interval),
            "p_value": each.p_value,
            "significant": each.significant,
        }
        for name, each in pairs.items()
        if math.isfinite(each.difference)
    }


def interval_json(interval: Interval | None) -> list[float] | None:
    """`[low, high]`."""
    return None if interval is None else [interval.low, interval.high]


def values_of(record: Record) -> dict[str, float]:
    """Everything that one record measures, by the name of the metric."""
    found = dict(record.metrics)
    if record.loss is not None:
        found["loss"] = record.loss
    if record.token_accuracy is not None:
        found["token_accuracy"] = record.token_accuracy
    return found


def _split_figures(records: Sequence[Record], split: str, model: str) -> Figures:
    summary = collect(records, model)[split].summary()
    values = {name: figure.value for name, figure in summary.metrics.items()}
    intervals = {name: figure.interval for name, figure in summary.metrics.items()}
    cut = [float(record.cut) for record in records]
    values["cut"], intervals["cut"] = sum(cut) / len(cut), mean_interval(cut)
    return Figures(
        {f"{split}/{name}/{model}": value for name, value in values.items()},
        {f"{split}/{name}/{model}": each for name, each in intervals.items() if each is not None},
    )


def _reliance_figures(comparison: Comparison, model: str) -> Figures:
    reliance = comparison.reliance[model]
    return Figures(
        reliance.as_metrics(comparison.primary_metric, model),
        {f"reliance/{name}/{model}": each for name, each in reliance.gain_intervals.items()},
    )


def _speed(records: Sequence[Record], model: str) -> Figures:
    """Seconds of a whole request; tokens a second after each first token, 0 where there is none."""
    tokens = sum(max(record.completion_tokens - 1, 0) for record in records)
    spent = sum(record.seconds - record.first_token_seconds for record in records)
    seconds = [record.seconds for record in records]
    name = f"speed/seconds_per_answer/{model}"
    interval = mean_interval(seconds)
    return Figures(
        {
            f"speed/tokens_per_second/{model}": tokens / spent if spent > 0 else 0.0,
            name: sum(seconds) / len(seconds) if seconds else 0.0,
        },
        {name: interval} if interval is not None else {},
    )
