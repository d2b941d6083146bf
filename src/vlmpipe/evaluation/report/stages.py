"""Published stages of a run, and what their gates said."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.pipeline.manifest import Manifest, read_manifest


@dataclass(frozen=True)
class PublishedStage:
    """The version of a stage that `latest` points to."""

    name: str
    number: int
    version: str
    folder: Path
    manifest: Manifest

    def read_json(self, name: str) -> Any:
        """A JSON file of the version, None where it is absent or unreadable."""
        try:
            return json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError):
            return None

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """A JSONL file of the version; lines that are no object are left out."""
        return list(rows_of(self.folder / name))


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


def published_stages(run_folder: Path) -> dict[str, PublishedStage]:
    """By stage name, in the order of their numbers.

    Raises:
        ArtifactError: when a manifest is damaged.
    """
    found = {}
    for link in sorted(run_folder.glob("[0-9]*_*/latest")):
        folder = link.resolve()
        manifest = read_manifest(folder)
        if manifest is not None:
            found[manifest.stage] = PublishedStage(
                manifest.stage, manifest.number, folder.name, folder, manifest
            )
    return found


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
            outdated=_outdated(stage, stages),
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


def _outdated(stage: PublishedStage, stages: Mapping[str, PublishedStage]) -> list[str]:
    return [
        f"made from {name} {taken['version']}, latest is {stages[name].version}"
        for name, taken in stage.manifest.inputs.items()
        if name in stages and taken.get("version") != stages[name].version
    ]


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSONL file one by one; none where it is absent, lines that are none left out."""
    try:
        with path.open("rb") as stream:
            for line in stream:
                row = _object(line)
                if row is not None:
                    yield row
    except OSError:
        return


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
