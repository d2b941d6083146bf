"""One step without an update, and the memory that it took."""

from __future__ import annotations

from typing import Any

from vlmpipe.models.loading import release_memory
from vlmpipe.training.audits.untouched import untouched
from vlmpipe.training.batching.rows import Batch
from vlmpipe.training.dry_run.cases import PhaseCase
from vlmpipe.training.dry_run.fit import Trial
from vlmpipe.training.dry_run.memory import is_out_of_memory
from vlmpipe.training.memory_peak import peak_memory


def try_batch(case: PhaseCase, batch: Batch, model: Any, device: Any) -> Trial | None:
    """Forward and backward on a micro-batch; None when the memory ran out.

    Weights, gradients, modes and random generators are afterwards what they were.
    """
    load = case.load_of(batch)
    try:
        # Before the measurement: a vision cache that is not filled yet runs the tower for it.
        tensors = case.collate(batch)
        with untouched(model), peak_memory(device) as peak:
            case.step(tensors)
    except (RuntimeError, MemoryError) as exc:
        if not is_out_of_memory(exc):
            raise
        # Its frames hold the tensors of the step that failed.
        exc.__traceback__ = None
        release_memory()
        return None
    return Trial(load, peak.bytes)
