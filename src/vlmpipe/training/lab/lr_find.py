"""A learning-rate range test on a run's own model and batches; nothing is published."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.pipeline.events import Reporter
from vlmpipe.pipeline.files import write_json, write_text
from vlmpipe.training.lab.drawing import draw_lr_curve
from vlmpipe.training.lab.lr_curve import Suggestion, has_diverged, ramp, smoothed, suggest
from vlmpipe.training.lab.opening import open_trial, trial_config
from vlmpipe.training.lab.steps import Step
from vlmpipe.training.lab.trial import Observer, train_watched
from vlmpipe.training.preparation import TrainingData

FOLDER_NAME = "lr_find"


@dataclass(frozen=True)
class Ramp:
    """What is tried."""

    start: float = 1e-6
    stop: float = 1.0
    steps: int = 60


@dataclass(frozen=True)
class LrFind:
    """What was found."""

    phase: str
    rates: tuple[float, ...]
    """Of the phase: `train.learning_rate` times its scale."""

    losses: tuple[float, ...]
    """That followed a step at each rate, nats a token."""

    asked: int
    """Steps of the whole ramp; fewer were taken where the loss diverged."""

    suggestion: Suggestion
    scale: float
    """The phase's `learning_rate_scale`."""

    csv: Path
    png: Path | None
    """None without matplotlib."""

    @property
    def dependence(self) -> str:
        """On what the rate depends beside the data."""
        return (
            f"read off a ramp of {self.asked} steps: steps add up, and a longer ramp gives a lower"
            " rate, a shorter one a higher; compare rates of the same --steps alone"
        )

    @property
    def setting(self) -> str | None:
        """The suggestion as a word of the command line."""
        rate = self.suggestion.learning_rate
        return None if rate is None else f"train.learning_rate={rate / self.scale:.1e}"

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "phase": self.phase,
            "steps": len(self.rates),
            "asked": self.asked,
            "diverged": len(self.rates) < self.asked,
            "setting": self.setting,
            "suggestion": asdict(self.suggestion),
            "dependence": self.dependence,
            "learning_rate_scale": self.scale,
            "learning_rates": list(self.rates),
            "losses": list(self.losses),
            "csv": str(self.csv),
            "png": self.png and str(self.png),
        }


def find_learning_rate(
    config: Config,
    base: BaseModelFolder,
    data: TrainingData,
    asked: Ramp,
    folder: Path,
    reporter: Reporter,
) -> LrFind:
    """Train the first phase's batches at a rising rate until the loss diverges; write the curve.

    `folder` gets `curve.csv`, `curve.png` and `result.json`.

    Raises:
        StageError: where the training could not begin either.
    """
    folder.mkdir(parents=True, exist_ok=True)
    session = open_trial(trial_config(config), base, data, folder, reporter)
    first = session.phases[0]
    # The loss that a step leads to is that of the step after it.
    phase = replace(first, steps=asked.steps + 1)
    plan = session.preparation.batching.of(phase)
    rates = ramp(asked.start, asked.stop, asked.steps)
    seen: list[Step] = []
    train_watched(session, phase, plan, Observer(_rate(rates), _recording(seen, rates, reporter)))
    reporter.progress_done()
    losses = [step.loss for step in seen[1:] if math.isfinite(step.loss)]
    tried = rates[: len(losses)]
    scale = first.learning_rate / config.train.learning_rate
    suggestion = suggest(tried, losses)
    return _written(folder, first.name, tried, losses, asked.steps, suggestion, scale)


def _rate(rates: list[float]) -> Callable[[int], float]:
    return lambda number: rates[min(number, len(rates)) - 1]


def _recording(seen: list[Step], rates: list[float], reporter: Reporter) -> Callable[[Step], bool]:
    def record(step: Step) -> bool:
        seen.append(step)
        reporter.progress(
            "learning rates",
            step.number,
            len(rates) + 1,
            rate=f"{step.learning_rate:.1e}",
            loss=f"{step.loss:.3f}",
        )
        return has_diverged([each.loss for each in seen])

    return record


def _written(
    folder: Path,
    phase: str,
    rates: list[float],
    losses: list[float],
    asked: int,
    suggestion: Suggestion,
    scale: float,
) -> LrFind:
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(["step", "learning_rate", "loss", "smoothed_loss"])
    rows.writerows(
        [place + 1, f"{rate:.6g}", f"{loss:.6g}", f"{mean:.6g}"]
        for place, (rate, loss, mean) in enumerate(
            zip(rates, losses, smoothed(losses), strict=True)
        )
    )
    write_text(folder / "curve.csv", stream.getvalue())
    drawn = draw_lr_curve(folder / "curve.png", rates, losses, suggestion)
    found = LrFind(
        phase,
        tuple(rates),
        tuple(losses),
        asked,
        suggestion,
        scale,
        folder / "curve.csv",
        folder / "curve.png" if drawn else None,
    )
    write_json(folder / "result.json", found.as_json())
    return found
