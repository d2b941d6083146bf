"""A training from the first phase to the last, resumable at every checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.pipeline.events import Reporter
from vlmpipe.pipeline.files import write_text
from vlmpipe.training.adapter import load_adapter_weights
from vlmpipe.training.augment import EpochOfLot, KernelLot
from vlmpipe.training.batching.collator import SampleCollator
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.evaluate import mean_loss
from vlmpipe.training.interrupts import StopRequest, StopWhenAsked, interruption
from vlmpipe.training.phase_adapters import keep_adapter
from vlmpipe.training.phase_trainer import phase_trainer, set_learning_rate
from vlmpipe.training.watch.callbacks import ChosenCheckpoints, PhaseMetrics, append_row, read_rows

METRICS_NAME = "metrics.jsonl"
WORK_NAME = "in_training"
"""Checkpoints of every phase, while there is something to resume."""


@dataclass
class TrainingSession:
    """What all phases share."""

    model: Any
    config: Config
    dtype: str
    phases: Sequence[Phase]
    samples: Sequence[Sample]
    heldout: Sequence[Sample]
    encoder: Encoder
    folder: Path
    reporter: Reporter
    optimizer: Any = None

    def run(self) -> None:
        """Train every phase that is not finished yet.

        Raises:
            StageError: when the loss is no longer a number.
        """
        self._restore_finished()
        for phase in self.phases:
            if not self._is_finished(phase):
                self._train(phase)
        self.reporter.progress_done()

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line: training steps and evaluations."""
        return self.folder / METRICS_NAME

    def phase_folder(self, phase: Phase) -> Path:
        """Where a phase keeps its checkpoints."""
        return self.folder / WORK_NAME / f"{phase.number}_{phase.name}"

    @cached_property
    def lot(self) -> KernelLot:
        """Draws the kernels that images are resized by."""
        return KernelLot(self.config.train.augment.resize_kernels, self.config.run.seed)

    def _train(self, phase: Phase) -> None:
        folder = self.phase_folder(phase)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = newest_checkpoint(folder)
        self._forget_rows_after(phase, checkpoint)
        if checkpoint and checkpoint_step(checkpoint) >= phase.steps:
            self._load(checkpoint, phase)  # stopped between the last step and this mark
        else:
            self._step_through(phase, folder, checkpoint)
        self._evaluate(phase)
        self._keep_adapter(phase)
        write_text(folder / "finished", f"{phase.last_step}\n")

    def _step_through(self, phase: Phase, folder: Path, checkpoint: Path | None) -> None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(self.folder / "tensorboard" / folder.name)
        collator = self._collator()
        last_step = self.phases[-1].last_step
        metrics = PhaseMetrics(phase, last_step, self.metrics_path, self.reporter)
        chosen = ChosenCheckpoints(phase, self.config.train.checkpoint_steps)
        if self.optimizer is not None:
            set_learning_rate(self.optimizer, phase.learning_rate)
        with StopRequest(self.reporter) as request:
            trainer = phase_trainer(
                self.model,
                self.config,
                phase,
                folder,
                collator,
                [metrics, chosen, EpochOfLot(self.lot), StopWhenAsked(request)],
                self.optimizer,
                self.dtype,
            )
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if request.asked:
            raise interruption(phase.first_step + trainer.state.global_step, last_step)
        self.optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)

    def _collator(self) -> SampleCollator:
        grids = [phase.grid for phase in self.phases]
        scope = self.config.train.loss.scope
        return SampleCollator(self.samples, self.encoder, scope, grids, self.lot)

    def _evaluate(self, phase: Phase) -> None:
        """Held-out loss at the phase's own image size and at the one that serving uses."""
        if not self.heldout:
            return
        scope, model = self.config.train.loss.scope, self.model
        own = mean_loss(model, self.heldout, self.encoder, scope, phase.grid)
        common = mean_loss(model, self.heldout, self.encoder, scope, self.encoder.contract.grid)
        append_row(
            self.metrics_path,
            {
                "step": phase.last_step,
                "phase": phase.name,
                "eval_loss": common,
                "eval_loss_phase": own,
            },
        )
        self.reporter.note(f"phase {phase.name}: held-out loss {common:.4f}")

    def _keep_adapter(self, phase: Phase) -> None:
        """What the phase made of the adapter, before the next one changes it."""
        checkpoint = newest_checkpoint(self.phase_folder(phase))
        followed = phase is not self.phases[-1]
        if followed and checkpoint is not None and self.config.train.method != "full":
            keep_adapter(self.folder, phase, checkpoint)

    def _is_finished(self, phase: Phase) -> bool:
        return (self.phase_folder(phase) / "finished").is_file()

    def _restore_finished(self) -> None:
        """Put the model and Adam's state back to where the last finished phase left them."""
        done = [phase for phase in self.phases if self._is_finished(phase)]
        if not done:
            return
        checkpoint = newest_checkpoint(self.phase_folder(done[-1]))
        if checkpoint is None:
            for phase in done:
                shutil.rmtree(self.phase_folder(phase))
            return
        self._load(checkpoint, done[-1])

    def _load(self, checkpoint: Path, phase: Phase) -> None:
        import torch

        if self.config.train.method == "full":
            from safetensors.torch import load_model

            load_model(self.model, str(checkpoint / "model.safetensors"))
        else:
            load_adapter_weights(self.model, checkpoint)
        trainer = phase_trainer(
            self.model,
            self.config,
            phase,
            self.phase_folder(phase),
            self._collator(),
            [],
            None,
            self.dtype,
        )
        optimizer = trainer.create_optimizer()
        state = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state)
        self.optimizer = optimizer

    def _forget_rows_after(self, phase: Phase, checkpoint: Path | None) -> None:
        """A resumed phase repeats the steps after its checkpoint; their rows would stand twice."""
        kept = phase.first_step + (checkpoint_step(checkpoint) if checkpoint else 0)
        rows = [row for row in read_rows(self.metrics_path) if row["step"] <= kept]
        self.metrics_path.unlink(missing_ok=True)
        for row in rows:
            append_row(self.metrics_path, row)
        if not self.metrics_path.exists():
            self.metrics_path.touch()


def checkpoint_step(checkpoint: Path) -> int:
    """Optimiser steps, within the phase, after which a checkpoint was taken."""
    return int(checkpoint.name.rpartition("-")[2])


def newest_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint of a phase; one cut short by a kill is passed over."""
    complete = [p for p in folder.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return max(complete, key=checkpoint_step, default=None)
