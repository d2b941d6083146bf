"""The adapter as each phase of a curriculum left it, so that validate can say what a phase bought.

The last phase's is the one that train hands on; it is named, not written twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from vlmpipe.errors import ArtifactError
from vlmpipe.pipeline.files import sync_path, why_unreadable, write_json
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.watch.rows import handed_on_step

FOLDER = "phases"
INDEX_NAME = "phases.json"
WEIGHTS_NAME = "adapter_model.safetensors"
FINAL = "adapter"


class PhaseAdapter(BaseModel):
    """One phase and where its adapter lies."""

    model_config = ConfigDict(frozen=True)

    number: int
    name: str
    last_step: int
    """The step, over all phases, whose weights these are: the phase's best where it was stopped
    early."""

    folder: str
    """Of `adapter_model.safetensors`, from train's folder."""


def keep_adapter(folder: Path, phase: Phase, checkpoint: Path) -> None:
    """Copy a finished phase's adapter to where it is published."""
    kept = folder / FOLDER / name_of(phase)
    kept.mkdir(parents=True, exist_ok=True)
    aside = kept / f".{WEIGHTS_NAME}.writing"
    shutil.copyfile(checkpoint / WEIGHTS_NAME, aside)
    sync_path(aside)
    aside.replace(kept / WEIGHTS_NAME)


def write_index(folder: Path, phases: Sequence[Phase], metrics: Path) -> None:
    """Say which adapters there are, in the order of the phases; `metrics` is metrics.jsonl."""
    rows = [
        PhaseAdapter(
            number=phase.number,
            name=phase.name,
            last_step=handed_on_step(metrics, phase),
            folder=FINAL if phase is phases[-1] else f"{FOLDER}/{name_of(phase)}",
        ).model_dump()
        for phase in phases
    ]
    write_json(folder / FOLDER / INDEX_NAME, rows)


def read_index(folder: Path) -> tuple[PhaseAdapter, ...]:
    """The phases of a train version's folder; empty where there was one phase, or no adapter.

    Raises:
        ArtifactError: when it cannot be read.
    """
    path = folder / FOLDER / INDEX_NAME
    if not path.is_file():
        return ()
    try:
        return TypeAdapter(tuple[PhaseAdapter, ...]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as exc:
        raise ArtifactError(
            f"{path} is damaged: {why_unreadable(exc)}",
            "train again: `vlmpipe run-all --force train` with the same options",
        ) from exc


def name_of(phase: Phase) -> str:
    """Of a phase's folder, wherever it has one."""
    return f"{phase.number}_{phase.name}"
