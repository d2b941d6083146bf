"""What a judge or people said, as the page's tables have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmpipe.evaluation.report.figures import Bounds


@dataclass(frozen=True)
class Share:
    """A figure over cases, with its interval."""

    value: float | None
    interval: Bounds | None
    of: int


@dataclass(frozen=True)
class Cases:
    """How many were to be judged, and what became of them."""

    judged: int
    of: int
    failed: int
    """The endpoint gave no reply."""

    no_verdict: int
    """What it replied was none."""

    stale: int
    """Verdicts on answers that are not in the records any more."""

    fault: str
    """What went wrong most often."""

    @property
    def losses(self) -> Sequence[str]:
        """Why fewer were judged, in words."""
        unanswered = [f"{self.failed} not answered"] if self.failed else []
        return unanswered + ([f"{self.no_verdict} without a verdict"] if self.no_verdict else [])


@dataclass(frozen=True)
class PairRow:
    """Two engines, judged side by side."""

    by: str
    first: str
    second: str
    cases: Cases
    first_wins: int
    ties: int
    second_wins: int
    win_rate: Share
    """Of the first; a tie counts as half."""

    notes: Sequence[tuple[str, Share]]

    @property
    def what(self) -> str:
        """What was judged."""
        return f"{self.first} against {self.second}"


@dataclass(frozen=True)
class ScoreRow:
    """One engine, judged by a rubric from 1 to 5."""

    by: str
    engine: str
    cases: Cases
    score: Share
    correlation: Share
    """With the task's metric, by rank."""

    @property
    def what(self) -> str:
        """What was judged."""
        return self.engine
