"""What the files of records hold: who answered which sample, and what in a few bytes.

Files are read record by record, texts are never kept: memory follows the number of samples, not
their length.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmpipe.errors import ArtifactError
from vlmpipe.evaluation.records import PREDICTIONS_FOLDER, Record, System, read_records
from vlmpipe.evaluation.summary import SUMMARY_SUFFIX, read_summary

Key = tuple[str, str]
"""Sample id and digest of its inputs: a sample changed under the same id is another one."""

FIRST = ("hf:adapter", "hf:full", "hf:merged", "hf:base")
"""Order of the columns; the first that is there is what the others are compared with."""


@dataclass
class SplitHeld:
    """One engine's records of one split."""

    answered: dict[Key, bytes] = field(default_factory=dict)
    """Digest of the answer's text, white space around it left out."""

    tasks: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    unmeasured: int = 0
    cut: int = 0
    first_error: str = ""


@dataclass
class EngineFile:
    """One file of records."""

    path: Path
    system: System
    splits: dict[str, SplitHeld]
    summary: Mapping[str, Any]
    """What `vlmpipe evaluate` wrote beside it; empty where it did not."""

    @property
    def engine(self) -> str:
        """As it was asked for."""
        return self.system.engine

    def noted(self, split: str) -> Mapping[str, Any]:
        """What evaluate noted of its pass over one split; empty where it noted nothing."""
        passes = self.summary.get("passes")
        found = passes.get(split) if isinstance(passes, dict) else None
        return found if isinstance(found, dict) else {}

    def records(self) -> Iterator[Record]:
        """All of them, one by one."""
        return read_records(self.path)


@dataclass(frozen=True)
class Survey:
    """All files of a run."""

    files: Sequence[EngineFile]
    unreadable: Sequence[str]
    """What is wrong with the others."""


def survey_of(run_folder: Path) -> Survey:
    """Read every file of records that a run has, in the order of the columns."""
    files, unreadable = [], []
    for path in sorted((run_folder / PREDICTIONS_FOLDER).glob("*.jsonl")):
        try:
            found = _read(path)
        except (ArtifactError, OSError) as exc:
            unreadable.append(f"{path.name}: {str(exc).splitlines()[0]}")
            continue
        files += [found] if found else []
    return Survey(sorted(files, key=_place), unreadable)


def _read(path: Path) -> EngineFile | None:
    """None for a file without a record."""
    found: EngineFile | None = None
    for record in read_records(path):
        if found is None:
            summary = read_summary(path.with_name(path.stem + SUMMARY_SUFFIX))
            found = EngineFile(path, record.system, {}, summary)
        _count(found.splits.setdefault(record.split, SplitHeld()), record)
    return found


def _count(held: SplitHeld, record: Record) -> None:
    held.tasks[record.task] += 1
    if record.status == "failed":
        held.failed += 1
        held.first_error = held.first_error or record.error or ""
        return
    held.unmeasured += record.unmeasured is not None
    held.cut += record.cut
    text = record.prediction.strip().encode("utf-8", "surrogatepass")
    held.answered[record.sample, record.inputs] = hashlib.blake2b(text, digest_size=8).digest()


def _place(file: EngineFile) -> tuple[int, int, str]:
    """The trained model first, then the others, files with more bits a weight before smaller."""
    place = FIRST.index(file.engine) if file.engine in FIRST else len(FIRST)
    bits = re.search(r"\d+", file.system.quantization or "")
    return place, -int(bits[0]) if bits and place == len(FIRST) else 0, file.engine
