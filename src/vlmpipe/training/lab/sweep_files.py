"""What a sweep leaves on the disk."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.pipeline.files import write_json, write_text
from vlmpipe.training.lab.drawing import draw_sweep
from vlmpipe.training.lab.sweep_file import Sweep
from vlmpipe.training.lab.sweep_noise import SettingMean, over_seeds
from vlmpipe.training.lab.sweep_rows import TrialRow, ranked

COLUMNS = ("metric", "low", "high", "loss", "trained_parameters", "seconds", "step_gib", "error")


@dataclass(frozen=True)
class SweepResult:
    """Rows best first, and what seeds say of their differences."""

    sweep: Sweep
    rows: tuple[TrialRow, ...]
    settings: tuple[SettingMean, ...]
    """Empty without seeds."""

    folder: Path

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "sweep": self.sweep.name,
            "metric": self.sweep.metric,
            "trials": len(self.sweep.trials),
            "finished": sum(row.error is None for row in self.rows),
            "failed": sum(row.error is not None for row in self.rows),
            "rows": [row.as_json() for row in self.rows],
            "settings": [each.as_json() for each in self.settings],
            "folder": str(self.folder),
        }


def write_sweep(sweep: Sweep, rows: Sequence[TrialRow], folder: Path) -> SweepResult:
    """Write `trials.csv`, `result.json` and, with matplotlib, `trials.png`, of the rows so far."""
    found = SweepResult(
        sweep,
        tuple(ranked(list(rows), sweep.metric)),
        tuple(over_seeds(rows, sweep.metric)),
        folder,
    )
    write_text(folder / "trials.csv", _csv(found))
    write_json(folder / "result.json", found.as_json())
    draw_sweep(folder / "trials.png", found.rows, sweep.metric)
    return found


def _csv(found: SweepResult) -> str:
    keys = list(found.sweep.trials[0].settings)
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["trial", "run", *keys, "seed", *COLUMNS])
    for row in found.rows:
        low, high = row.interval or (None, None)
        values = [row.settings[key] for key in keys]
        shown = [value if isinstance(value, str) else json.dumps(value) for value in values]
        found_values = (row.metric, low, high, row.loss, row.trained_parameters)
        others = (row.seconds, row.step_gib, row.error)
        table.writerow([row.number, row.run, *shown, row.seed, *found_values, *others])
    return stream.getvalue()
