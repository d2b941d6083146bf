"""Answers of two runs to the same samples, paired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlmpipe.evaluation.run_difference.books import SOURCES, Answered, Book, Known
from vlmpipe.evaluation.statistics import Paired, compare_paired


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


def compare_answers(first: Answered, second: Answered) -> EngineDifference:
    """Validate's answers, and the records that `vlmpipe evaluate` wrote, engine by engine."""
    notes = list(dict.fromkeys([*first.notes, *second.notes]))
    found = []
    for source in SOURCES:
        found += _engines(source, first.books[source], second.books[source], notes)
    return EngineDifference(tuple(found), tuple(notes))


def _engines(
    source: str, first: Mapping[str, Book], second: Mapping[str, Book], notes: list[str]
) -> list[AnswersDifference]:
    for which, own, other in (("first", first, second), ("second", second, first)):
        notes += [
            f"{source}: only the {which} run has answers of {book.engine}"
            for name, book in own.items()
            if name not in other
        ]
    return [
        _difference(source, _title(first[name], second[name]), split, first[name], second[name])
        for name in first
        if name in second
        for split in dict.fromkeys(key[0] for key in [*first[name].known, *second[name].known])
    ]


def _title(first: Book, second: Book) -> str:
    if first.engine == second.engine:
        return first.engine
    return f"{first.engine} against {second.engine}"


def _difference(
    source: str, engine: str, split: str, first: Book, second: Book
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
