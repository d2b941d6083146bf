"""For each stage of a run: current, stale or missing, and why."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
    """Hold every stage's version against the configuration.

    Published files are hashed where their size, mtime or inode changed, all of them when `verify`.

    Raises:
        ArtifactError: when a published file is not what was published.
    """
    survey = _Survey(stages, config, store)
    rows = [survey.row(stage) for stage in stages]
    for version in survey.versions.values():
        verify_outputs(version.folder, version.manifest, thorough=verify)
    if store.folder.is_dir():
        survey.hashes.save()
    return rows


def stale_among(
    stages: Sequence[Stage], config: ConfigLike, store: RunStore, names: Collection[str]
) -> list[StageStatus]:
    """The rows of those stages among `names` that are stale; no file is held against its hash."""
    rows = _rows(stages, config, store)
    return [row for row in rows if row.stage in names and row.state == "stale"]


def departure_of(
    name: str, stages: Sequence[Stage], config: ConfigLike, store: RunStore
) -> str | None:
    """How the latest version of a stage departs from the configuration; None where it does not."""
    by_name = {stage.name: stage for stage in stages}
    latest = store.latest(by_name[name])
    row = next(row for row in _rows(stages, config, store) if row.stage == name)
    if latest is None or (row.state == "current" and row.version == latest.name):
        return None
    if row.state == "current":
        return f"{latest.name} was made with other settings, {row.version} with these"
    return f"{latest.name} is {row.state}: {', '.join(row.why)}"


def _rows(stages: Sequence[Stage], config: ConfigLike, store: RunStore) -> list[StageStatus]:
    survey = _Survey(stages, config, store)
    return [survey.row(stage) for stage in stages]


class _Survey:
    """What is known of the stages looked at so far."""

    def __init__(self, stages: Sequence[Stage], config: ConfigLike, store: RunStore) -> None:
        self.by_name = {stage.name: stage for stage in stages}
        self.config = config
        self.store = store
        self.hashes = HashIndex(store.folder / ".hashes.json")
        self.versions: dict[str, Version] = {}
        self.states: dict[str, str] = {}

    def row(self, stage: Stage) -> StageStatus:
        """State of a stage whose inputs were looked at before."""
        version, state, why = self._judge(stage)
        self.states[stage.name] = state
        if version is not None:
            self.versions[stage.name] = version
        name = version.name if version else None
        return StageStatus(stage.name, stage.number, name, state, why)

    def _judge(self, stage: Stage) -> tuple[Version | None, str, tuple[str, ...]]:
        latest = self.store.latest(stage)
        if latest is None:
            return None, "missing", ("never published",)
        if not stage.cached:
            return latest, "current", ()
        absent = self._inputs(stage, "missing")
        if absent:
            return latest, "stale", absent
        upstream = resolve_upstream(stage, self.by_name, self.store, self.versions)
        plan = plan_stage(stage, self.config, self.store, upstream, self.hashes)
        if plan.hit is None:
            return latest, "stale", plan.why
        stale = self._inputs(stage, "stale")
        return plan.hit, "stale" if stale else "current", stale

    def _inputs(self, stage: Stage, state: str) -> tuple[str, ...]:
        return tuple(f"stage {n} is {state}" for n in stage.inputs if self.states[n] == state)
