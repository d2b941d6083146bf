"""A phase ends when the task metric on held-out samples no longer rises; its best weights stay.

Where the metric is what it was, the held-out loss decides: an untrained model's metric stays at its
floor for many steps while it learns, a trained one's at its ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from vlmpipe.config.train import EarlyStoppingSection
from vlmpipe.pipeline.events import Reporter
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.watch.rows import STOPPED_EARLY, append_row, rows_of_phase
from vlmpipe.training.watch.task_exam import Exam

EXAMINED = "examined"


class EarlyStopping(TrainerCallback):
    """Examines the model every `every_steps`, saves at each new best, stops after `patience`.

    What it remembers are the rows of the phase: a resumed phase has those up to its checkpoint.
    """

    def __init__(
        self,
        phase: Phase,
        settings: EarlyStoppingSection,
        measure: Callable[[], Exam],
        metrics_path: Path,
        reporter: Reporter,
        *,
        is_main: bool = True,
    ) -> None:
        """`measure` examines the model under training; see `task_exam`.

        Every process calls it; what the main process measured is what counts.
        """
        self._phase = phase
        self._settings = settings
        self._measure = measure
        self._path = metrics_path
        self._reporter = reporter
        self._is_main = is_main
        self.best_step: int | None = None
        """Within the phase; its checkpoint must stay."""

        self.stopped = False
        """The phase is over, and was best after `best_step`."""

        self._best: Exam | None = None
        self._without_gain = 0
        for row in rows_of_phase(metrics_path, phase):
            if row.get("event") == EXAMINED:
                self._take(row["step"] - phase.first_step, _of(row))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Examine where it is due; ask for a save, or for the end."""
        step = state.global_step
        if self._settings.patience is None or step % self._settings.every_steps:
            return control
        exam = self._agreed(self._measure())
        is_best = self._take(step, exam)
        self._tell(step, exam, is_best)
        if is_best:
            control.should_save = True
        if self.stopped:
            control.should_training_stop = True
        return control

    def _take(self, step: int, exam: Exam) -> bool:
        """Count a measurement; whether it is a new best."""
        is_best = self._best is None or exam.beats(self._best, self._settings.min_gain)
        if is_best:
            self.best_step, self._best, self._without_gain = step, exam, 0
        else:
            self._without_gain += 1
        patience = self._settings.patience
        self.stopped = patience is not None and self._without_gain >= patience
        return is_best

    def _agreed(self, exam: Exam) -> Exam:
        """One for all processes: they must go on, or stop, together."""
        from accelerate.utils import broadcast_object_list

        agreed: Exam = broadcast_object_list([exam])[0]
        return agreed

    def _tell(self, step: int, exam: Exam, is_best: bool) -> None:
        self._append(step, EXAMINED, {**exam.as_row(), "best": is_best})
        at = self._phase.first_step + step
        self._reporter.note(f"step {at}: {exam}, {self._standing(is_best)}")
        if self.stopped and self._best is not None:
            best_at = self._phase.first_step + (self.best_step or 0)
            self._append(step, STOPPED_EARLY, {**self._best.as_row(), "best_step": best_at})
            self._reporter.note(
                f"phase {self._phase.name} ends at step {at}, with the weights of step {best_at}:"
                f" {_measurements(self._without_gain)} no better, neither by {exam.metric} nor,"
                " where that is the same, by the loss"
            )

    def _standing(self, is_best: bool) -> str:
        if is_best or self._best is None:
            return "the best so far"
        best_at = self._phase.first_step + (self.best_step or 0)
        return f"no better than step {best_at} ({self._best.figures})"

    def _append(self, step: int, event: str, figures: dict[str, Any]) -> None:
        if self._is_main:
            row = {"step": self._phase.first_step + step, "phase": self._phase.name}
            append_row(self._path, {**row, "event": event, **figures})


def _of(row: dict[str, Any]) -> Exam:
    """As it was written; a loss that was no number was left out."""
    loss = float(row.get("heldout_loss", math.inf))
    return Exam(row["metric"], row["samples"], float(row["value"]), loss)


def _measurements(count: int) -> str:
    return "the last measurement was" if count == 1 else f"the last {count} measurements were"
