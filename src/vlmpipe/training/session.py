"""A training from the first phase to the last, resumable at every checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.models.families import Family
from vlmpipe.pipeline.events import Reporter
from vlmpipe.pipeline.files import write_text
from vlmpipe.training.adapter import open_parts
from vlmpipe.training.augment import KernelLot
from vlmpipe.training.batching.collator import PhaseCollator
from vlmpipe.training.batching.plan import BatchPlan
from vlmpipe.training.batching.positions import positions_for
from vlmpipe.training.checkpoints import (
    checkpoint_step,
    final_checkpoint,
    hand_on_best,
    newest_checkpoint,
)
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.distributed.processes import Processes, current_processes
from vlmpipe.training.distributed.sharding import is_sharded
from vlmpipe.training.evaluate import mean_loss
from vlmpipe.training.handing_on import METRICS_NAME, WORK_NAME
from vlmpipe.training.interrupts import StopRequest, interruption
from vlmpipe.training.optimizer import set_learning_rate
from vlmpipe.training.phase_adapters import keep_adapter, name_of
from vlmpipe.training.phase_fingerprints import evaluated_on
from vlmpipe.training.phase_states import keep_phase_state
from vlmpipe.training.phase_trainer import PhaseTrainer, PhaseWork, take_out_of_accelerate
from vlmpipe.training.plan_mark import keep_to_plan
from vlmpipe.training.preparation import Preparation
from vlmpipe.training.vision_cache.cache import Share, VisionCache
from vlmpipe.training.vision_cache.proof import prove_cached_equals_live
from vlmpipe.training.watch.rows import (
    append_row,
    forget_rows_after,
    handed_on_step,
    rows_of_phase,
)
from vlmpipe.training.watchmen import Watchmen

EVALUATED_SAMPLES = 16
"""Held-out samples whose loss is told after each phase."""


@dataclass
class TrainingSession:
    """What all phases share."""

    model: Any
    config: Config
    family: Family
    dtype: str
    preparation: Preparation
    samples: Sequence[Sample]
    heldout: Sequence[Sample]
    folder: Path
    reporter: Reporter
    cache: VisionCache | None = None
    fingerprints: Sequence[str] = ()
    """Of the phases, in order; empty where no state of a phase is to be kept for another training.
    """

    processes: Processes = field(default_factory=current_processes)
    optimizer: Any = None

    def run(self) -> None:
        """Train every phase that is not finished yet.

        Raises:
            StageError: when a watchman stops it, or a checkpoint cannot be written.
        """
        self._restore_finished()
        for phase in self.phases:
            if not self.is_finished(phase):
                self._train(phase)
        self.reporter.progress_done()

    @property
    def phases(self) -> Sequence[Phase]:
        """In order."""
        return self.preparation.phases

    @property
    def encoder(self) -> Encoder:
        """Under the contract that the run hands on."""
        return self.preparation.encoder

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line: training steps, evaluations, and what was noticed."""
        return self.folder / METRICS_NAME

    def phase_folder(self, phase: Phase) -> Path:
        """Where a phase keeps its checkpoints."""
        return self.folder / WORK_NAME / name_of(phase)

    @property
    def device(self) -> Any:
        """Where the model computes: a torch.device."""
        return next(p for p in self.model.parameters() if p.requires_grad).device

    @property
    def autocast_dtype(self) -> Any:
        """What the trainer casts to: a torch.dtype, None where it casts nothing."""
        return autocast_dtype(self.dtype)

    def tower_present(self) -> AbstractContextManager[None]:
        """The tower on its device inside, should the cache have taken it away."""
        return self.cache.tower.present() if self.cache else nullcontext()

    @cached_property
    def lot(self) -> KernelLot:
        """Draws the kernels that images are resized by."""
        return KernelLot(self.config.train.augment.resize_kernels, self.config.run.seed)

    def cache_of(self, phase: Phase) -> VisionCache | None:
        """The vision cache, None where it is off or the phase trains a part of the tower."""
        return None if phase.unfreeze else self.cache

    def collator(self, phase: Phase) -> PhaseCollator:
        """Rows to the batches of a phase."""
        cache = self.cache_of(phase)
        return PhaseCollator(
            self.samples,
            self.encoder,
            self.config.train.loss.scope,
            phase.grid,
            phase=phase.number,
            lot=self.lot,
            positions=positions_for(self.model) if self.preparation.batching.packed else None,
            features=cache.features_for if cache else None,
        )

    def fill_cache(self, phase: Phase, plan: BatchPlan) -> None:
        """Compute the features that the phase needs and that are not kept yet, and prove some.

        Raises:
            StageError: where kept features are not what the tower gives now.
        """
        cache, own = self.cache_of(phase), self.processes
        if cache is None:
            return
        cache.fill(
            [row for batch in plan.batches for row in batch],
            phase.grid,
            self.lot,
            phase.number,
            own_rows=[row for batch in plan.of_process(own.rank) for row in batch],
            share=Share(own.rank, own.world, own.world, own.barrier),
            label=phase.name,
        )
        proof = prove_cached_equals_live(cache, with_logits=not is_sharded(self.model))
        self.reporter.note(
            f"vision cache: {proof.images} images, read back, equal the live tower's bit for bit"
        )

    def _train(self, phase: Phase) -> None:
        folder = self.phase_folder(phase)
        folder.mkdir(parents=True, exist_ok=True)
        keep_to_plan(folder, phase, self.preparation.plan(phase), self.processes)
        open_parts(self.model, self.family, phase.unfreeze)
        checkpoint = newest_checkpoint(folder)
        self.processes.barrier()  # nobody writes before all have looked
        final = final_checkpoint(folder, phase.steps)
        if self.processes.is_first and not final:
            step = checkpoint_step(checkpoint) if checkpoint else 0
            forget_rows_after(self.metrics_path, phase.first_step + step)
        self.processes.barrier()
        if final:
            self._load(final, phase)  # stopped between the last step and the mark
        else:
            self._step_through(phase, folder, checkpoint)
        self._evaluate(phase)
        self._finish(phase, folder)

    def _step_through(self, phase: Phase, folder: Path, checkpoint: Path | None) -> None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(self.folder / "tensorboard" / folder.name)
        plan = self.preparation.plan(phase)
        self.fill_cache(phase, plan)
        if self.cache and not self.cache_of(phase):
            self.cache.tower.restore()  # a phase before has sent it away
        if self.optimizer is not None:
            set_learning_rate(self.optimizer, phase.learning_rate)
        with StopRequest(self.reporter) as request:
            watchmen = Watchmen.of(self, phase, plan, request)
            trainer = self._trainer(phase, plan, watchmen)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        take_out_of_accelerate(self.model)
        if request.asked:
            step = phase.first_step + trainer.state.global_step
            raise interruption(step, self.phases[-1].last_step)
        self.optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        if watchmen.best_step is not None:
            self._take_back(phase, folder, watchmen.best_step)

    def _trainer(self, phase: Phase, plan: BatchPlan, watchmen: Watchmen) -> PhaseTrainer:
        work = PhaseWork(
            self.config,
            self.family,
            phase,
            plan,
            self.collator(phase),
            self.phase_folder(phase),
            self.dtype,
        )
        trainer = PhaseTrainer(self.model, work, watchmen.guard, watchmen.callbacks, self.optimizer)
        trainer.kept_steps = watchmen.kept_steps
        return trainer

    def _take_back(self, phase: Phase, folder: Path, best_step: int) -> None:
        """A phase that was ended early is handed on as it was at its best."""
        if self.processes.is_first:
            hand_on_best(folder, best_step)
        self.processes.barrier()
        self._load(folder / f"checkpoint-{best_step}", phase)

    def _evaluate(self, phase: Phase) -> None:
        """Held-out loss at the phase's own image size and at the one that serving uses."""
        if not self.heldout:
            return
        with self.tower_present():
            samples = self.heldout[:EVALUATED_SAMPLES]
            own = self.heldout_loss(samples, phase.grid)
            common = self.heldout_loss(samples, self.encoder.contract.grid)
        # A kill between this row and the phase's mark leaves the row.
        told = any("eval_loss" in row for row in rows_of_phase(self.metrics_path, phase))
        if self.processes.is_first and not told:
            step = handed_on_step(self.metrics_path, phase)
            row = {"step": step, "phase": phase.name}
            append_row(self.metrics_path, {**row, "eval_loss": common, "eval_loss_phase": own})
        self.reporter.note(f"phase {phase.name}: held-out loss {common:.4f}")

    def heldout_loss(self, samples: Sequence[Sample], grid: ImageGrid) -> float:
        """Nats a supervised token; the tower must be on its device."""
        scope = self.config.train.loss.scope
        return mean_loss(self.model, samples, self.encoder, scope, grid, self.autocast_dtype)

    def _finish(self, phase: Phase, folder: Path) -> None:
        """Keep what the phase made of the adapter, before the next one changes it, and mark it."""
        if self.processes.is_first:
            checkpoint = final_checkpoint(folder, phase.steps)
            followed = phase is not self.phases[-1]
            if followed and checkpoint is not None and self.config.train.method != "full":
                keep_adapter(self.folder, phase, checkpoint)
                self._keep_state(phase, checkpoint)
            write_text(folder / "finished", f"{phase.last_step}\n")
        self.processes.barrier()

    def _keep_state(self, phase: Phase, checkpoint: Path) -> None:
        if self.fingerprints and self.config.train.keep_phase_states:
            keep_phase_state(
                self.folder,
                phase,
                checkpoint,
                self.fingerprints[phase.number],
                metrics=self.metrics_path,
                evaluated_on=evaluated_on(self.encoder.contract),
            )

    def is_finished(self, phase: Phase) -> bool:
        """Whether nothing of a phase is left to do."""
        return (self.phase_folder(phase) / "finished").is_file()

    def _restore_finished(self) -> None:
        """Put the model and Adam's state back to where the last finished phase left them."""
        done = [phase for phase in self.phases if self.is_finished(phase)]
        self.processes.barrier()
        if not done:
            return
        folder = self.phase_folder(done[-1])
        checkpoint = final_checkpoint(folder, done[-1].steps)
        if checkpoint is not None:
            self._load(checkpoint, done[-1])
            return
        if self.processes.is_first:
            for phase in done:
                shutil.rmtree(self.phase_folder(phase))
        self.processes.barrier()

    def _load(self, checkpoint: Path, phase: Phase) -> None:
        """Weights and optimiser as a checkpoint of the phase has them."""
        open_parts(self.model, self.family, phase.unfreeze)
        self.optimizer = None
        plan = self.preparation.plan(phase)
        trainer = self._trainer(phase, plan, Watchmen.none(self, phase, plan))
        trainer.load_weights(checkpoint)
        self.optimizer = trainer.load_optimizer(checkpoint)


def autocast_dtype(dtype: str) -> Any:
    """torch's type of a compute precision; None for float32, under which nothing is cast."""
    import torch

    return None if dtype == "float32" else getattr(torch, dtype)
