"""What a phase was begun with, so that nobody goes on with it by another plan."""

from __future__ import annotations

import json
from pathlib import Path

from vlmpipe.errors import StageError
from vlmpipe.pipeline.files import write_json
from vlmpipe.pipeline.fingerprint import fingerprint_of
from vlmpipe.training.batching.plan import BatchPlan
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.distributed.processes import Processes
from vlmpipe.training.phase_fingerprints import phase_facts

PLAN_NAME = "plan.json"


def keep_to_plan(folder: Path, phase: Phase, plan: BatchPlan, processes: Processes) -> None:
    """Mark a phase's folder with the digest of its micro-batches; every process must call it.

    Raises:
        StageError: where the folder was begun by another plan: another number of processes makes
            other steps of the same settings.
    """
    path, digest = folder / PLAN_NAME, fingerprint_of(phase_facts(phase, plan))
    begun = json.loads(path.read_bytes()) if path.is_file() else None
    processes.barrier()  # nobody writes before all have looked
    if begun is not None and begun["digest"] != digest:
        raise StageError(
            f"phase {phase.name} was begun with {begun['processes']} processes and"
            f" {begun['accumulation']} forward passes to a step in each; now there are"
            f" {plan.processes} and {plan.accumulation}, and its steps would be others",
            f"go on as it was begun: --num-processes {begun['processes']}",
            f"or begin anew: remove {folder.parent}",
        )
    if begun is None and processes.is_first:
        facts = {"processes": plan.processes, "accumulation": plan.accumulation}
        write_json(path, {"digest": digest, **facts})
