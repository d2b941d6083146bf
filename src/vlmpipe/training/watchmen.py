"""Who looks on while a phase trains."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from vlmpipe.encoding.conversation import Sample
from vlmpipe.training.batching.plan import BatchPlan
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.input_gradients import WithoutInputGradients
from vlmpipe.training.interrupts import StopRequest, StopWhenAsked
from vlmpipe.training.vision_cache.cache import VisionCache
from vlmpipe.training.watch.anomalies import AnomalyWatch
from vlmpipe.training.watch.bad_steps import StepGuard
from vlmpipe.training.watch.callbacks import DueCheckpoints, PhaseMetrics
from vlmpipe.training.watch.early_stopping import EarlyStopping
from vlmpipe.training.watch.peak_flops import peak_flops
from vlmpipe.training.watch.task_exam import refuse_without_heldout, task_exam

if TYPE_CHECKING:
    from vlmpipe.training.session import TrainingSession


@dataclass(frozen=True)
class Watchmen:
    """Of one phase."""

    guard: StepGuard
    callbacks: Sequence[Any] = ()
    kept_steps: Callable[[], Container[int]] = frozenset
    """Steps within the phase whose checkpoints stay."""

    stopping: EarlyStopping | None = None

    @property
    def best_step(self) -> int | None:
        """Where a phase that was stopped early was best."""
        return self.stopping.best_step if self.stopping and self.stopping.stopped else None

    @staticmethod
    def none(session: TrainingSession, phase: Phase, plan: BatchPlan) -> Watchmen:
        """Nobody but the guard, which a trainer cannot be without."""
        return Watchmen(_guard(session, phase, plan))

    @staticmethod
    def of(
        session: TrainingSession, phase: Phase, plan: BatchPlan, request: StopRequest
    ) -> Watchmen:
        """All that the configuration asks for."""
        train, path, main = session.config.train, session.metrics_path, session.processes.is_first
        due = DueCheckpoints(phase, train.checkpoint_steps, train.save_steps)
        stopping = _early_stopping(session, phase)
        anomalies = AnomalyWatch(phase, train.watch, path, session.reporter, is_main=main)
        callbacks = [*_metrics(session, phase), anomalies, *([stopping] if stopping else ()), due]
        cache = session.cache_of(phase)
        if cache:
            callbacks.append(TowerAway(cache))
        callbacks.append(WithoutInputGradients())
        callbacks.append(StopWhenAsked(request, session.processes))

        def kept() -> frozenset[int]:
            best = stopping.best_step if stopping else None
            return due.kept | ({best} if best is not None else set())

        return Watchmen(_guard(session, phase, plan), callbacks, kept, stopping)


class TowerAway(TrainerCallback):
    """Takes the tower off the accelerator once the model is wrapped, which brings it there."""

    def __init__(self, cache: VisionCache) -> None:
        self._cache = cache

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Every feature is in the cache by now."""
        self._cache.tower.release()


def _guard(session: TrainingSession, phase: Phase, plan: BatchPlan) -> StepGuard:
    to_a_step = plan.accumulation * plan.processes

    def micro_batches(step: int) -> list[list[Sample]]:
        batches = plan.batches[step * to_a_step : (step + 1) * to_a_step]
        return [
            [session.samples[row.sample] for row in batch if not row.muted] for batch in batches
        ]

    return StepGuard(
        phase,
        session.config,
        micro_batches,
        session.metrics_path,
        session.reporter,
        is_main=session.processes.is_first,
    )


def _metrics(session: TrainingSession, phase: Phase) -> list[PhaseMetrics]:
    if not session.processes.is_first:
        return []
    peak = peak_flops(session.device, session.dtype) * session.processes.world
    last = session.phases[-1].last_step
    return [PhaseMetrics(phase, last, session.metrics_path, session.reporter, peak)]


def _early_stopping(session: TrainingSession, phase: Phase) -> EarlyStopping | None:
    settings = session.config.train.watch.early_stopping
    if settings.patience is None:
        return None
    refuse_without_heldout(settings, len(session.heldout))
    if phase is session.phases[0] and len(session.heldout) < settings.samples:
        session.reporter.note(
            f"early stopping: train.watch.early_stopping.samples={settings.samples}, and only"
            f" {len(session.heldout)} held out (data.heldout_fraction): all of them are answered"
        )
    samples = session.heldout[: settings.samples]
    exam = task_exam(
        session.model,
        session.encoder,
        samples,
        loss=lambda: session.heldout_loss(samples, session.encoder.contract.grid),
        max_new_tokens=session.config.validation.max_new_tokens,
        prepared=session.tower_present,
    )
    return EarlyStopping(
        phase,
        settings,
        exam,
        session.metrics_path,
        session.reporter,
        is_main=session.processes.is_first,
    )
