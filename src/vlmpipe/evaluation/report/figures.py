"""Flat metrics and hand-off files as rows that a template can lay out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SPLITS = {"train": "training probes", "heldout": "held-out samples"}
MODELS = ("base", "tuned")
TITLES = {
    "teds": "TEDS",
    "teds_structure": "TEDS, structure only",
    "cell_accuracy": "cells exactly right",
    "exact_match": "exact match",
    "agreement": "character agreement",
    "cer": "character error rate",
    "loss": "target loss, nats a token",
    "cut": "answers cut at the limit",
}
LOWER_IS_BETTER = frozenset({"cer", "wer", "loss", "cut"})
CONDITIONS = {"true": "true image", "blank": "blank image", "swapped": "another's image"}


@dataclass(frozen=True)
class MetricRow:
    """One metric of one split, base beside tuned."""

    title: str
    base: float | None
    tuned: float | None
    lower_is_better: bool

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `same`, of tuned against base."""
        if self.base is None or self.tuned is None or abs(self.tuned - self.base) < 5e-4:
            return "same"
        return "better" if (self.tuned < self.base) == self.lower_is_better else "worse"


@dataclass(frozen=True)
class MetricTable:
    """All metrics of one split."""

    title: str
    rows: Sequence[MetricRow]


@dataclass(frozen=True)
class RelianceRow:
    """Loss and task metric of one model with the true, a blank and another's image."""

    model: str
    losses: Sequence[float | None]
    task_metric: Sequence[float | None]
    image_gain: float
    blank_gain: float | None


def metric_tables(metrics: Mapping[str, float], counts: Mapping[str, int]) -> list[MetricTable]:
    """One table for each split that was asked."""
    tables = []
    for split, title in SPLITS.items():
        prefix = f"{split}/"
        keys = [key.split("/") for key in metrics if key.startswith(prefix)]
        names = dict.fromkeys(parts[1] for parts in keys if len(parts) == 3)
        rows = [
            MetricRow(
                title=title_of(name),
                base=metrics.get(f"{split}/{name}/base"),
                tuned=metrics.get(f"{split}/{name}/tuned"),
                lower_is_better=name in LOWER_IS_BETTER,
            )
            for name in names
        ]
        if rows:
            count = counts.get(split)
            tables.append(MetricTable(f"{count} {title}" if count else title, rows))
    return tables


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
            lower_is_better=name.startswith("seconds"),
        )
        for name in names
    ]


def title_of(name: str) -> str:
    """A metric's name for people."""
    return TITLES.get(name, name.replace("_", " "))


def spaced(key: str) -> str:
    """`speed/tokens_per_second/tuned` as words."""
    return key.replace("_", " ").replace("/", " · ")
