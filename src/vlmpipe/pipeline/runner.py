"""Runs stages in order: resolve upstream, fingerprint, hit or run, hash, publish, repoint."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlmpipe.errors import ConfigError, GateError, StageError, VlmpipeError
from vlmpipe.pipeline.fingerprint import HashIndex
from vlmpipe.pipeline.lock import run_lock
from vlmpipe.pipeline.logs import stage_log
from vlmpipe.pipeline.manifest import FileRecord, Manifest, VerdictRecord, verify_outputs
from vlmpipe.pipeline.plan import Plan, handed_on, plan_stage, resolve_upstream
from vlmpipe.pipeline.events import Reporter
from vlmpipe.pipeline.stage import ConfigLike, Outcome, Stage, StageContext, stage_named
from vlmpipe.pipeline.store import FINGERPRINT_MARK, RunStore, Version


@dataclass(frozen=True)
class RunOptions:
    """What one invocation asks for."""

    first: str | None = None
    last: str | None = None
    force: frozenset[str] = frozenset()
    use: Mapping[str, str] = field(default_factory=dict)
    """Stage name to version: taken as it is, not run."""

    allow_failed_gate: bool = False
    command: str = "vlmpipe"
    """The command line that does the same again; printed after a failure to resume."""

    argv: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    git_commit: str | None = None


@dataclass(frozen=True)
class StageResult:
    """What became of one stage in an invocation."""

    stage: str
    number: int
    version: str
    cached: bool
    seconds: float
    summary: tuple[str, ...]
    verdict: VerdictRecord | None


class Runner:
    """Runs a contiguous part of the ordered stages over one run's store."""

    def __init__(
        self,
        stages: Sequence[Stage],
        config: ConfigLike,
        store: RunStore,
        reporter: Reporter,
        options: RunOptions,
    ) -> None:
        self.stages = stages
        self.config = config
        self.store = store
        self.reporter = reporter
        self.options = options
        self._by_name = {stage.name: stage for stage in stages}
        self._hashes = HashIndex(store.folder / ".hashes.json")
        self._check_names()

    def run(self) -> list[StageResult]:
        """Run the selected stages under the run's lock.

        Raises:
            VlmpipeError: with the failing stage, its log and the resuming command as remedies.
        """
        with run_lock(self.store.folder, self.options.command):
            try:
                chosen = self._chosen_versions()
                return [self._advance(stage, chosen) for stage in self.selected()]
            finally:
                self._hashes.save()

    def selected(self) -> list[Stage]:
        """Stages from `first` to `last`, those given by `use` left out."""
        names = [stage.name for stage in self.stages]
        start = names.index(self.options.first) if self.options.first else 0
        end = names.index(self.options.last) if self.options.last else len(names) - 1
        if start > end:
            raise ConfigError(f"--from {names[start]} comes after --to {names[end]}")
        return [s for s in self.stages[start : end + 1] if s.name not in self.options.use]

    def plans(self) -> Iterator[tuple[Stage, str, tuple[str, ...]]]:
        """For `--dry-run`: each selected stage with `cached`, `run` or `depends`, and why."""
        chosen = self._chosen_versions()
        undecided: set[str] = set()
        for stage in self.selected():
            waits = tuple(name for name in stage.inputs if name in undecided)
            if waits:
                undecided.add(stage.name)
                yield stage, "depends", tuple(f"on what {name} produces" for name in waits)
                continue
            plan = self._plan(stage, chosen)
            if plan.hit is not None and stage.name not in self.options.force:
                chosen[stage.name] = plan.hit
                yield stage, "cached", (plan.hit.name,)
                continue
            undecided.add(stage.name)
            forced = stage.name in self.options.force
            yield stage, "run", ("--force",) if forced else plan.why

    def _check_names(self) -> None:
        asked = [*self.options.force, *self.options.use]
        asked += [name for name in (self.options.first, self.options.last) if name]
        unknown = sorted({name for name in asked if stage_named(self.stages, name) is None})
        if unknown:
            known = ", ".join(stage.name for stage in self.stages)
            raise ConfigError(f"no stage is named {', '.join(unknown)}", f"stages: {known}")

    def _chosen_versions(self) -> dict[str, Version]:
        return {
            name: self.store.version(self._by_name[name], version)
            for name, version in self.options.use.items()
        }

    def _plan(self, stage: Stage, chosen: Mapping[str, Version]) -> Plan:
        upstream = resolve_upstream(stage, self._by_name, self.store, chosen)
        return plan_stage(stage, self.config, self.store, upstream, self._hashes)

    def _advance(self, stage: Stage, chosen: dict[str, Version]) -> StageResult:
        with self._explained(stage):
            plan = self._plan(stage, chosen)
            gates = self._pass_gates(stage, plan.upstream)
            forced = stage.name in self.options.force
            if plan.hit is not None and not forced:
                return self._take_cached(plan, plan.hit, chosen)
            why = "--force" if forced else ", ".join(plan.why)
            self.reporter.stage_started(stage.name, stage.number, why)
            return self._run_stage(plan, gates, chosen)

    def _take_cached(
        self, plan: Plan, hit: Version, chosen: dict[str, Version]
    ) -> StageResult:
        verify_outputs(hit.folder, hit.manifest, thorough=False)
        stage = plan.stage
        self.store.point_latest(stage, hit.name)
        chosen[stage.name] = hit
        self.reporter.stage_cached(stage.name, stage.number, hit.name)
        return _result(stage, hit, cached=True, seconds=0.0)

    def _run_stage(
        self, plan: Plan, gates: dict[str, dict[str, Any]], chosen: dict[str, Version]
    ) -> StageResult:
        stage, started = plan.stage, time.monotonic()
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        for name, version in plan.upstream.items():
            self._verify_consumed(stage, name, version)
        partial = self.store.open_partial(stage, plan.fingerprint)
        with stage_log(self.log_path(stage)) as log:
            outcome = stage.run(
                StageContext(
                    config=self.config,
                    folder=partial,
                    upstream={name: version.folder for name, version in plan.upstream.items()},
                    run_folder=self.store.folder,
                    log_path=self.log_path(stage),
                    log=log,
                    reporter=self.reporter,
                )
            )
        seconds = time.monotonic() - started
        self._manifest(plan, gates, outcome, partial, begun, seconds).write(partial)
        version = self._publish(stage, partial)
        chosen[stage.name] = version
        self._journal("published", stage=stage.name, version=version.name)
        self.reporter.stage_finished(stage.name, stage.number, version.name, seconds)
        return _result(stage, version, cached=False, seconds=seconds)

    def _publish(self, stage: Stage, partial: Path) -> Version:
        """Publish, unless an uncached stage found exactly what its latest version says."""
        latest = None if stage.cached else self.store.latest(stage)
        if latest is not None:
            found = {str(p.relative_to(partial)): FileRecord.of(p).sha256 for p in _files(partial)}
            if found == {n: r.sha256 for n, r in latest.manifest.outputs.items()}:
                shutil.rmtree(partial)
                return latest
        return self.store.publish(stage, partial)

    def log_path(self, stage: Stage) -> Path:
        """Where a stage logs: beside the stages, outside published versions."""
        return self.store.folder / "logs" / f"{stage.folder_name}.log"

    def _verify_consumed(self, stage: Stage, name: str, version: Version) -> None:
        """A consumer hashes every file it is about to read."""
        consumed = handed_on(version, stage.consumes.get(name, ()))
        outputs = {n: r for n, r in version.manifest.outputs.items() if n in consumed}
        part = version.manifest.model_copy(update={"outputs": outputs})
        verify_outputs(version.folder, part, thorough=True)

    def _pass_gates(
        self, stage: Stage, upstream: Mapping[str, Version]
    ) -> dict[str, dict[str, Any]]:
        gates: dict[str, dict[str, Any]] = {}
        for name in stage.gated_by:
            verdict, mode = upstream[name].manifest.verdict, self._gate_mode(name)
            if verdict is None:
                continue
            gates[name] = {"passed": verdict.passed, "mode": mode}
            if verdict.passed:
                continue
            if mode == "enforce" and not self.options.allow_failed_gate:
                self._journal("refused", stage=stage.name, gate=name, reasons=verdict.reasons)
                raise _refusal(stage, upstream[name], name, verdict)
            allowed = "--allow-failed-gate" if mode == "enforce" else f"{name}.gate={mode}"
            gates[name]["allowed_by"] = allowed
            self._journal("allowed", stage=stage.name, gate=name, by=allowed)
        return gates

    def _gate_mode(self, name: str) -> str:
        section = self.config.model_dump(mode="json", by_alias=True).get(name) or {}
        return str(section.get("gate", "off"))

    def _manifest(
        self,
        plan: Plan,
        gates: dict[str, dict[str, Any]],
        outcome: Outcome,
        partial: Path,
        begun: str,
        seconds: float,
    ) -> Manifest:
        stage, mode = plan.stage, self._gate_mode(plan.stage.name)
        verdict = None
        if outcome.verdict is not None and mode != "off":
            verdict = VerdictRecord(
                passed=outcome.verdict.passed, mode=mode, reasons=list(outcome.verdict.reasons)
            )
        return Manifest(
            stage=stage.name,
            number=stage.number,
            fingerprint=plan.fingerprint,
            fingerprint_parts=plan.parts,
            settings=plan.parts["settings"],
            inputs={
                name: {
                    "version": version.name,
                    "fingerprint": version.manifest.fingerprint,
                    "files": plan.parts["upstream"].get(name, {}),
                }
                for name, version in plan.upstream.items()
            },
            outputs={str(p.relative_to(partial)): FileRecord.of(p) for p in _files(partial)},
            verdict=verdict,
            gates=gates,
            metrics=dict(outcome.metrics),
            summary=list(outcome.summary),
            facts={**self.options.facts, **outcome.facts},
            timings={"begun": begun, "seconds": round(seconds, 3)},
            argv=list(self.options.argv),
            git_commit=self.options.git_commit,
        )

    def _journal(self, event: str, **fields: Any) -> None:
        """One line a decision, in the order they were taken."""
        entry = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **fields}
        with (self.store.folder / "journal.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({**entry, "command": self.options.command}) + "\n")

    @contextmanager
    def _explained(self, stage: Stage) -> Iterator[None]:
        """Add to whatever fails in here: the stage, its log, the command that resumes."""
        try:
            yield
        except VlmpipeError as exc:
            exc.remedies = (*exc.remedies, *self._way_back(stage))
            exc.stage = stage.name
            raise
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
                exc.add_note("\n".join([f"in stage {stage.name}", *self._way_back(stage)]))
                raise
            raise self._disk_full(stage) from exc
        except Exception as exc:
            exc.add_note("\n".join([f"in stage {stage.name}", *self._way_back(stage)]))
            raise

    def _way_back(self, stage: Stage) -> tuple[str, ...]:
        log = self.log_path(stage)
        lines = (f"log: {log}",) if log.is_file() else ()
        return (*lines, f"then go on with: {self.options.command}")

    def _disk_full(self, stage: Stage) -> StageError:
        usage = shutil.disk_usage(self.store.folder)
        error = StageError(
            f"stage {stage.name}: no space left on the disk of {self.store.folder}"
            f" ({usage.free / 2**20:.0f} MiB free of {usage.total / 2**20:.0f} MiB);"
            " what was published before is untouched",
            "free some space",
            "or write elsewhere: run.outputs_dir=DIR",
            *self._way_back(stage),
        )
        error.stage = stage.name
        return error


def _result(stage: Stage, version: Version, *, cached: bool, seconds: float) -> StageResult:
    manifest = version.manifest
    return StageResult(
        stage=stage.name,
        number=stage.number,
        version=version.name,
        cached=cached,
        seconds=seconds,
        summary=tuple(manifest.summary),
        verdict=manifest.verdict,
    )


def _refusal(stage: Stage, version: Version, name: str, verdict: VerdictRecord) -> GateError:
    return GateError(
        f"{stage.name} refuses {name} {version.name}: its gate failed",
        f"let it pass this once: --allow-failed-gate",
        f"only report it: {name}.gate=report",
        f"or choose another version: --use {name}=vNNN",
        problems=verdict.reasons,
    )


def _files(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (FINGERPRINT_MARK, "manifest.json")
    ]
