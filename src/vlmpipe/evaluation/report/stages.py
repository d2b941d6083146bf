"""The table of a run's stages, and what their gates said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmpipe.evaluation.published import PublishedStage, outdated_inputs


@dataclass(frozen=True)
class StageRow:
    """A line of the table of stages."""

    name: str
    number: int
    version: str
    cached: bool
    begun: str
    seconds: float | None
    bytes: int
    summary: Sequence[str]
    outdated: Sequence[str]
    """Inputs that have a newer version than the one this stage was made from."""


@dataclass(frozen=True)
class GateRow:
    """A verdict, and what became of what it judged."""

    stage: str
    passed: bool
    mode: str
    reasons: Sequence[str]
    consequence: str


def stage_rows(stages: Mapping[str, PublishedStage], cached: frozenset[str]) -> list[StageRow]:
    """The table of stages."""
    return [
        StageRow(
            name=stage.name,
            number=stage.number,
            version=stage.version,
            cached=stage.name in cached,
            begun=str(stage.manifest.timings.get("begun", "")).replace("T", " ")[:16],
            seconds=stage.manifest.timings.get("seconds"),
            bytes=sum(record.size for record in stage.manifest.outputs.values()),
            summary=stage.manifest.summary,
            outdated=[f"made from {each}" for each in outdated_inputs(stage, stages)],
        )
        for stage in stages.values()
    ]


def gate_rows(stages: Mapping[str, PublishedStage]) -> list[GateRow]:
    """One row for each stage that judged what it made."""
    return [
        GateRow(
            stage=stage.name,
            passed=stage.manifest.verdict.passed,
            mode=stage.manifest.verdict.mode,
            reasons=stage.manifest.verdict.reasons,
            consequence=_consequence(stage, stages),
        )
        for stage in stages.values()
        if stage.manifest.verdict is not None
    ]


def _consequence(stage: PublishedStage, stages: Mapping[str, PublishedStage]) -> str:
    verdict = stage.manifest.verdict
    if verdict is None or verdict.passed:
        return ""
    allowed = [
        f"{other.name} went on: {gate['allowed_by']}"
        for other in stages.values()
        if (gate := other.manifest.gates.get(stage.name)) and gate.get("allowed_by")
    ]
    if allowed:
        return "; ".join(allowed)
    return "the next stage refuses it" if verdict.mode == "enforce" else "reported only"
