"""What a phase left, published under its fingerprint, so that another training goes on from it.

Beside the phase's adapter (see `phase_adapters`) that is the optimiser's state. The last phase's is
not kept: it would cost every training, those of one phase too, twice its adapter, and serves only
one that adds a phase to the very same others. Nor is anything of `train.method=full`, where a phase
takes twelve bytes for each weight of the model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vlmpipe.pipeline.files import sha256_of, sync_tree, why_unreadable, write_json, write_text
from vlmpipe.training.checkpoints import ASIDE_NAME, BEST_NAME, checkpoint_step, seal
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.distributed.trainer import OPTIMIZER_NAME
from vlmpipe.training.handing_on import METRICS_NAME
from vlmpipe.training.phase_adapters import FOLDER, WEIGHTS_NAME, name_of
from vlmpipe.training.watch.rows import rows_of_phase

STATES = "phase_states"
"""Apart from the adapters: validate reads those, and is not to run again for another duration."""

RECORD_NAME = "phase.json"
FINISHED_NAME = "finished"
CHECKPOINT_FILES = (OPTIMIZER_NAME, "adapter_config.json")
"""Of a checkpoint, beside the adapter's weights."""

EVALUATION_KEY = "eval_loss"


class PhaseState(BaseModel):
    """phase.json: what a phase left, and by which fingerprint."""

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    name: str
    """Of the phase."""

    step: int
    """Within the phase, of the checkpoint that it was handed on as: fewer than it has steps where
    it was stopped early."""

    files: dict[str, str]
    """Path from the train version's folder to sha256."""

    evaluated_on: str
    """See `phase_fingerprints.evaluated_on`."""

    rows: list[dict[str, Any]]
    """Of metrics.jsonl."""


@dataclass(frozen=True)
class TakenState:
    """A phase's state and the folder of its train version."""

    state: PhaseState
    version: Path


@dataclass(frozen=True)
class Reusable:
    """The first phases of a training, as earlier ones left them."""

    states: tuple[TakenState, ...] = ()
    damaged: tuple[str, ...] = ()
    """One line for each state that was passed over."""

    def lines(self) -> list[str]:
        """For a person."""
        taken = [
            f"phase {taken.state.name} is taken over from {taken.version.name}: nothing that"
            " decides it has changed"
            for taken in self.states
        ]
        return [*self.damaged, *taken]


def keep_phase_state(
    folder: Path,
    phase: Phase,
    checkpoint: Path,
    fingerprint: str,
    *,
    metrics: Path,
    evaluated_on: str,
) -> None:
    """Publish a finished phase's optimiser in train's `folder`, where its adapter lies already.

    `metrics` is metrics.jsonl, with all rows of the phase.
    """
    kept = folder / STATES / name_of(phase)
    aside = kept.with_name(f".{kept.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    files = {_weights_of(phase): sha256_of(folder / _weights_of(phase))}
    for name in CHECKPOINT_FILES:
        shutil.copyfile(checkpoint / name, aside / name)
        files[f"{STATES}/{kept.name}/{name}"] = sha256_of(aside / name)
    state = PhaseState(
        fingerprint=fingerprint,
        name=phase.name,
        step=checkpoint_step(checkpoint),
        files=files,
        evaluated_on=evaluated_on,
        rows=rows_of_phase(metrics, phase),
    )
    write_json(aside / RECORD_NAME, state.model_dump(mode="json"))
    sync_tree(aside)
    shutil.rmtree(kept, ignore_errors=True)
    aside.rename(kept)


def find_reusable(folder: Path, fingerprints: Sequence[str]) -> Reusable:
    """As many first phases as earlier versions beside train's `folder` hold, each sound.

    Published versions and what interrupted trainings left are looked through, newest first. A
    fingerprint is over those before it, so each phase may come from another version.
    """
    damaged: list[str] = []
    published = list(_published_beside(folder, damaged))
    taken: list[TakenState] = []
    for fingerprint in fingerprints:
        same = (each for each in published if each.state.fingerprint == fingerprint)
        found = next((each for each in same if _is_sound(each, damaged)), None)
        if found is None:
            break
        taken.append(found)
    return Reusable(tuple(taken), tuple(damaged))


def take_over(
    reusable: Reusable, folder: Path, work: Path, phases: Sequence[Phase], *, evaluated_on: str
) -> None:
    """Lay the reusable phases into train's `folder` as if they had been trained and finished there.

    `work` is where a training keeps its checkpoints. It must not exist yet, and comes into being
    whole, as the last thing: what a kill leaves before is laid anew. Held-out losses that were
    measured at another grid than `evaluated_on` are left out.
    """
    if not reusable.states:
        return
    aside = work.with_name(f".{work.name}.taken")
    shutil.rmtree(aside, ignore_errors=True)
    pairs = list(zip(reusable.states, phases, strict=False))
    for taken, phase in pairs:
        if phase is not phases[-1]:
            _copy(taken, folder)
        write_text(aside / name_of(phase) / FINISHED_NAME, f"{phase.last_step}\n")
    _lay_checkpoint(*pairs[-1], aside / name_of(pairs[-1][1]))
    rows = [row for taken, _ in pairs for row in _rows(taken.state, evaluated_on)]
    write_text(folder / METRICS_NAME, "".join(json.dumps(row) + "\n" for row in rows))
    sync_tree(aside)
    aside.rename(work)


def _weights_of(phase: Phase) -> str:
    return f"{FOLDER}/{name_of(phase)}/{WEIGHTS_NAME}"


def _published_beside(folder: Path, damaged: list[str]) -> Iterator[TakenState]:
    others = [path for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    versions = [path for path in others if not path.is_symlink()]  # `latest` is one of them
    for version in sorted(versions, key=lambda path: (len(path.name), path.name), reverse=True):
        for record in sorted(version.glob(f"{STATES}/*/{RECORD_NAME}")):
            try:
                state = PhaseState.model_validate_json(record.read_bytes())
            except (OSError, ValidationError) as exc:
                damaged.append(_passed_over(record, f"is damaged: {why_unreadable(exc)}"))
            else:
                yield TakenState(state, version)


def _is_sound(taken: TakenState, damaged: list[str]) -> bool:
    for name, digest in taken.state.files.items():
        path = taken.version / name
        if not path.is_file() or sha256_of(path) != digest:
            why = "is not what was written" if path.is_file() else "is gone"
            damaged.append(_passed_over(path, why))
            return False
    return True


def _passed_over(path: Path, why: str) -> str:
    return f"{path} {why}: the phase is not taken over from there"


def _copy(taken: TakenState, folder: Path) -> None:
    """What a phase published, to where this training publishes it."""
    optimizer = next(name for name in taken.state.files if name.endswith(OPTIMIZER_NAME))
    record = str(Path(optimizer).with_name(RECORD_NAME))
    for name in (*taken.state.files, record):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(taken.version / name, folder / name)


def _lay_checkpoint(taken: TakenState, phase: Phase, folder: Path) -> None:
    """The phase's last checkpoint, as far as a next phase needs it."""
    aside, name = folder / ASIDE_NAME, f"checkpoint-{taken.state.step}"
    aside.mkdir(parents=True)
    for path in taken.state.files:
        shutil.copyfile(taken.version / path, aside / Path(path).name)
    seal(aside, folder / name)
    if taken.state.step < phase.steps:
        write_text(folder / BEST_NAME, f"{name}\n")


def _rows(state: PhaseState, evaluated_on: str) -> list[dict[str, Any]]:
    comparable = state.evaluated_on == evaluated_on
    return [row for row in state.rows if comparable or EVALUATION_KEY not in row]
