"""Answers of two runs to the same samples, paired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vlmpipe.errors import VlmpipeError
from vlmpipe.evaluation.published import PublishedStage
from vlmpipe.evaluation.records import PREDICTIONS_FOLDER, Record, read_records
from vlmpipe.evaluation.statistics import Paired, compare_paired
from vlmpipe.evaluation.validation.figures import values_of
from vlmpipe.evaluation.validation.results import PREDICTIONS_NAME

VALIDATE, EVALUATE = "validate", "evaluate"
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


@dataclass(frozen=True)
class AnswersDifference:
    """One engine on one split in both runs."""

    source: str
    """`validate` or `evaluate`."""

    engine: str
    split: str
    both: int
    """Samples that both answered, unchanged."""

    same_answers: int
    """Of those: answered word for word the same."""

    changed: int
    """The same id, and not the same conversation, image or reference."""

    only_first: int
    only_second: int
    metrics: Mapping[str, Paired]
    """Second run minus the first, over the samples in both."""

    @property
    def sets_differ(self) -> bool:
        """Whether some samples are left out of the comparison."""
        return bool(self.changed or self.only_first or self.only_second)

    @property
    def sentence(self) -> str:
        """Which samples are compared."""
        if not self.sets_differ:
            return f"the same {self.both} samples"
        return (
            f"the sets differ: {self.both} samples in both, {self.only_first} only in the first,"
            f" {self.only_second} only in the second, {self.changed} changed under the same id"
        )


@dataclass(frozen=True)
class EngineDifference:
    """All answers that can be compared, and what cannot."""

    answers: tuple[AnswersDifference, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Book:
    """Answered records of one engine in one run, by sample."""

    engine: str
    known: dict[Key, Known] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        if record.status == "answered":
            text = hash(record.prediction)
            self.known[record.key] = Known(record.inputs, text, values_of(record))


def compare_answers(
    folders: tuple[Path, Path],
    validated: tuple[PublishedStage | None, PublishedStage | None],
) -> EngineDifference:
    """Validate's answers, and the records that `vlmpipe evaluate` wrote, engine by engine."""
    notes: list[str] = []
    own = [_books([stage.folder / PREDICTIONS_NAME] if stage else [], notes) for stage in validated]
    asked = [_books(sorted((f / PREDICTIONS_FOLDER).glob("*.jsonl")), notes) for f in folders]
    found = [
        *_engines(VALIDATE, own[0], own[1], notes),
        *_engines(EVALUATE, asked[0], asked[1], notes),
    ]
    return EngineDifference(tuple(found), tuple(notes))


def _books(paths: list[Path], notes: list[str]) -> dict[str, _Book]:
    """By engine; what a run trained stands under one name."""
    found: dict[str, _Book] = {}
    for path in paths:
        try:
            for record in read_records(path):
                name = TRAINED[0] if record.engine in TRAINED else record.engine
                found.setdefault(name, _Book(record.engine)).add(record)
        except (VlmpipeError, OSError) as exc:
            notes.append(f"left out: {exc.message if isinstance(exc, VlmpipeError) else exc}")
            return {}
    return found


def _engines(
    source: str, first: dict[str, _Book], second: dict[str, _Book], notes: list[str]
) -> list[AnswersDifference]:
    for name in first.keys() ^ second.keys():
        which = "first" if name in first else "second"
        notes.append(f"{source}: only the {which} run has answers of {name}")
    return [
        _difference(source, _title(first[name], second[name]), split, first[name], second[name])
        for name in first
        if name in second
        for split in dict.fromkeys(key[0] for key in [*first[name].known, *second[name].known])
    ]


def _title(first: _Book, second: _Book) -> str:
    if first.engine == second.engine:
        return first.engine
    return f"{first.engine} against {second.engine}"


def _difference(
    source: str, engine: str, split: str, first: _Book, second: _Book
) -> AnswersDifference:
    before, after = (
        {key: each for key, each in book.known.items() if key[0] == split}
        for book in (first, second)
    )
    named = [key for key in before if key in after]
    both = [key for key in named if before[key].inputs == after[key].inputs]
    return AnswersDifference(
        source=source,
        engine=engine,
        split=split,
        both=len(both),
        same_answers=sum(before[key].prediction == after[key].prediction for key in both),
        changed=len(named) - len(both),
        only_first=len(before) - len(named),
        only_second=len(after) - len(named),
        metrics=_metrics([(before[key], after[key]) for key in both]),
    )


def _metrics(pairs: list[tuple[Known, Known]]) -> dict[str, Paired]:
    found = {}
    for name in dict.fromkeys(name for before, _ in pairs for name in before.values):
        values = [
            (before.values[name], after.values[name])
            for before, after in pairs
            if name in before.values and name in after.values
        ]
        if values:
            found[name] = compare_paired([a for a, _ in values], [b for _, b in values])
    return found
