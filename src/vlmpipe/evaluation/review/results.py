"""Win rates, how far people agree, and how far the metric and the judge agree with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median

from pydantic import BaseModel, ConfigDict

from vlmpipe.evaluation.judging.agreement import Estimate, cohens_kappa, mean, share
from vlmpipe.evaluation.judging.folders import JUDGE_FOLDER, REVIEW_FOLDER
from vlmpipe.evaluation.judging.pair_figures import agreement_of
from vlmpipe.evaluation.judging.pairs import TIE, winner_by
from vlmpipe.evaluation.judging.summary import Agreement
from vlmpipe.evaluation.judging.writing import pair_stem, read_verdicts
from vlmpipe.evaluation.review.answers import RaterFile, read_rater_files, refuse_misfits
from vlmpipe.evaluation.review.key import Key, KeyItem, read_key
from vlmpipe.pipeline.files import write_text
from vlmpipe.tasks import task_of

BOTH_BAD = "both_bad"
Labels = Mapping[str, str]
"""One person's verdicts by pair: an engine, `tie` or `both_bad`."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class RaterCounts(_Frozen):
    """What one person said."""

    judged: int
    wins: dict[str, int]
    ties: int
    both_bad: int
    first_wins: Estimate
    """Share of the choices with a winner that fell on answer 1; 0.5 without a habit."""

    median_seconds: float | None


class RaterPair(_Frozen):
    """How far two people agree beyond chance, over the pairs that both judged."""

    raters: tuple[str, str]
    kappa: Estimate
    """Over four labels: the one engine, the other, tie, both bad."""

    weighted_kappa: Estimate
    """Linear weights over three steps: the one engine, no winner, the other."""


class ReviewResults(_Frozen):
    """A sheet with what came back of it."""

    sheet: str
    engines: tuple[str, str]
    pairs: int
    judged: int
    """Pairs that anybody judged."""

    identical: int
    """Samples that are not in the sheet, since both answers were the same."""

    raters: dict[str, RaterCounts]
    outcomes: dict[str, int]
    """Pairs by what most people said: an engine, or a tie."""

    win_rate: dict[str, Estimate]
    """Over judged pairs: mean over people, ties and `both bad` counted as half, then over pairs,
    with a bootstrap interval over pairs."""

    decided: dict[str, Estimate]
    """Of the pairs that most people gave to one of them; Wilson's interval."""

    agreement: tuple[RaterPair, ...]
    metrics: tuple[str, ...]
    metric: Agreement
    """Most people (first) and the better primary metric (second)."""

    judge: Agreement | None
    """Most people (first) and the language model's verdicts on the same answers (second); None
    where it gave none."""


def import_reviews(run_folder: Path, paths: Sequence[Path]) -> tuple[ReviewResults, Path]:
    """Count the files of one sheet, and write `review/<sheet>.json` into the run's folder.

    Raises:
        ConfigError: for files of several sheets, or two of one person.
        ArtifactError: for files that are damaged, are of no sheet of this run, answer a pair twice
            or one that the sheet does not have.
    """
    files = read_rater_files(paths)
    key = read_key(run_folder / REVIEW_FOLDER, files[0].sheet)
    for path, file in zip(paths, files, strict=True):
        refuse_misfits(path, file, key)
    results = results_of(key, files, _judged(run_folder / JUDGE_FOLDER, key))
    written = run_folder / REVIEW_FOLDER / f"{key.sheet}.json"
    write_text(written, results.model_dump_json(indent=2) + "\n")
    return results, written


def results_of(
    key: Key, files: Sequence[RaterFile], judged: Mapping[str, str] | None = None
) -> ReviewResults:
    """All figures; `judged` has the judge's winner by pair."""
    said = {file.rater: _labels(key, file) for file in files}
    points = _points(key, said)
    winners = {name: _winner(key, value) for name, value in points.items()}
    wins = {engine: list(winners.values()).count(engine) for engine in key.engines}
    first, second = key.engines
    return ReviewResults(
        sheet=key.sheet,
        engines=key.engines,
        pairs=len(key.items),
        judged=len(points),
        identical=key.identical,
        raters={file.rater: _counts(key, file, said[file.rater]) for file in files},
        outcomes={**wins, TIE: len(points) - sum(wins.values())},
        win_rate={
            first: mean(list(points.values())),
            second: mean([1 - value for value in points.values()]),
        },
        decided={engine: share(wins[engine], sum(wins.values())) for engine in key.engines},
        agreement=tuple(_pair(key, said, names) for names in combinations(said, 2)),
        metrics=tuple(sorted({task_of(key.items[name].task).primary_metric for name in points})),
        metric=agreement_of(
            [
                (won, winner_by(key.items[name].scores, key.engines))
                for name, won in winners.items()
            ],
            key.engines,
        ),
        judge=_with_judge(key, winners, judged),
    )


def _labels(key: Key, file: RaterFile) -> Labels:
    return {a.item: _label(key, key.items[a.item], a.choice) for a in file.answers}


def _label(key: Key, item: KeyItem, choice: str) -> str:
    """The sheet's answer 1 or 2 as the engine that gave it."""
    other = key.engines[item.first == key.engines[0]]
    return {"1": item.first, "2": other}.get(choice, choice)


def _points(key: Key, said: Mapping[str, Labels]) -> dict[str, float]:
    """For the first engine, by judged pair: mean over people of 1, ½ or 0."""
    worth = {key.engines[0]: 1.0, key.engines[1]: 0.0}
    found: dict[str, float] = {}
    for name in key.items:
        own = [worth.get(labels[name], 0.5) for labels in said.values() if name in labels]
        if own:
            found[name] = sum(own) / len(own)
    return found


def _winner(key: Key, points: float) -> str:
    if points == 0.5:
        return TIE
    return key.engines[points < 0.5]


def _counts(key: Key, file: RaterFile, labels: Labels) -> RaterCounts:
    counts = Counter(labels.values())
    choices = Counter(answer.choice for answer in file.answers)
    seconds = [answer.seconds for answer in file.answers]
    return RaterCounts(
        judged=len(labels),
        wins={engine: counts[engine] for engine in key.engines},
        ties=counts[TIE],
        both_bad=counts[BOTH_BAD],
        first_wins=share(choices["1"], choices["1"] + choices["2"]),
        median_seconds=median(seconds) if seconds else None,
    )


def _pair(key: Key, said: Mapping[str, Labels], names: tuple[str, str]) -> RaterPair:
    one, other = (said[name] for name in names)
    shared = [name for name in one if name in other]
    first, second = [one[name] for name in shared], [other[name] for name in shared]
    steps = (key.engines[0], TIE, key.engines[1])
    return RaterPair(
        raters=names,
        kappa=cohens_kappa(first, second, (*key.engines, TIE, BOTH_BAD)),
        weighted_kappa=cohens_kappa(_steps(first), _steps(second), steps, "linear"),
    )


def _steps(labels: Sequence[str]) -> list[str]:
    """Both bad says as little of which is better as a tie does."""
    return [TIE if label == BOTH_BAD else label for label in labels]


def _with_judge(
    key: Key, winners: Mapping[str, str], judged: Mapping[str, str] | None
) -> Agreement | None:
    if not judged:
        return None
    return agreement_of([(won, judged.get(name)) for name, won in winners.items()], key.engines)


def _judged(folder: Path, key: Key) -> dict[str, str]:
    """The judge's winner by pair, where it judged these very answers."""
    stems = (pair_stem(*key.engines), pair_stem(*key.engines[::-1]))
    rows = [row for stem in stems for row in read_verdicts(folder, stem)]
    known = {
        (row.get("split"), row.get("sample")): row for row in reversed(rows) if row.get("winner")
    }
    found: dict[str, str] = {}
    for name, item in key.items.items():
        row = known.get((item.split, item.sample))
        if row is not None and row.get("answers") == item.answers:
            found[name] = str(row["winner"])
    return found
