"""metrics.jsonl: one JSON object a line, of a step or of something that was noticed.

What a watchman remembers of a phase is in these rows, so that it survives a kill: a resumed phase
keeps the rows up to its checkpoint and no others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlmpipe.errors import StageError
from vlmpipe.pipeline.files import write_text
from vlmpipe.training.curriculum import Phase

STOPPED_EARLY = "stopped_early"
"""The event of a phase that ended before its last step; `best_step` is whose weights it left."""


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line.

    Raises:
        StageError: when it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, allow_nan=False) + "\n")
    except OSError as exc:
        raise StageError(
            f"{path} cannot be written: {exc.strerror or exc}",
            "free some space and give the same command again: it goes on after the last checkpoint",
            "or keep runs on another disk: run.outputs_dir=FOLDER",
        ) from exc


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


def rows_of_phase(path: Path, phase: Phase) -> list[dict[str, Any]]:
    """Rows of one phase, in the order in which they were written."""
    return [row for row in read_rows(path) if row.get("phase") == phase.name]


def handed_on_step(path: Path, phase: Phase) -> int:
    """The step, over all phases, whose weights a finished phase left: its last one, or its best
    where it was stopped early.
    """
    rows = rows_of_phase(path, phase)
    best = [row["best_step"] for row in rows if row.get("event") == STOPPED_EARLY]
    return int(best[-1]) if best else phase.last_step


def forget_rows_after(path: Path, step: int) -> None:
    """Keep the rows up to a step over all phases: a resumed phase repeats the others."""
    rows = [row for row in read_rows(path) if row["step"] <= step]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
