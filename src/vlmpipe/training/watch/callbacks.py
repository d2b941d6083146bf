"""What is written and shown while a phase trains."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from vlmpipe.errors import StageError
from vlmpipe.pipeline.events import Reporter
from vlmpipe.training.curriculum import Phase


class PhaseMetrics(TrainerCallback):
    """One JSON line a step, the progress bar, and a stop on a loss that is no number."""

    def __init__(
        self,
        phase: Phase,
        total_steps: int,
        metrics_path: Path,
        reporter: Reporter,
    ) -> None:
        self._phase = phase
        self._total = total_steps
        self._path = metrics_path
        self._reporter = reporter
        self._clock = time.perf_counter()
        self._tokens = 0.0

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Write one optimiser step."""
        if not logs or "loss" not in logs:
            return
        step, loss = self._phase.first_step + state.global_step, float(logs["loss"])
        tokens, speed = self._tokens_and_speed(float(logs.get("num_tokens") or 0))
        row = {
            "step": step,
            "phase": self._phase.name,
            "loss": loss,
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "token_accuracy": logs.get("mean_token_accuracy"),
            "tokens": round(tokens),
            "tokens_per_second": round(speed, 1),
        }
        append_row(self._path, row)
        self._refuse_no_number(loss, step)
        self._reporter.progress(
            f"train {self._phase.name}",
            step,
            self._total,
            loss=f"{loss:.4f}",
            tokens_per_s=f"{speed:.0f}",
        )

    def _tokens_and_speed(self, counted: float) -> tuple[float, float]:
        """Tokens of the step and tokens a second.

        `counted` is the trainer's count since it began, padding left out.
        """
        now = time.perf_counter()
        tokens = counted - self._tokens
        speed = tokens / max(now - self._clock, 1e-9)
        self._clock, self._tokens = now, counted
        return tokens, speed

    def _refuse_no_number(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise StageError(
                f"the loss became {loss} at step {step} (phase {self._phase.name})",
                "lower the learning rate: train.learning_rate=1e-4",
                "or train in a wider precision: model.dtype=float32",
            )


class ChosenCheckpoints(TrainerCallback):
    """Saves at the chosen steps, counted over all phases, and at the end of the phase."""

    def __init__(self, phase: Phase, chosen: tuple[int, ...]) -> None:
        self._steps = {step - phase.first_step for step in chosen} | {phase.steps}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Ask for a save where one is due."""
        if state.global_step in self._steps:
            control.should_save = True
        return control


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows written so far; a line cut short by a kill is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows
