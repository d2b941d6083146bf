"""`parity.json`: every rung of a run, what is recommended, what is at fault where one failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.errors import ArtifactError
from vlmpipe.export.parity.records import RungRecord, from_rows
from vlmpipe.export.parity.rung import Answers
from vlmpipe.pipeline.files import write_json

PARITY_NAME = "parity.json"
ANSWERS_NAME = "probe_answers.json"


@dataclass(frozen=True)
class Ladder:
    """The rungs so far."""

    probe: dict[str, Any]
    rungs: Sequence[RungRecord]
    compute: str
    """Precision of all multiplications in this process."""

    recommended: str | None = None
    why: str | None = None
    """What speaks for the recommended file."""

    diagnosis: dict[str, Any] | None = None
    """Where a failed 16-bit file departs, and whether conversion or fine-tune is at fault."""

    asked_elsewhere: Sequence[dict[str, Any]] = ()
    """Rungs of engines that cannot be teacher-forced."""

    def write(self, folder: Path) -> None:
        """Write `parity.json`."""
        record = {
            "probe": self.probe,
            "compute": self.compute,
            "rungs": [*(rung.as_record() for rung in self.rungs), *self.asked_elsewhere],
            "recommended": self.recommended,
            "why": self.why,
            "diagnosis": self.diagnosis,
        }
        write_json(folder / PARITY_NAME, record)


def read_rungs(folder: Path) -> list[RungRecord]:
    """The rungs that an artifact's `parity.json` holds.

    Raises:
        ArtifactError: when it cannot be read.
    """
    path = folder / PARITY_NAME
    try:
        return from_rows(json.loads(path.read_text(encoding="utf-8"))["rungs"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ArtifactError(
            f"{path} cannot be read as a parity ladder: {exc}",
            "make it again: `vlmpipe run-all --force merge` with the same options",
        ) from exc


def write_answers(folder: Path, answers: dict[str, Answers]) -> None:
    """Keep what rungs answered, so that the next stage need not ask again."""
    write_json(folder / ANSWERS_NAME, {name: list(each.texts) for name, each in answers.items()})


def read_answers(folder: Path) -> dict[str, list[str]]:
    """Answers by rung, in the order of the probe set.

    Raises:
        ArtifactError: when they cannot be read.
    """
    path = folder / ANSWERS_NAME
    try:
        return {name: list(texts) for name, texts in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError) as exc:
        raise ArtifactError(
            f"{path} cannot be read as answers to the probe set: {exc}",
            "make it again: `vlmpipe run-all --force merge` with the same options",
        ) from exc
