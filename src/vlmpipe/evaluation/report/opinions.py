"""What a judge and what people said of the answers, where they were asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.evaluation.judging.folders import JUDGE_FOLDER, REVIEW_FOLDER
from vlmpipe.evaluation.report.figures import bounds_of
from vlmpipe.evaluation.report.opinion_rows import Cases, PairRow, ScoreRow, Share
from vlmpipe.evaluation.report.stale_verdicts import Records

MOST_FILES = 40
MOST_NOTES = 8
MOST_FAULT = 300
"""Characters."""


@dataclass(frozen=True)
class Opinions:
    """All of them."""

    pairs: Sequence[PairRow]
    scores: Sequence[ScoreRow]
    stopped: Sequence[str]
    """Why a judge was not asked to the end."""

    def __bool__(self) -> bool:
        return bool(self.pairs or self.scores)

    @property
    def rows(self) -> Sequence[PairRow | ScoreRow]:
        """Both kinds."""
        return [*self.pairs, *self.scores]


def opinions_of(run_folder: Path) -> Opinions:
    """From the figures under `judge/` and `review/`; other files there are left out."""
    records = Records(run_folder)
    judge, review = run_folder / JUDGE_FOLDER, run_folder / REVIEW_FOLDER
    found = [
        {**each, "stale": records.stale_judged(judge, stem)} for stem, each in _summaries(judge)
    ]
    reviews = [
        {**each, "stale": records.stale_reviewed(review, stem)} for stem, each in _summaries(review)
    ]
    pairs = [*map(_judged_pair, found), *map(_reviewed_pair, reviews)]
    return Opinions(
        pairs=[row for row in pairs if row is not None],
        scores=[row for row in map(_score, found) if row is not None],
        stopped=[str(each["stopped"]) for each in found if each.get("stopped")],
    )


def _summaries(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """With the name of each file, without what follows the dot."""
    for path in sorted(folder.glob("*.json"))[:MOST_FILES]:
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            yield path.stem, found


def _judged_pair(summary: Mapping[str, Any]) -> PairRow | None:
    notes = [
        ("same verdict as the metric", _share(_object(summary, "agreement").get("agree"))),
        ("answer shown first wins", _share(summary.get("first_wins"))),
        ("undone by swapping", _share(summary.get("order_decided"))),
    ]
    return _pair(summary, str(_object(summary, "judge").get("model", "judge")), notes)


def _reviewed_pair(summary: Mapping[str, Any]) -> PairRow | None:
    raters = _object(summary, "raters")
    if not raters:
        return None
    outcomes = {name: _count(count) for name, count in _object(summary, "outcomes").items()}
    engines = summary.get("engines") or []
    ties = sum(count for name, count in outcomes.items() if name not in engines)
    notes = [("same verdict as the metric", _share(_object(summary, "metric").get("agree")))]
    notes.append(("as the judge", _share(_object(summary, "judge").get("agree"))))
    for pair in summary.get("agreement") or []:
        names = " and ".join(map(str, pair.get("raters", [])))
        notes.append((f"kappa of {names}", _share(pair.get("kappa"))))
    by = f"{len(raters)} {'person' if len(raters) == 1 else 'people'}"
    told = {"wins": outcomes, "ties": ties, "cases": summary.get("pairs")}
    return _pair({**summary, **told}, by, notes[:MOST_NOTES])


def _pair(
    summary: Mapping[str, Any], by: str, notes: Sequence[tuple[str, Share]]
) -> PairRow | None:
    engines, wins = summary.get("engines"), summary.get("wins")
    if not isinstance(engines, list) or len(engines) != 2 or not isinstance(wins, dict):
        return None
    first, second = map(str, engines)
    return PairRow(
        by=by,
        first=first,
        second=second,
        cases=_cases(summary),
        first_wins=_count(wins.get(first)),
        ties=_count(summary.get("ties")),
        second_wins=_count(wins.get(second)),
        win_rate=_share(_object(summary, "win_rate").get(first)),
        notes=[note for note in notes if note[1].value is not None],
    )


def _score(summary: Mapping[str, Any]) -> ScoreRow | None:
    engines = summary.get("engines")
    if not isinstance(engines, list) or len(engines) != 1 or "mean_score" not in summary:
        return None
    return ScoreRow(
        by=str(_object(summary, "judge").get("model", "judge")),
        engine=str(engines[0]),
        cases=_cases(summary),
        score=_share(summary["mean_score"]),
        correlation=_share(summary.get("correlation")),
    )


def _cases(summary: Mapping[str, Any]) -> Cases:
    fault = next(iter(_object(summary, "faults")), "")
    return Cases(
        judged=_count(summary.get("judged")),
        of=_count(summary.get("cases")),
        failed=_count(summary.get("failed")),
        no_verdict=_count(summary.get("no_verdict")),
        stale=_count(summary.get("stale")),
        fault=fault[:MOST_FAULT],
    )


def _share(estimate: Any) -> Share:
    if not isinstance(estimate, dict):
        return Share(None, None, 0)
    value = estimate.get("value")
    return Share(
        float(value) if isinstance(value, (int, float)) else None,
        bounds_of(estimate),
        _count(estimate.get("n")),
    )


def _object(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
