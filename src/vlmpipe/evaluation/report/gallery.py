"""Samples with their pictures, the reference, and what every engine answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from vlmpipe.evaluation.answers import IMAGE_PLACE
from vlmpipe.evaluation.published import PublishedStage, rows_of
from vlmpipe.evaluation.records import PREDICTIONS_FOLDER
from vlmpipe.evaluation.report.budget import Budget
from vlmpipe.evaluation.report.choice import (
    Choice,
    Chosen,
    Key,
    chosen_samples,
    engine_of,
    score_of,
)
from vlmpipe.evaluation.report.figures import SPLITS
from vlmpipe.evaluation.report.shown import ShownText, shown_text
from vlmpipe.evaluation.validation.results import PREDICTIONS_NAME
from vlmpipe.tasks.metric_names import title_of

SHOWN_PROMPT = 2000
MOST_ANSWERS = 8
"""Different answers to one sample."""

Rows = Iterable[Mapping[str, Any]]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class ShownSample:
    """One sample of the gallery."""

    id: str
    group: str
    prompt: str
    pictures: Sequence[str]
    """`data:` URIs."""

    reference: ShownText
    same: Sequence[str]
    """Engines that answered the reference word for word."""

    answers: Sequence[ShownText]
    """What the others answered, equal answers once."""

    hidden: int
    """Further different answers."""


@dataclass(frozen=True)
class Gallery:
    """Samples of one split."""

    title: str
    metric: str
    engine: str
    of: int
    samples: Sequence[ShownSample]

    @property
    def pictures_elsewhere(self) -> bool:
        """Whether the samples have pictures that the run does not hold."""
        asked = any(IMAGE_PLACE in sample.prompt for sample in self.samples)
        return asked and not any(sample.pictures for sample in self.samples)


def galleries(
    run_folder: Path,
    validate: PublishedStage | None,
    pictures_of: Callable[[Key], Sequence[str]],
    drawings: Budget,
) -> list[Gallery]:
    """Chosen samples of each split, from validate's predictions and from evaluate's.

    Files are read row by row, twice: to choose, and to fetch what was chosen.
    """
    choices = chosen_samples(_rows(run_folder, validate))
    wanted = {each.key for choice in choices for each in choice.samples}
    rows = _by_sample(_rows(run_folder, validate), wanted)
    return [_gallery(choice, rows, pictures_of, drawings) for choice in choices]


def _rows(run_folder: Path, validate: PublishedStage | None) -> Iterator[Row]:
    paths = [validate.folder / PREDICTIONS_NAME] if validate else []
    paths += sorted((run_folder / PREDICTIONS_FOLDER).glob("*.jsonl"))
    return chain.from_iterable(rows_of(path) for path in paths)


def _by_sample(rows: Rows, wanted: set[Key]) -> dict[Key, dict[str, Row]]:
    """By engine; what evaluate asked later stands for what validate asked."""
    found: dict[Key, dict[str, Row]] = {key: {} for key in wanted}
    for row in rows:
        key = str(row.get("split", "")), str(row.get("sample", ""))
        if key in wanted:
            found[key][engine_of(row)] = row
    return found


def _gallery(
    choice: Choice,
    rows: Mapping[Key, Mapping[str, Row]],
    pictures_of: Callable[[Key], Sequence[str]],
    drawings: Budget,
) -> Gallery:
    return Gallery(
        title=SPLITS.get(choice.split, choice.split),
        metric=title_of(choice.metric),
        engine=choice.engine,
        of=choice.of,
        samples=[
            _sample(each, rows[each.key], pictures_of(each.key), drawings)
            for each in choice.samples
        ],
    )


def _sample(
    chosen: Chosen, rows: Mapping[str, Row], pictures: Sequence[str], drawings: Budget
) -> ShownSample:
    first = next(iter(rows.values()))
    task, reference = str(first.get("task", "")), str(first.get("reference", ""))
    same = [name for name, row in rows.items() if _text(row).strip() == reference.strip()]
    groups = _equal_answers({name: row for name, row in rows.items() if name not in same})
    answers = [
        _answer(names, row, task, reference, drawings) for names, row in groups[:MOST_ANSWERS]
    ]
    return ShownSample(
        id=chosen.key[1],
        group=chosen.group,
        prompt=str(first.get("prompt", ""))[:SHOWN_PROMPT],
        pictures=pictures,
        reference=shown_text("reference", reference, task, drawings=drawings),
        same=same,
        answers=answers,
        hidden=len(groups) - len(answers),
    )


def _equal_answers(rows: Mapping[str, Row]) -> list[tuple[list[str], Row]]:
    """Engines that answered alike, in the order of the first of each."""
    found: dict[tuple[str, str], tuple[list[str], Row]] = {}
    for name, row in rows.items():
        key = _text(row).strip(), _fault(row)
        found.setdefault(key, ([], row))[0].append(name)
    return list(found.values())


def _answer(
    names: Sequence[str], row: Row, task: str, reference: str, drawings: Budget
) -> ShownText:
    return shown_text(
        ", ".join(names),
        _text(row),
        task,
        reference,
        score=score_of(row),
        cut=bool(row.get("cut")),
        fault=_fault(row),
        drawings=drawings,
    )


def _text(row: Row) -> str:
    return str(row.get("prediction", ""))


def _fault(row: Row) -> str:
    return str(row.get("error") or row.get("unmeasured") or "")[:500]
