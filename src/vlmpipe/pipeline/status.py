"""For each stage of a run: current, stale or missing, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmpipe.pipeline.fingerprint import HashIndex
from vlmpipe.pipeline.manifest import verify_outputs
from vlmpipe.pipeline.plan import plan_stage, resolve_upstream
from vlmpipe.pipeline.stage import ConfigLike, Stage
from vlmpipe.pipeline.store import RunStore, Version


@dataclass(frozen=True)
class StageStatus:
    """One row of `status`."""

    stage: str
    number: int
    version: str | None
    state: str
    """current, stale or missing."""

    why: tuple[str, ...]


def run_status(
    stages: Sequence[Stage], config: ConfigLike, store: RunStore, *, verify: bool = False
) -> list[StageStatus]:
    """Hold every stage's latest version against the configuration.

    Published files are hashed where their size, mtime or inode changed, all of them when `verify`.

    Raises:
        ArtifactError: when a published file is not what was published.
    """
    hashes = HashIndex(store.folder / ".hashes.json")
    rows: dict[str, StageStatus] = {}
    for stage in stages:
        latest = store.latest(stage)
        if latest is not None:
            verify_outputs(latest.folder, latest.manifest, thorough=verify)
        rows[stage.name] = _status_of(stage, stages, config, store, hashes, rows, latest)
    if store.folder.is_dir():
        hashes.save()
    return list(rows.values())


def _status_of(
    stage: Stage,
    stages: Sequence[Stage],
    config: ConfigLike,
    store: RunStore,
    hashes: HashIndex,
    above: dict[str, StageStatus],
    latest: Version | None,
) -> StageStatus:
    if latest is None:
        return StageStatus(stage.name, stage.number, None, "missing", ("never published",))
    name = latest.name
    if not stage.cached:
        return StageStatus(stage.name, stage.number, name, "current", ())
    by_name = {each.name: each for each in stages}
    absent = tuple(n for n in stage.inputs if above[n].state == "missing")
    if absent:
        why = tuple(f"stage {n} is missing" for n in absent)
        return StageStatus(stage.name, stage.number, name, "stale", why)
    plan = plan_stage(stage, config, store, resolve_upstream(stage, by_name, store, {}), hashes)
    if plan.hit is None:
        return StageStatus(stage.name, stage.number, name, "stale", plan.why)
    stale = tuple(f"stage {n} is stale" for n in stage.inputs if above[n].state == "stale")
    state = "stale" if stale else "current"
    return StageStatus(stage.name, stage.number, plan.hit.name, state, stale)
