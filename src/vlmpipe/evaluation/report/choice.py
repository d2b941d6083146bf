"""Which samples the gallery shows: the best, the median and the worst by the primary metric."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmpipe.tasks import task_of

TUNED = ("hf:adapter", "hf:full", "tuned")
"""Names of the model that the run trained, before it was converted."""

PER_GROUP = 3
"""Best, median and worst samples of the first split; of any other, one each."""

MOST_SPLITS = 4

Key = tuple[str, str]
"""Split and sample id."""


@dataclass(frozen=True)
class Chosen:
    """A sample, and the reason why it is shown."""

    key: Key
    group: str
    """`best`, `median`, `worst`; empty where nothing was measured."""


@dataclass(frozen=True)
class Choice:
    """What is shown of one split."""

    split: str
    metric: str
    engine: str
    """By whose answers they were chosen."""

    of: int
    """How many samples there were to choose from."""

    samples: Sequence[Chosen]


@dataclass
class _Scores:
    """One engine's primary metric on one split, by sample id."""

    metric: str = ""
    known: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Value and length of the reference: of equals, the longer one is the harder one."""

    unknown: list[str] = field(default_factory=list)


def chosen_samples(rows: Iterable[Mapping[str, Any]]) -> list[Choice]:
    """Read rows of predictions one by one, held-out samples first."""
    found: dict[tuple[str, str], _Scores] = {}
    for row in rows:
        key = engine_of(row), str(row.get("split", ""))
        _note(found.setdefault(key, _Scores()), row)
    splits = sorted(
        dict.fromkeys(split for _, split in found),
        key=lambda split: (split != "heldout", split == "train"),
    )
    choices = [
        _choice(split, found, PER_GROUP if not place else 1)
        for place, split in enumerate(splits[:MOST_SPLITS])
    ]
    return [choice for choice in choices if choice.samples]


def engine_of(row: Mapping[str, Any]) -> str:
    """The engine's name; older runs call it `model`."""
    return str(row.get("engine") or row.get("model") or "")


def score_of(row: Mapping[str, Any]) -> float | None:
    """Primary metric of a row; 0 where measuring it failed, None where it has none."""
    metrics = row.get("metrics")
    name = task_of(str(row.get("task", ""))).primary_metric
    value = metrics.get(name) if isinstance(metrics, dict) else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return 0.0 if row.get("unmeasured") else None


def _note(scores: _Scores, row: Mapping[str, Any]) -> None:
    if row.get("status") == "failed":
        return
    sample, value = str(row.get("sample", "")), score_of(row)
    scores.metric = scores.metric or task_of(str(row.get("task", ""))).primary_metric
    if value is None:
        scores.unknown.append(sample)
    else:
        scores.known[sample] = value, len(str(row.get("reference", "")))


def _choice(split: str, found: Mapping[tuple[str, str], _Scores], each: int) -> Choice:
    engines = [engine for engine, other in found if other == split]
    engine = next((name for name in TUNED if name in engines), engines[0])
    scores = found[engine, split]
    return Choice(
        split,
        scores.metric,
        engine,
        len(scores.known) + len(scores.unknown),
        list(_groups(split, scores, each)),
    )


def _groups(split: str, scores: _Scores, each: int) -> Iterator[Chosen]:
    ranked = sorted(scores.known, key=scores.known.__getitem__, reverse=True)
    if not ranked:
        yield from (Chosen((split, sample), "") for sample in scores.unknown[: 3 * each])
        return
    for group, samples in _parts(ranked, each).items():
        yield from (Chosen((split, sample), group) for sample in samples)


def _parts(ranked: Sequence[str], each: int) -> dict[str, Sequence[str]]:
    """No sample twice: with few of them, groups are smaller."""
    each = min(each, -(-len(ranked) // 3))
    worst = ranked[max(each, len(ranked) - each) :]
    between = ranked[each : len(ranked) - len(worst)]
    first = max(0, (len(between) - each) // 2)
    return {"best": ranked[:each], "median": between[first : first + each], "worst": worst}
