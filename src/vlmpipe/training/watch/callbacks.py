"""What is written and shown while a phase trains."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from vlmpipe.pipeline.events import Reporter
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.watch.rows import append_row

RATES = ("samples", "tokens", "supervised_tokens")
"""Counts of a step over all processes, as `throughput.CountedSteps` puts them into the logs."""


class PhaseMetrics(TrainerCallback):
    """One JSON line a step, and the progress bar.

    Must be the first of the phase's callbacks: a step's time ends before the others look at it,
    and begins after whatever followed the step before.
    """

    def __init__(
        self,
        phase: Phase,
        total_steps: int,
        metrics_path: Path,
        reporter: Reporter,
        peak_flops: float | None = None,
    ) -> None:
        """`peak_flops` is of all devices together, in FLOP/s; without it no MFU is told."""
        self._phase = phase
        self._total = total_steps
        self._path = metrics_path
        self._reporter = reporter
        self._peak = peak_flops
        self._begun = time.perf_counter()
        self._seconds = 1e-9

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What came before is no part of a step."""
        self._begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Batches fetched, forward, backward and optimiser are done; the device may still run."""
        self._seconds = max(time.perf_counter() - self._begun, 1e-9)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Write one optimiser step; one that was left out has no loss."""
        if not logs or "loss" not in logs:
            return
        step, loss = self._phase.first_step + state.global_step, float(logs["loss"])
        row = {
            "step": step,
            "phase": self._phase.name,
            "loss": loss,
            "learning_rate": logs.get("learning_rate"),
            "grad_norm": logs.get("grad_norm"),
            "token_accuracy": _accuracy(logs),
            **self._speed(logs),
        }
        append_row(self._path, {name: value for name, value in row.items() if _is_told(value)})
        self._show(step, loss, row)
        self._begun = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A checkpoint's time is no part of the next step."""
        self._begun = time.perf_counter()

    def _speed(self, logs: dict[str, Any]) -> dict[str, float]:
        counts = {name: int(logs[name]) for name in RATES if name in logs}
        rates = {
            f"{name}_per_second": round(count / self._seconds, 3) for name, count in counts.items()
        }
        return {**counts, "seconds": round(self._seconds, 6), **rates, **self._utilization(logs)}

    def _utilization(self, logs: dict[str, Any]) -> dict[str, float]:
        """Share of the peak: of the model's own FLOPs, and of those of the hardware."""
        if not self._peak or "model_flops" not in logs:
            return {}
        possible = self._peak * self._seconds
        return {
            "mfu": round(float(logs["model_flops"]) / possible, 4),
            "hfu": round(float(logs["hardware_flops"]) / possible, 4),
        }

    def _show(self, step: int, loss: float, row: dict[str, Any]) -> None:
        fields = {"loss": f"{loss:.4f}"}
        if "tokens_per_second" in row:
            fields["tokens_per_s"] = f"{row['tokens_per_second']:.0f}"
        if "mfu" in row:
            fields["mfu"] = f"{row['mfu']:.1%}"
        self._reporter.progress(f"train {self._phase.name}", step, self._total, **fields)


class DueCheckpoints(TrainerCallback):
    """Saves every `save_steps`, at the chosen steps over all phases, and at the phase's end."""

    def __init__(self, phase: Phase, chosen: tuple[int, ...], save_steps: int | None) -> None:
        self.kept = frozenset(step - phase.first_step for step in chosen)
        """Steps within the phase whose checkpoints stay; see `checkpoints.SafeCheckpoints`."""

        self._last = phase.steps
        self._every = save_steps

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Ask for a save where one is due."""
        step = state.global_step
        periodic = self._every is not None and step % self._every == 0
        if periodic or step in self.kept or step == self._last:
            control.should_save = True
        return control


def _accuracy(logs: dict[str, Any]) -> float | None:
    """Share of supervised positions whose token was the likeliest."""
    correct, supervised = logs.get("correct_tokens"), logs.get("supervised_tokens")
    return float(correct) / supervised if correct is not None and supervised else None


def _is_told(value: Any) -> bool:
    """JSON has no infinities, and what was not measured is left out."""
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))
