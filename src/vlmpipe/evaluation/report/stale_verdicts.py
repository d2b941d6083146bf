"""Verdicts on answers that the run's records do not hold any more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmpipe.errors import ArtifactError
from vlmpipe.evaluation.judging.cases import text_digest
from vlmpipe.evaluation.judging.writing import read_verdicts
from vlmpipe.evaluation.records import PREDICTIONS_FOLDER, file_name, read_records
from vlmpipe.evaluation.review.key import read_key

Digests = Mapping[tuple[str, str], str]
"""Of each answer, by split and sample."""


@dataclass
class Records:
    """Digests of the answers of a run as they are now, read once for each engine."""

    run_folder: Path
    _read: dict[str, Digests | None] = field(default_factory=dict)

    def stale_judged(self, folder: Path, stem: str) -> int:
        """How many of a judge's verdicts were on other answers."""
        rows = read_verdicts(folder, stem)
        return self._stale(row for row in rows if row.get("winner") or row.get("score"))

    def stale_reviewed(self, folder: Path, sheet: str) -> int:
        """How many pairs of a sheet hold other answers."""
        try:
            items = read_key(folder, sheet).items.values()
        except ArtifactError:
            return 0
        return self._stale(item.model_dump() for item in items)

    def _stale(self, rows: Iterable[Mapping[str, Any]]) -> int:
        return sum(self._is_stale(row) for row in rows)

    def _is_stale(self, row: Mapping[str, Any]) -> bool:
        given = row.get("answers")
        if not isinstance(given, dict):
            return False
        place = str(row.get("split")), str(row.get("sample"))
        held = {name: self._of(str(name)) for name in given}
        return any(
            found is not None and found.get(place) != given[name] for name, found in held.items()
        )

    def _of(self, engine: str) -> Digests | None:
        """None for records that cannot be read."""
        if engine not in self._read:
            self._read[engine] = _digests(self.run_folder / PREDICTIONS_FOLDER / file_name(engine))
        return self._read[engine]


def _digests(path: Path) -> Digests | None:
    if not path.is_file():
        return {}
    try:
        return {
            (record.split, record.sample): text_digest(record.prediction)
            for record in read_records(path)
            if record.status == "answered"
        }
    except (ArtifactError, OSError):
        return None
