"""What two manifests say: settings, metrics, libraries and device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmpipe.evaluation.published import PublishedStage

Stages = Mapping[str, PublishedStage]
ABSENT = "–"
"""Stands for a value that one run does not have."""


@dataclass(frozen=True)
class Change:
    """A value by its name in both runs, where they differ."""

    name: str
    first: Any
    second: Any
    stages: tuple[str, ...] = ()
    """Where it was found."""


@dataclass(frozen=True)
class MetricChange:
    """A metric in both runs; None where one has none."""

    name: str
    first: float | None
    second: float | None

    @property
    def difference(self) -> float | None:
        """Second minus first."""
        if self.first is None or self.second is None:
            return None
        return self.second - self.first

    @property
    def same(self) -> bool:
        """Whether both have it, and it is equal."""
        return self.first is not None and self.first == self.second


@dataclass(frozen=True)
class StageMetrics:
    """All metrics of one stage, and the versions that they are of."""

    stage: str
    versions: tuple[str, str]
    metrics: Sequence[MetricChange]


def common(first: Stages, second: Stages) -> list[str]:
    """Stages that both have published, in their order."""
    return [name for name in first if name in second]


def changed_settings(first: Stages, second: Stages) -> list[Change]:
    """Settings of the stages that both have, by dotted key; `train.curriculum[0].max_size` within a
    list.
    """
    return _changes(first, second, lambda stage: flat(stage.manifest.settings))


def changed_surroundings(first: Stages, second: Stages) -> list[Change]:
    """Libraries, device, the commit and the stages' own versions."""
    return _changes(first, second, _surroundings)


def stage_metrics(first: Stages, second: Stages) -> list[StageMetrics]:
    """Metrics of the stages that both have, the seconds that the stage took among them."""
    found = []
    for name in common(first, second):
        before, after = _metrics(first[name]), _metrics(second[name])
        names = dict.fromkeys([*before, *after])
        changes = [MetricChange(each, before.get(each), after.get(each)) for each in names]
        versions = first[name].version, second[name].version
        found.append(StageMetrics(name, versions, changes))
    return found


def flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Maps, and lists of maps, to dotted keys; other lists stay whole."""
    return dict(_leaves(tree, ""))


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and (value or not key):
        for name, each in value.items():
            yield from _leaves(each, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        for place, each in enumerate(value):
            yield from _leaves(each, f"{key}[{place}]")
    else:
        yield key, value


def _changes(first: Stages, second: Stages, values_of: Any) -> list[Change]:
    """Values that differ in some stage; the same difference in several is one."""
    found: dict[str, Change] = {}
    for name in common(first, second):
        before, after = values_of(first[name]), values_of(second[name])
        for key in dict.fromkeys([*before, *after]):
            values = before.get(key, ABSENT), after.get(key, ABSENT)
            if values[0] == values[1]:
                continue
            known = found.get(f"{key} {values}")
            stages = (*known.stages, name) if known else (name,)
            found[f"{key} {values}"] = Change(key, *values, stages)
    return list(found.values())


def _surroundings(stage: PublishedStage) -> dict[str, Any]:
    manifest = stage.manifest
    found: dict[str, Any] = {}
    for name in ("libraries", "device"):
        facts = manifest.facts.get(name)
        found |= flat({name: facts}) if isinstance(facts, Mapping) else {}
    found["commit"] = manifest.git_commit
    found[f"stage {stage.name}"] = manifest.fingerprint_parts.get("stage_version")
    return found


def _metrics(stage: PublishedStage) -> dict[str, float]:
    found = dict(stage.manifest.metrics)
    seconds = stage.manifest.timings.get("seconds")
    if isinstance(seconds, int | float):
        found["seconds"] = float(seconds)
    return found
