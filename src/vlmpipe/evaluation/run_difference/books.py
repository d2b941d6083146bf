"""What a run's engines answered, as far as they are what the run has published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vlmpipe.errors import VlmpipeError
from vlmpipe.evaluation.published import PublishedStage, departures
from vlmpipe.evaluation.records import PREDICTIONS_FOLDER, Record, read_records
from vlmpipe.evaluation.validation.figures import values_of
from vlmpipe.evaluation.validation.results import PREDICTIONS_NAME

VALIDATE, EVALUATE = "validate", "evaluate"
SOURCES: Final = (VALIDATE, EVALUATE)
AGAIN = {
    VALIDATE: "validate again: `vlmpipe run-all --force validate` with the same options",
    EVALUATE: "evaluate again: `vlmpipe evaluate` with the same options",
}
TRAINED = ("hf:adapter", "hf:full")
"""What a run trained, by whichever method."""

Key = tuple[str, str]
"""Split and sample id."""


@dataclass(frozen=True)
class Known:
    """What is kept of a record: numbers, and digests of its texts."""

    inputs: str
    prediction: int
    values: Mapping[str, float]


@dataclass
class Book:
    """Answered records of one engine in one run, by sample."""

    engine: str
    known: dict[Key, Known] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Keep what an answered record says."""
        if record.status == "answered":
            text = hash(record.prediction)
            self.known[record.key] = Known(record.inputs, text, values_of(record))


@dataclass(frozen=True)
class Answered:
    """A run's answers."""

    books: Mapping[str, Mapping[str, Book]]
    """By source, then by engine; what the run trained stands under one name."""

    notes: tuple[str, ...]
    """What was left out, and why."""


def read_answers(which: str, folder: Path, stages: Mapping[str, PublishedStage]) -> Answered:
    """What validate and `vlmpipe evaluate` left in the `which` of two runs."""
    validated = stages.get(VALIDATE)
    paths = {
        VALIDATE: [validated.folder / PREDICTIONS_NAME] if validated else [],
        EVALUATE: sorted((folder / PREDICTIONS_FOLDER).glob("*.jsonl")),
    }
    notes = [f"the {which} run: {each}" for each in departures(stages)]
    held = _held_weights(stages)
    books = {source: _books(which, source, paths[source], held, notes) for source in SOURCES}
    return Answered(books, tuple(notes))


def _held_weights(stages: Mapping[str, PublishedStage]) -> frozenset[str]:
    """sha256 of every file of the latest versions, and what setup says of a base kept elsewhere."""
    found = {
        record.sha256 for stage in stages.values() for record in stage.manifest.outputs.values()
    }
    model = stages["setup"].read_json("model.json") if "setup" in stages else None
    if isinstance(model, dict):
        found.add(str(model.get("digest", "")))
    return frozenset(found)


def _books(
    which: str, source: str, paths: list[Path], held: frozenset[str], notes: list[str]
) -> dict[str, Book]:
    found: dict[str, Book] = {}
    superseded: Counter[str] = Counter()
    for path in paths:
        try:
            found |= _books_of(path, held, superseded)
        except (VlmpipeError, OSError) as exc:
            reason = exc.message if isinstance(exc, VlmpipeError) else str(exc)
            notes.append(f"left out: {reason}; {_remedy(source, exc)}")
    notes += [
        f"{source}: answers of {name} in the {which} run that are left out, since they are of other"
        f" weights than it has published last: {count}; {AGAIN[source]}"
        for name, count in superseded.items()
    ]
    trained = [name for name in TRAINED if name in found]
    if len(trained) == 1:
        found[TRAINED[0]] = found.pop(trained[0])
    return found


def _books_of(path: Path, held: frozenset[str], superseded: Counter[str]) -> dict[str, Book]:
    """By engine; records of weights that are not `held` are counted instead."""
    found: dict[str, Book] = {}
    old: Counter[str] = Counter()
    for record in read_records(path):
        if held.issuperset(record.digests.values()):
            found.setdefault(record.engine, Book(record.engine)).add(record)
        else:
            old[record.engine] += 1
    superseded.update(old)
    return found


def _remedy(source: str, error: Exception) -> str:
    """A published file must not be removed; its stage is made again."""
    if source == EVALUATE and isinstance(error, VlmpipeError) and error.remedies:
        return "; ".join(error.remedies)
    return AGAIN[source]
