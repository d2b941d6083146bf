"""One case of two engines, after both orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmpipe.evaluation.judging.asking import Asked
from vlmpipe.evaluation.judging.cases import Case
from vlmpipe.evaluation.judging.verdicts import PairVerdict

TIE = "tie"
Pair = tuple[str, str]


@dataclass(frozen=True)
class PairResult:
    """A case after both orders."""

    case: Case
    engines: Pair
    orders: Sequence[Asked] = field(default_factory=list)
    """First engine shown first, then second engine shown first; empty for equal answers."""

    @property
    def named(self) -> list[str | None]:
        """What each order named: an engine, a tie, or nothing."""
        first, second = self.engines
        shown = [(first, second), (second, first)]
        return [_named(asked, order) for asked, order in zip(self.orders, shown, strict=False)]

    @property
    def winner(self) -> str | None:
        """An engine that both orders named; else a tie; None where an order gave no verdict."""
        if not self.orders:
            return TIE
        one, other = self.named
        if one is None or other is None:
            return None
        return one if one == other else TIE

    @property
    def metric_winner(self) -> str | None:
        """The engine with the better primary metric, or a tie; None where not measured."""
        return winner_by(self.case.scores, self.engines)

    @property
    def order_decided(self) -> bool:
        """Whether the answer in one place won both times."""
        return set(self.named) == set(self.engines)

    @property
    def first_named(self) -> list[bool]:
        """For each order that named an engine, whether it was the one shown first."""
        named = zip(self.engines, self.named, strict=False)
        return [engine == shown for shown, engine in named if engine in self.engines]

    def as_row(self) -> dict[str, Any]:
        """Plain JSON values, a line of the file of verdicts."""
        return {
            "sample": self.case.sample,
            "split": self.case.split,
            "task": self.case.task,
            "winner": self.winner,
            "identical": not self.orders,
            "metric_winner": self.metric_winner,
            "scores": dict(self.case.scores),
            "answers": self.case.digests,
            "orders": [
                {
                    "shown_first": shown,
                    "winner": named,
                    "reason": asked.verdict.reason if asked.verdict else None,
                    "fault": asked.fault or asked.nonsense,
                }
                for shown, named, asked in zip(self.engines, self.named, self.orders, strict=False)
            ],
        }


def winner_by(scores: Mapping[str, float], engines: Pair) -> str | None:
    """The engine with the larger score, or a tie; None where one was not measured."""
    if any(engine not in scores for engine in engines):
        return None
    first, second = (scores[engine] for engine in engines)
    return TIE if first == second else engines[first < second]


def _named(asked: Asked, order: Pair) -> str | None:
    """The engine that a verdict means, as the answers were shown."""
    if not isinstance(asked.verdict, PairVerdict):
        return None
    return {"first": order[0], "second": order[1]}.get(asked.verdict.winner, TIE)
