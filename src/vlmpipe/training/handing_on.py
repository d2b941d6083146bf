"""What a finished training leaves to the next stages."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmpipe.models.adapter_base import record_adapter_base
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.quiet import quiet_transformers
from vlmpipe.training.adapter import save_adapter
from vlmpipe.training.checkpoints import checkpoint_step
from vlmpipe.training.distributed.sharding import is_sharded, whole_state
from vlmpipe.training.phase_adapters import write_index

if TYPE_CHECKING:
    from vlmpipe.training.session import TrainingSession

METRICS_NAME = "metrics.jsonl"
"""One JSON object a line: training steps, evaluations, and what was noticed."""

ADAPTER_NAME = "adapter"
MODEL_NAME = "model"
"""Where all of a model was trained."""

WORK_NAME = "in_training"
"""Checkpoints of every phase, while there is something to resume."""


def hand_on(session: TrainingSession, base: BaseModelFolder) -> None:
    """Write weights, contract and the chosen checkpoints; every process must call it."""
    state = whole_state(session.model) if is_sharded(session.model) else None
    if not session.processes.is_first:
        return
    session.encoder.contract.write(session.folder)
    if session.config.train.method == "full":
        _write_model(session, state)
    else:
        save_adapter(session.model, base, session.folder / ADAPTER_NAME, state)
        train = session.config.train
        quantization = train.quantization if train.method == "qlora" else None
        record_adapter_base(
            session.folder / ADAPTER_NAME, base, dtype=session.dtype, quantization=quantization
        )
        if len(session.phases) > 1:
            write_index(session.folder, session.phases, session.metrics_path)
    keep_chosen_checkpoints(session)


def is_finished(folder: Path) -> bool:
    """Whether all is written, and only the publication was missed."""
    handed_on = (folder / ADAPTER_NAME).is_dir() or (folder / MODEL_NAME).is_dir()
    return handed_on and not (folder / WORK_NAME).exists()


def keep_chosen_checkpoints(session: TrainingSession) -> None:
    """Keep the chosen steps' checkpoints, by their step over all phases."""
    kept = session.folder / "checkpoints"
    for phase in session.phases:
        for checkpoint in session.phase_folder(phase).glob("checkpoint-*"):
            step = phase.first_step + checkpoint_step(checkpoint)
            if step in session.config.train.checkpoint_steps:
                kept.mkdir(exist_ok=True)
                # An attempt that was killed right here may have left one.
                shutil.rmtree(kept / f"step-{step}", ignore_errors=True)
                checkpoint.rename(kept / f"step-{step}")


def drop_phases(folder: Path) -> None:
    """Remove what only a resume needs.

    In one step, seen from outside: with half of it gone, a resume would take up a later phase and
    train an earlier one after it.
    """
    aside = folder / f".{WORK_NAME}.dropped"
    if (folder / WORK_NAME).exists():
        (folder / WORK_NAME).rename(aside)
    if aside.exists():
        shutil.rmtree(aside)


def _write_model(session: TrainingSession, state: dict[str, Any] | None) -> None:
    """In bfloat16, as merge writes it; `state` where the model itself has its weights in parts."""
    import torch

    folder, model = session.folder / MODEL_NAME, session.model
    whole = model.state_dict() if state is None else _whole(model, state)
    rounded = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value
        for name, value in whole.items()
    }
    model.config.dtype = torch.bfloat16
    with quiet_transformers():
        model.save_pretrained(folder, state_dict=rounded)
    session.encoder.tokenizer.save_pretrained(folder)


def _whole(model: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Every weight: what was frozen lies whole in each process, what was trained is in `state`."""
    return {name: state.get(name, value) for name, value in model.state_dict().items()}
