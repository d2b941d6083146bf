"""Puts together what a version's manifest says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

from vlmpipe.pipeline.gates import GateDecision
from vlmpipe.pipeline.manifest import MANIFEST_NAME, FileRecord, Manifest, VerdictRecord
from vlmpipe.pipeline.options import RunOptions
from vlmpipe.pipeline.plan import Plan
from vlmpipe.pipeline.stage import Outcome
from vlmpipe.pipeline.store import FINGERPRINT_MARK


def manifest_of(
    plan: Plan,
    outcome: Outcome,
    outputs: dict[str, FileRecord],
    *,
    gates: Sequence[GateDecision],
    mode: str,
    timings: dict[str, object],
    options: RunOptions,
) -> Manifest:
    """The manifest of a stage that has just done its work; `mode` is that of its own gate."""
    stage, verdict = plan.stage, None
    if outcome.verdict is not None:
        reasons = list(outcome.verdict.reasons)
        verdict = VerdictRecord(passed=outcome.verdict.passed, mode=mode, reasons=reasons)
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
        outputs=outputs,
        verdict=verdict,
        gates={decision.gate: decision.as_record() for decision in gates},
        metrics={name: value for name, value in outcome.metrics.items() if isfinite(value)},
        summary=[*outcome.summary, *_not_finite(outcome.metrics)],
        facts={**options.facts, **outcome.facts},
        timings=timings,
        argv=list(options.argv),
        git_commit=options.git_commit,
    )


def _not_finite(metrics: Mapping[str, float]) -> list[str]:
    """JSON has no NaN: such a metric is told instead of recorded."""
    return [f"{name} is {value}" for name, value in metrics.items() if not isfinite(value)]


def output_records(partial: Path) -> dict[str, FileRecord]:
    """Every file of a finished folder by its path in it, the pipeline's own two left out."""
    own = {partial / FINGERPRINT_MARK, partial / MANIFEST_NAME}
    files = sorted(path for path in partial.rglob("*") if path.is_file() and path not in own)
    return {path.relative_to(partial).as_posix(): FileRecord.of(path) for path in files}
