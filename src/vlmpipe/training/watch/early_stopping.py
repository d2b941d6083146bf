"""A phase ends when the task metric on held-out samples no longer rises; its best weights stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from vlmpipe.config.train import EarlyStoppingSection
from vlmpipe.pipeline.events import Reporter
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.watch.rows import append_row, rows_of_phase

EXAMINED = "examined"
STOPPED_EARLY = "stopped_early"


class EarlyStopping(TrainerCallback):
    """Examines the model every `every_steps`, saves at each new best, stops after `patience`.

    What it remembers are the rows of the phase: a resumed phase has those up to its checkpoint.
    """

    def __init__(
        self,
        phase: Phase,
        settings: EarlyStoppingSection,
        measure: Callable[[], float],
        metrics_path: Path,
        reporter: Reporter,
        *,
        is_main: bool = True,
    ) -> None:
        """`measure` examines the model under training, larger is better; see `task_exam`.

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

        self._best = 0.0
        self._without_gain = 0
        for row in rows_of_phase(metrics_path, phase):
            if row.get("event") == EXAMINED:
                self._take(row["step"] - phase.first_step, float(row["value"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Examine where it is due; ask for a save, or for the end."""
        step = state.global_step
        if self._settings.patience is None or step % self._settings.every_steps:
            return control
        value = self._agreed(self._measure())
        is_best = self._take(step, value)
        self._tell(step, value, is_best)
        if is_best:
            control.should_save = True
        if self.stopped:
            control.should_training_stop = True
        return control

    def _take(self, step: int, value: float) -> bool:
        """Count a measurement; whether it is a new best."""
        is_best = self.best_step is None or value > self._best + self._settings.min_gain
        if is_best:
            self.best_step, self._best, self._without_gain = step, value, 0
        else:
            self._without_gain += 1
        patience = self._settings.patience
        self.stopped = patience is not None and self._without_gain >= patience
        return is_best

    def _agreed(self, value: float) -> float:
        """One value for all processes: they must go on, or stop, together."""
        from accelerate.utils import broadcast_object_list

        return float(broadcast_object_list([value])[0])

    def _tell(self, step: int, value: float, is_best: bool) -> None:
        at = self._phase.first_step + step
        row = {"step": at, "phase": self._phase.name, "event": EXAMINED}
        self._append({**row, "value": value, "best": is_best})
        best = "the best so far" if is_best else f"best is {self._best:.4f}"
        self._reporter.note(f"step {at}: {value:.4f} on held-out samples, {best}")
        if self.stopped:
            best_at = self._phase.first_step + (self.best_step or 0)
            self._append({**row, "event": STOPPED_EARLY, "best_step": best_at, "value": self._best})
            self._reporter.note(
                f"phase {self._phase.name} ends at step {at}: no better than after step {best_at}"
                f" in {self._without_gain} measurements; its weights are taken back"
            )

    def _append(self, row: dict[str, Any]) -> None:
        if self._is_main:
            append_row(self._path, row)
