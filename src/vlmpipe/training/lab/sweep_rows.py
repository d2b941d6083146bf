"""What each trial of a sweep came to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlmpipe.errors import ToolError
from vlmpipe.pipeline import RunStore, Stage
from vlmpipe.tasks.metric_names import smaller_is_better
from vlmpipe.training.lab.sweep_file import Trial

GIB = 2**30


@dataclass(frozen=True)
class TrialRow:
    """One trial; None for what is not known."""

    number: int
    run: str
    settings: Mapping[str, Any]
    seed: int | None
    metric: float | None = None
    interval: tuple[float, float] | None = None
    """95 %, over validate's samples; it knows nothing of other seeds."""

    loss: float | None = None
    """Training loss over the last tenth of the steps, nats a token."""

    trained_parameters: int | None = None
    seconds: float | None = None
    """Of the train stage."""

    step_gib: float | None = None
    """Memory of the largest step with the optimiser's, beside the model itself."""

    error: str | None = None

    @property
    def label(self) -> str:
        """The settings, by the last word of each key."""
        return label_of(self.settings)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"label": self.label}


def label_of(settings: Mapping[str, Any]) -> str:
    """`r=8 targets=all`."""
    return " ".join(f"{key.rpartition('.')[2]}={_plain(value)}" for key, value in settings.items())


def finished_row(
    trial: Trial, store: RunStore, stages: Mapping[str, Stage], metric: str
) -> TrialRow:
    """Read what a trial's train and validate have published."""
    train, validate = store.latest(stages["train"]), store.latest(stages["validate"])
    if train is None or validate is None:
        return _row(trial, error="it ended well and has published no validate")
    measured = validate.manifest.metrics
    trained = train.manifest.metrics
    parameters = trained.get("train/trained_parameters")
    error = None if metric in measured else _no_metric(metric, measured)
    return TrialRow(
        number=trial.number,
        run=trial.name,
        settings=trial.settings,
        seed=trial.seed,
        metric=measured.get(metric),
        interval=_interval(validate.folder, metric),
        loss=trained.get("train/loss_last"),
        trained_parameters=None if parameters is None else int(parameters),
        seconds=train.manifest.timings.get("seconds"),
        step_gib=_step_gib(train.folder),
        error=error,
    )


def failed_row(trial: Trial, error: ToolError, log: Path) -> TrialRow:
    """The first line of the child's own error, or what became of it."""
    told = next((line for line in error.problems if line.startswith("error")), None)
    return _row(trial, error=f"{told or error.message} (log: {log})")


def ranked(rows: list[TrialRow], metric: str) -> list[TrialRow]:
    """Best first; what failed is last."""
    sign = 1 if is_smaller_better(metric) else -1
    return sorted(
        rows, key=lambda row: (math.inf if row.metric is None else sign * row.metric, row.number)
    )


def is_smaller_better(metric: str) -> bool:
    """Of a metric such as heldout/loss/tuned."""
    return smaller_is_better(metric.split("/")[1])


def _row(trial: Trial, error: str) -> TrialRow:
    return TrialRow(trial.number, trial.name, trial.settings, trial.seed, error=error)


def _no_metric(metric: str, measured: Mapping[str, float]) -> str:
    known = ", ".join(name for name in measured if name.startswith("heldout/"))
    return f"validate measured no {metric}; held out there are {known or 'none'}"


def _interval(folder: Path, metric: str) -> tuple[float, float] | None:
    found = _read(folder / "results.json").get("intervals", {}).get(metric)
    return None if found is None else (float(found[0]), float(found[1]))


def _step_gib(folder: Path) -> float | None:
    tried = _read(folder / "audit.json").get("dry_run")
    phases = tried.get("phases", []) if isinstance(tried, dict) else []
    needed = [each["peak_bytes"] + each["optimizer_bytes"] for each in phases]
    return max(needed) / GIB if needed else None


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read(path: Path) -> dict[str, Any]:
    """JSON of a published version, {} where it has no such file."""
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found
