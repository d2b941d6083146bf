"""What a judge and what people said of the answers, where they were asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmpipe.evaluation.report.figures import Bounds, bounds_of

JUDGE_FOLDER, REVIEW_FOLDER = "judge", "review"
"""Under a run, beside its stages."""

MOST_FILES = 40
MOST_NOTES = 8


@dataclass(frozen=True)
class Share:
    """A figure over cases, with its interval."""

    value: float | None
    interval: Bounds | None
    of: int


@dataclass(frozen=True)
class PairRow:
    """Two engines, judged side by side."""

    by: str
    first: str
    second: str
    cases: int
    first_wins: int
    ties: int
    second_wins: int
    win_rate: Share
    """Of the first; a tie counts as half."""

    notes: Sequence[tuple[str, Share]]


@dataclass(frozen=True)
class ScoreRow:
    """One engine, judged by a rubric from 1 to 5."""

    by: str
    engine: str
    cases: int
    score: Share
    correlation: Share
    """With the task's metric, by rank."""


@dataclass(frozen=True)
class Opinions:
    """All of them."""

    pairs: Sequence[PairRow]
    scores: Sequence[ScoreRow]
    stopped: Sequence[str]
    """Why a judge was not asked to the end."""

    def __bool__(self) -> bool:
        return bool(self.pairs or self.scores)


def opinions_of(run_folder: Path) -> Opinions:
    """From the figures under `judge/` and `review/`; other files there are left out."""
    found = list(_summaries(run_folder / JUDGE_FOLDER))
    reviews = list(_summaries(run_folder / REVIEW_FOLDER))
    pairs = [*map(_judged_pair, found), *map(_reviewed_pair, reviews)]
    return Opinions(
        pairs=[row for row in pairs if row is not None],
        scores=[row for row in map(_score, found) if row is not None],
        stopped=[str(each["stopped"]) for each in found if each.get("stopped")],
    )


def _summaries(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.json"))[:MOST_FILES]:
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict):
            yield found


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
    return _pair({**summary, "wins": outcomes, "ties": ties}, by, notes[:MOST_NOTES])


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
        cases=_count(summary.get("judged")),
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
        cases=_count(summary.get("judged")),
        score=_share(summary["mean_score"]),
        correlation=_share(summary.get("correlation")),
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
