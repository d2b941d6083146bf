"""Flat metrics and hand-off files as rows that a template can lay out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmpipe.evaluation.statistics import CONFIDENCE
from vlmpipe.tasks.metric_names import smaller_is_better, title_of

Bounds = tuple[float, float]

SPLITS = {"heldout": "held-out samples", "train": "training probes"}
MODELS = ("base", "tuned")
SIGNIFICANT = 1 - CONFIDENCE
CONDITIONS = {"true": "true image", "blank": "blank image", "swapped": "another's image"}


@dataclass(frozen=True)
class MetricRow:
    """One metric of one split, base beside tuned."""

    title: str
    base: float | None
    tuned: float | None
    lower_is_better: bool
    base_interval: Bounds | None = None
    tuned_interval: Bounds | None = None
    difference: float | None = None
    """Tuned minus base over the same samples."""

    difference_interval: Bounds | None = None
    p_value: float | None = None
    primary: bool = False

    @property
    def verdict(self) -> str:
        """`better` or `worse`, of tuned against base; `same` where they are equal, or chance
        explains the difference.
        """
        if self.base is None or self.tuned is None or abs(self.tuned - self.base) < 5e-4:
            return "same"
        if self.p_value is not None and self.p_value >= SIGNIFICANT:
            return "same"
        return "better" if (self.tuned < self.base) == self.lower_is_better else "worse"


@dataclass(frozen=True)
class MetricTable:
    """All metrics of one split."""

    title: str
    rows: Sequence[MetricRow]

    @property
    def compared(self) -> bool:
        """Whether any row says how base and tuned differ, sample by sample."""
        return any(row.difference is not None for row in self.rows)


@dataclass(frozen=True)
class RelianceRow:
    """Loss and task metric of one model with the true, a blank and another's image."""

    model: str
    losses: Sequence[float | None]
    task_metric: Sequence[float | None]
    image_gain: float
    blank_gain: float | None


def metric_tables(metrics: Mapping[str, float], results: Mapping[str, Any]) -> list[MetricTable]:
    """One table for each split that was asked, held-out samples first, the primary metric on top.

    `results` may hold `splits` (counts), `intervals` and `paired`; older ones hold the first alone.
    """
    tables = []
    for split, title in SPLITS.items():
        keys = [key.split("/") for key in metrics if key.startswith(f"{split}/")]
        names = dict.fromkeys(parts[1] for parts in keys if len(parts) == 3)
        primary = str(results.get("primary_metric", ""))
        ordered = sorted(names, key=lambda name: name != primary)
        rows = [_metric_row(split, name, metrics, results) for name in ordered]
        if rows:
            count = results.get("splits", {}).get(split)
            tables.append(MetricTable(f"{count} {title}" if count else title, rows))
    return tables


def _metric_row(
    split: str, name: str, metrics: Mapping[str, float], results: Mapping[str, Any]
) -> MetricRow:
    intervals = results.get("intervals") or {}
    paired = (results.get("paired") or {}).get(f"{split}/{name}") or {}
    keys = [f"{split}/{name}/{model}" for model in MODELS]
    return MetricRow(
        title=title_of(name),
        base=metrics.get(keys[0]),
        tuned=metrics.get(keys[1]),
        lower_is_better=smaller_is_better(name),
        base_interval=bounds_of(intervals.get(keys[0])),
        tuned_interval=bounds_of(intervals.get(keys[1])),
        difference=paired.get("difference"),
        difference_interval=bounds_of(paired.get("interval")),
        p_value=paired.get("p_value"),
        primary=name == results.get("primary_metric"),
    )


def bounds_of(interval: Any) -> Bounds | None:
    """(low, high) of an interval as JSON holds it; None for anything else."""
    if isinstance(interval, Mapping):
        interval = [interval.get("low"), interval.get("high")]
    if not isinstance(interval, (list, tuple)) or len(interval) != 2:
        return None
    low, high = interval
    numbers = isinstance(low, (int, float)) and isinstance(high, (int, float))
    return (float(low), float(high)) if numbers else None


def reliance_rows(metrics: Mapping[str, float], primary_metric: str) -> list[RelianceRow]:
    """One row for each model whose image reliance was measured."""

    def found(name: str, model: str) -> list[float | None]:
        return [metrics.get(f"reliance/{name}_{each}/{model}") for each in CONDITIONS]

    return [
        RelianceRow(
            model=model,
            losses=found("loss", model),
            task_metric=found(primary_metric, model),
            image_gain=metrics[f"reliance/image_gain/{model}"],
            blank_gain=metrics.get(f"reliance/blank_gain/{model}"),
        )
        for model in MODELS
        if f"reliance/image_gain/{model}" in metrics
    ]


def speed_table(metrics: Mapping[str, float]) -> list[MetricRow]:
    """Speed of each model's answers; neither is meant to be better."""
    names = dict.fromkeys(key.split("/")[1] for key in metrics if key.startswith("speed/"))
    return [
        MetricRow(
            title=spaced(name),
            base=metrics.get(f"speed/{name}/base"),
            tuned=metrics.get(f"speed/{name}/tuned"),
            lower_is_better=smaller_is_better(name),
        )
        for name in names
    ]


def spaced(key: str) -> str:
    """`speed/tokens_per_second/tuned` as words."""
    return key.replace("_", " ").replace("/", " · ")
