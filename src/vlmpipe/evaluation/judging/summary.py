"""What judging came to: figures, their intervals, what it took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from vlmpipe.config.judge import JudgeConfig, JudgeMode
from vlmpipe.evaluation.judging.agreement import Estimate
from vlmpipe.evaluation.judging.asking import Asked
from vlmpipe.evaluation.judging.endpoint import Endpoint


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Usage(_Frozen):
    """What the verdicts took, whether asked for now or before."""

    replies: int
    asked_now: int
    """Requests of this time; the other replies came from the cache."""

    input_tokens: int
    output_tokens: int
    unmetered: int
    """Replies whose tokens the server did not count: tokens and cost are without them."""

    cost: float | None
    """Of all replies, in the currency of the prices; None without prices, or where nothing was
    counted."""


class Judge(_Frozen):
    """Who judged."""

    base_url: str
    model: str
    rubrics: dict[str, str]
    """Digest of each task's rubric."""


class JudgeSummary(_Frozen):
    """What both modes have."""

    mode: JudgeMode
    engines: tuple[str, ...]
    judge: Judge
    cases: int
    judged: int
    no_verdict: int
    """The judge's replies were none, each time it was asked."""

    failed: int
    """The endpoint gave no reply."""

    faults: dict[str, int]
    """What went wrong, and how often."""

    stopped: str | None
    """Why the endpoint was not asked any more, where it was not."""

    usage: Usage


class Agreement(_Frozen):
    """Winners that one side named against the other's, case by case."""

    agree: Estimate
    """Over cases in which both name a winner."""

    first_ties: int
    """The one says a tie where the other names a winner."""

    second_ties: int
    both_tie: int
    missing: int
    """Cases about which the other says nothing: the metric could not be measured."""

    kappa: Estimate
    """Over three labels: the one engine, the other, a tie."""


class PairSummary(JudgeSummary):
    """Two engines: a win needs both orders, anything else that both orders answered is a tie."""

    wins: dict[str, int]
    ties: int
    identical: int
    """Of the ties: answers that are equal letter for letter, not asked about."""

    win_rate: dict[str, Estimate]
    """Of all judged cases, a tie counted as half; bootstrap over cases."""

    decided: dict[str, Estimate]
    """Of the cases that one of them won."""

    order_decided: Estimate
    """Share of the cases asked about where the answer shown in one place won both times: position
    bias, counted as ties."""

    first_wins: Estimate
    """Share of the verdicts with a winner that went to the answer shown first, over cases with
    verdicts in both orders; 0.5 without bias; bootstrap over cases."""

    metrics: tuple[str, ...]
    """Primary metrics of the tasks."""

    agreement: Agreement
    """The judge (first) and the engine with the better primary metric (second)."""


class PointSummary(JudgeSummary):
    """One engine: scores from 1 to 5."""

    mean_score: Estimate
    """Bootstrap over cases."""

    scores: dict[int, int]
    metrics: tuple[str, ...]
    correlation: Estimate
    """Spearman's rank correlation of the score and the task's primary metric."""


def usage_of(asked: Iterable[Asked], endpoint: Endpoint) -> Usage:
    """Tokens and cost of all replies."""
    replies = [reply for each in asked for reply in each.replies]
    metered = [reply for reply in replies if reply.input_tokens is not None]
    given = sum(reply.input_tokens or 0 for reply in metered)
    taken = sum(reply.output_tokens or 0 for reply in metered)
    return Usage(
        replies=len(replies),
        asked_now=endpoint.requests,
        input_tokens=given,
        output_tokens=taken,
        unmetered=len(replies) - len(metered),
        cost=_cost(endpoint.config, given, taken) if metered or not replies else None,
    )


def faults_of(asked: Sequence[Asked]) -> dict[str, int]:
    """Each fault with how often it was met, the most frequent first."""
    found = Counter(each.fault or each.nonsense for each in asked if each.verdict is None)
    return {text: count for text, count in found.most_common(20) if text is not None}


def _cost(config: JudgeConfig, given: int, taken: int) -> float | None:
    prices = config.price_per_million_input_tokens, config.price_per_million_output_tokens
    if prices[0] is None or prices[1] is None:
        return None
    return (given * prices[0] + taken * prices[1]) / 1e6
