"""Where what is served comes from: each artifact with its digest, and whether the next stage took
just that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlmpipe.evaluation.published import PublishedStage
from vlmpipe.evaluation.report.artifacts import (
    Artifact,
    converted,
    merged,
    prepared,
    served,
    served_digest,
    trained,
)

Stages = Mapping[str, PublishedStage]
LIBRARIES = {
    "train": ("torch", "transformers", "peft", "bitsandbytes"),
    "merge": ("torch", "safetensors"),
    "convert": ("llama-cpp-python",),
    "deploy": ("llama-cpp-python", "fastapi"),
}
"""What had its hand in the artifact, by the stage that made it."""


MAKERS = {
    "setup": prepared,
    "train": trained,
    "merge": merged,
    "convert": converted,
    "deploy": served,
}
"""Stages that make something, with what lists it; the others only judge."""


@dataclass(frozen=True)
class Step:
    """What one stage made: a column of the drawing."""

    made_by: str
    artifacts: Sequence[Artifact]
    versions: str
    faults: Sequence[str]
    """Where it was made from something else than what lies there now."""


def lineage_of(stages: Stages) -> list[Step]:
    """From base model and data to the service, as far as the run has come."""
    steps = []
    for name, maker in MAKERS.items():
        artifacts = maker(stages[name], stages) if name in stages else []
        if artifacts:
            steps.append(_step(stages[name], artifacts, stages))
    return steps


def _step(stage: PublishedStage, artifacts: Sequence[Artifact], stages: Stages) -> Step:
    libraries = stage.manifest.facts.get("libraries")
    known = libraries if isinstance(libraries, dict) else {}
    named = [f"{name} {known[name]}" for name in LIBRARIES.get(stage.name, ()) if name in known]
    return Step(
        made_by=f"{stage.number} {stage.name} · {stage.version}",
        artifacts=artifacts,
        versions=", ".join(named),
        faults=[*_faults(stage, stages)],
    )


def _faults(stage: PublishedStage, stages: Stages) -> Iterator[str]:
    """Files that the stage took and that are others now."""
    for name, taken in stage.manifest.inputs.items():
        if name not in stages or name not in MAKERS:
            continue
        if taken.get("version") != stages[name].version:
            yield f"made from {name} {taken.get('version')}, latest is {stages[name].version}"
            continue
        outputs = stages[name].manifest.outputs
        for path, digest in (taken.get("files") or {}).items():
            if path in outputs and outputs[path].sha256 != digest:
                yield f"{name}'s {path} is another one now"
    if stage.name == "deploy" and "convert" in stages:
        made = {record.sha256 for record in stages["convert"].manifest.outputs.values()}
        weights = served_digest(stage)
        if weights and weights not in made:
            yield f"the weights in the bundle, {weights[:12]}, are none of convert's files"
