"""Is a stage current, and if not, why: asked by the runner, by `--dry-run` and by `status`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from vlmpipe.errors import ArtifactError
from vlmpipe.pipeline.fingerprint import (
    HashIndex,
    Parts,
    explain,
    fingerprint_of,
    fingerprint_parts,
)
from vlmpipe.pipeline.stage import ConfigLike, Stage
from vlmpipe.pipeline.store import RunStore, Version


@dataclass(frozen=True)
class Plan:
    """What a stage would do given its upstream versions."""

    stage: Stage
    upstream: Mapping[str, Version]
    parts: Parts
    fingerprint: str
    hit: Version | None
    """A published version with this fingerprint."""

    why: tuple[str, ...]
    """What differs from the latest version, when there is no hit."""


def handed_on(version: Version, patterns: tuple[str, ...]) -> dict[str, str]:
    """sha256 of the files of a version that match the patterns."""
    return {
        name: record.sha256
        for name, record in sorted(version.manifest.outputs.items())
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def plan_stage(
    stage: Stage,
    config: ConfigLike,
    store: RunStore,
    upstream: Mapping[str, Version],
    hashes: HashIndex,
) -> Plan:
    """Fingerprint a stage over its upstream versions and look for a version that has it."""
    files = {name: handed_on(upstream[name], pats) for name, pats in stage.consumes.items()}
    verdicts = {name: _passed(upstream[name]) for name in stage.gated_by}
    parts = fingerprint_parts(stage, config, files, verdicts, hashes)
    fingerprint = fingerprint_of(parts)
    hit = store.with_fingerprint(stage, fingerprint) if stage.cached else None
    why: tuple[str, ...] = ()
    if hit is None:
        why = _why_missing(stage, store, parts)
    return Plan(stage, upstream, parts, fingerprint, hit, why)


def _why_missing(stage: Stage, store: RunStore, parts: Parts) -> tuple[str, ...]:
    if not stage.cached:
        return ("it is run every time",)
    newest = store.latest(stage) or next(store.versions(stage), None)
    if newest is None:
        return ("never published",)
    return tuple(explain(newest.manifest.fingerprint_parts, parts))


def _passed(version: Version) -> bool | None:
    verdict = version.manifest.verdict
    return None if verdict is None else verdict.passed


def resolve_upstream(
    stage: Stage, by_name: Mapping[str, Stage], store: RunStore, chosen: Mapping[str, Version]
) -> dict[str, Version]:
    """The version of each input: the one chosen or just made, else `latest`.

    Raises:
        ArtifactError: when an input was never published.
    """
    upstream: dict[str, Version] = {}
    for name in stage.inputs:
        version = chosen.get(name) or store.latest(by_name[name])
        if version is None:
            raise ArtifactError(
                f"stage {stage.name} needs stage {name}, which has not been run in {store.folder}",
                f"run what is missing on the way: `vlmpipe run-all --to {stage.name}` with the same"
                " options",
                f"or that stage alone: `vlmpipe {name}` with the same options",
            )
        upstream[name] = version
    return upstream
