"""Runs stages in order: resolve upstream, fingerprint, hit or run, hash, publish, repoint."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vlmpipe.errors import ConfigError
from vlmpipe.pipeline.events import Reporter
from vlmpipe.pipeline.failures import explained
from vlmpipe.pipeline.fingerprint import HashIndex
from vlmpipe.pipeline.gates import GateDecision, decide_gates, gate_mode
from vlmpipe.pipeline.lock import run_lock
from vlmpipe.pipeline.logs import stage_log
from vlmpipe.pipeline.manifest import Manifest, problems_of, verify_outputs
from vlmpipe.pipeline.options import RunOptions, StageResult
from vlmpipe.pipeline.plan import Plan, handed_on, plan_stage, resolve_upstream
from vlmpipe.pipeline.record import manifest_of, output_records
from vlmpipe.pipeline.stage import ConfigLike, Stage, StageContext
from vlmpipe.pipeline.status import stale_among
from vlmpipe.pipeline.store import RunStore, Version


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
        self._taken: dict[str, Version] = {}
        self._to_force = set(options.force)
        self._check_names()

    def run(self) -> list[StageResult]:
        """Run the selected stages under the run's lock.

        Raises:
            VlmpipeError: with the failing stage, its log and the resuming command as remedies.
        """
        with run_lock(self.store.folder, self.options.command):
            try:
                self._taken = self._given_versions()
                self._note_stale_inputs()
                return [self._advance(stage) for stage in self.selected()]
            finally:
                self._hashes.save()

    def selected(self) -> list[Stage]:
        """Stages from `first` to `last`, those given by `use` left out."""
        start, end = self._bounds()
        return [s for s in self.stages[start : end + 1] if s.name not in self.options.use]

    def plans(self) -> Iterator[tuple[Stage, str, tuple[str, ...]]]:
        """For `--dry-run`: each selected stage with what it would do, and why.

        That is `cached`, `run`, `refused` (by a gate) or `depends` (on a stage before it).
        """
        self._taken = self._given_versions()
        undecided: set[str] = set()
        for stage in self.selected():
            waits = tuple(f"on {name}" for name in stage.inputs if name in undecided)
            action, why = ("depends", waits) if waits else self._foresee(stage)
            if action != "cached":
                undecided.add(stage.name)
            yield stage, action, why

    def resuming_command(self) -> str:
        """The command line that goes on after a failure or an interrupt."""
        resume = self.options.resume
        return self.options.command if resume is None else resume(frozenset(self._to_force))

    def log_path(self, stage: Stage) -> Path:
        """Where a stage logs: beside the stages, outside published versions."""
        return self.store.folder / "logs" / f"{stage.folder_name}.log"

    def _bounds(self) -> tuple[int, int]:
        names = [stage.name for stage in self.stages]
        start = names.index(self.options.first) if self.options.first else 0
        end = names.index(self.options.last) if self.options.last else len(names) - 1
        return start, end

    def _check_names(self) -> None:
        options, names = self.options, [stage.name for stage in self.stages]
        asked = {*options.force, *options.use, options.first, options.last} - {None}
        unknown = sorted(str(name) for name in asked if name not in names)
        if unknown:
            raise ConfigError(
                f"no stage is named {', '.join(unknown)}", f"stages: {', '.join(names)}"
            )
        both = sorted(options.force & set(options.use))
        if both:
            raise ConfigError(
                f"{both[0]} is given both to --force (run it) and to --use (do not run it)",
                "keep one of them",
            )
        start, end = self._bounds()
        if start > end:
            raise ConfigError(
                f"--from {options.first} comes after --to {options.last}",
                f"stages in order: {', '.join(names)}",
            )

    def _given_versions(self) -> dict[str, Version]:
        return {
            name: self.store.version(self._by_name[name], version)
            for name, version in self.options.use.items()
        }

    def _note_stale_inputs(self) -> None:
        """`vlmpipe merge` takes the latest train as it is; say so where the settings differ."""
        selected = self.selected()
        made = {stage.name for stage in selected} | set(self.options.use)
        inputs = {name for stage in selected for name in stage.inputs} - made
        for row in stale_among(self.stages, self.config, self.store, inputs):
            why = ", ".join(row.why)
            self.reporter.note(f"taking {row.stage} {row.version} as it is, though stale: {why}")

    def _plan(self, stage: Stage) -> Plan:
        upstream = resolve_upstream(stage, self._by_name, self.store, self._taken)
        return plan_stage(stage, self.config, self.store, upstream, self._hashes)

    def _gates(self, plan: Plan) -> list[GateDecision]:
        allow = self.options.allow_failed_gate
        return decide_gates(plan.stage, plan.upstream, self.config, allow_failed=allow)

    def _foresee(self, stage: Stage) -> tuple[str, tuple[str, ...]]:
        plan = self._plan(stage)
        refusals = [gate for gate in self._gates(plan) if gate.refused]
        if refusals:
            return "refused", tuple(f"gate of {gate.gate} {gate.version}" for gate in refusals)
        if stage.name in self._to_force:
            return "run", ("--force",)
        if plan.hit is None:
            return "run", plan.why
        self._taken[stage.name] = plan.hit
        return "cached", (plan.hit.name,)

    def _advance(self, stage: Stage) -> StageResult:
        with explained(stage.name, self.store.folder, self.resuming_command):
            plan = self._plan(stage)
            gates = self._gates(plan)
            self._pass(gates)
            forced = stage.name in self._to_force
            if plan.hit is not None and not forced:
                return self._take_cached(plan.hit, stage)
            why = "--force" if forced else ", ".join(plan.why)
            self.reporter.stage_started(stage.name, stage.number, why)
            return self._run_stage(plan, gates)

    def _pass(self, gates: Sequence[GateDecision]) -> None:
        for gate in gates:
            if gate.refused:
                reasons = gate.verdict.reasons
                self._journal("refused", stage=gate.consumer, gate=gate.gate, reasons=reasons)
                raise gate.as_error()
            if gate.allowed_by:
                by = gate.allowed_by
                self._journal("allowed", stage=gate.consumer, gate=gate.gate, by=by)

    def _take_cached(self, hit: Version, stage: Stage) -> StageResult:
        verify_outputs(hit.folder, hit.manifest, thorough=False)
        self.store.point_latest(stage, hit.name)
        self._taken[stage.name] = hit
        self.reporter.stage_cached(stage.name, stage.number, hit.name)
        return self._result(stage, hit, hit.manifest, cached=True, seconds=0.0)

    def _run_stage(self, plan: Plan, gates: Sequence[GateDecision]) -> StageResult:
        stage, started = plan.stage, time.monotonic()
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        for name, version in plan.upstream.items():
            self._verify_consumed(stage, name, version)
        partial = self.store.open_partial(stage, plan.fingerprint)
        with stage_log(self.log_path(stage)) as log:
            log.info("stage %s in %s: %s", stage.name, partial.name, ", ".join(plan.why))
            outcome = stage.run(
                StageContext(
                    config=self.config,
                    folder=partial,
                    upstream={name: version.folder for name, version in plan.upstream.items()},
                    run_folder=self.store.folder,
                    log_path=self.log_path(stage),
                    log=log,
                    reporter=self.reporter,
                    forced=stage.name in self._to_force,
                )
            )
        seconds = time.monotonic() - started
        manifest = manifest_of(
            plan,
            outcome,
            output_records(partial),
            gates=gates,
            mode=gate_mode(self.config, stage.name),
            timings={"begun": begun, "seconds": round(seconds, 3)},
            options=self.options,
        )
        version = self._publish(stage, partial, manifest)
        self.reporter.stage_finished(stage.name, stage.number, version.name, seconds)
        return self._result(stage, version, manifest, cached=False, seconds=seconds)

    def _publish(self, stage: Stage, partial: Path, manifest: Manifest) -> Version:
        """Publish, unless an uncached stage found exactly what its latest version holds."""
        latest = None if stage.cached else self.store.latest(stage)
        if latest is not None and _same_content(latest, manifest):
            shutil.rmtree(partial)
            version = latest
        else:
            manifest.write(partial)
            version = self.store.publish(stage, partial)
            self._journal("published", stage=stage.name, version=version.name)
        self._taken[stage.name] = version
        self._to_force.discard(stage.name)
        return version

    def _verify_consumed(self, stage: Stage, name: str, version: Version) -> None:
        """A consumer hashes every file it is about to read."""
        consumed = handed_on(version, stage.consumes.get(name, ()))
        outputs = {n: r for n, r in version.manifest.outputs.items() if n in consumed}
        part = version.manifest.model_copy(update={"outputs": outputs})
        verify_outputs(version.folder, part, thorough=True)

    def _journal(self, event: str, **fields: Any) -> None:
        """One line a decision, in the order they were taken."""
        entry = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **fields}
        with (self.store.folder / "journal.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({**entry, "command": self.options.command}) + "\n")

    def _result(
        self, stage: Stage, version: Version, manifest: Manifest, *, cached: bool, seconds: float
    ) -> StageResult:
        verdict = manifest.verdict
        if verdict is not None:
            mode = gate_mode(self.config, stage.name)
            verdict = verdict.model_copy(update={"mode": mode})
        return StageResult(
            stage=stage.name,
            number=stage.number,
            version=version.name,
            cached=cached,
            seconds=seconds,
            summary=tuple(manifest.summary),
            verdict=verdict,
        )


def _same_content(latest: Version, manifest: Manifest) -> bool:
    before = {name: record.sha256 for name, record in latest.manifest.outputs.items()}
    now = {name: record.sha256 for name, record in manifest.outputs.items()}
    return before == now and not problems_of(latest.folder, latest.manifest, thorough=False)
