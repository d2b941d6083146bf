"""Steps of a phase under the run's own trainer, watched one by one, with nothing kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from vlmpipe.training.batching.plan import BatchPlan
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.lab.steps import Step
from vlmpipe.training.optimizer import set_learning_rate
from vlmpipe.training.phase_trainer import PhaseTrainer, PhaseWork
from vlmpipe.training.session import TrainingSession
from vlmpipe.training.watchmen import Watchmen


@dataclass
class Observer(TrainerCallback):
    """Gives each step its learning rate, and asks after it whether to stop."""

    rate: Callable[[int], float]
    """Learning rate of a step, counted from 1."""

    is_enough: Callable[[Step], bool]
    """Called after the step's update."""

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any
    ) -> None:
        """The schedule's own rate is overruled."""
        set_learning_rate(optimizer, self.rate(state.global_step + 1))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """A step's loss, as it was before its update."""
        if not logs or "loss" not in logs:
            return
        number = state.global_step
        norm = float(logs.get("grad_norm") or 0.0)
        if self.is_enough(Step(number, float(logs["loss"]), norm, self.rate(number))):
            control.should_training_stop = True


def train_watched(
    session: TrainingSession, phase: Phase, plan: BatchPlan, observer: Observer
) -> None:
    """Take the plan's steps, at most; the session's model is trained, and nothing is written."""
    with TemporaryDirectory(prefix="vlmpipe-trial-", dir=session.folder) as folder:
        session.folder, kept = type(session.folder)(folder), session.folder
        try:
            trainer = _trainer(session, phase, plan, observer)
            trainer.train()
        finally:
            session.folder = kept


def _trainer(
    session: TrainingSession, phase: Phase, plan: BatchPlan, observer: Observer
) -> PhaseTrainer:
    work = PhaseWork(
        session.config,
        session.family,
        phase,
        plan,
        session.collator(phase),
        session.folder,
        session.dtype,
    )
    guard = Watchmen.none(session, phase, plan).guard
    trainer = PhaseTrainer(session.model, work, guard, [observer])
    trainer.remove_callback(TensorBoardCallback)
    return trainer
