"""What pairwise judging came to."""

from __future__ import annotations

from collections.abc import Sequence

from vlmpipe.evaluation.judging.agreement import (
    Estimate,
    cohens_kappa,
    mean,
    share,
    share_over_cases,
)
from vlmpipe.evaluation.judging.endpoint import Endpoint
from vlmpipe.evaluation.judging.pairs import TIE, Pair, PairResult
from vlmpipe.evaluation.judging.rubrics import Rubrics, rubric_digests
from vlmpipe.evaluation.judging.summary import (
    Agreement,
    Judge,
    PairSummary,
    faults_of,
    usage_of,
)
from vlmpipe.tasks import task_of


def summarise(
    results: Sequence[PairResult], engines: Pair, endpoint: Endpoint, rubrics: Rubrics
) -> PairSummary:
    """All figures."""
    asked = [each for result in results for each in result.orders]
    judged = [result for result in results if result.winner is not None]
    failed = [r for r in results if any(each.fault for each in r.orders)]
    wins = {engine: sum(result.winner == engine for result in judged) for engine in engines}
    config = endpoint.config
    return PairSummary(
        mode="pairwise",
        engines=engines,
        judge=Judge(
            base_url=config.base_url,
            model=config.model,
            rubrics=rubric_digests(rubrics, [result.case.task for result in results]),
        ),
        cases=len(results),
        judged=len(judged),
        no_verdict=len(results) - len(judged) - len(failed),
        failed=len(failed),
        faults=faults_of(asked),
        stopped=endpoint.stopped,
        usage=usage_of(asked, endpoint),
        wins=wins,
        ties=len(judged) - sum(wins.values()),
        identical=sum(not result.orders for result in results),
        win_rate={engine: _win_rate(judged, engine) for engine in engines},
        decided={engine: share(wins[engine], sum(wins.values())) for engine in engines},
        order_decided=_order_decided(judged),
        first_wins=_first_wins(judged),
        metrics=tuple(sorted({task_of(result.case.task).primary_metric for result in judged})),
        agreement=agreement_of([(r.winner or TIE, r.metric_winner) for r in judged], engines),
    )


def agreement_of(found: Sequence[tuple[str, str | None]], engines: Pair) -> Agreement:
    """Winners that one side named against those of the other, None where it named nothing."""
    known = [(one, other) for one, other in found if other is not None]
    decided = [(one, other) for one, other in known if TIE not in (one, other)]
    return Agreement(
        agree=share(sum(one == other for one, other in decided), len(decided)),
        first_ties=sum(one == TIE != other for one, other in known),
        second_ties=sum(other == TIE != one for one, other in known),
        both_tie=sum(one == TIE == other for one, other in known),
        missing=len(found) - len(known),
        kappa=cohens_kappa(
            [one for one, _ in known], [other for _, other in known], (*engines, TIE)
        ),
    )


def _win_rate(judged: Sequence[PairResult], engine: str) -> Estimate:
    points = {engine: 1.0, TIE: 0.5}
    return mean([points.get(result.winner or "", 0.0) for result in judged])


def _order_decided(judged: Sequence[PairResult]) -> Estimate:
    asked = [result for result in judged if result.orders]
    return share(sum(result.order_decided for result in asked), len(asked))


def _first_wins(judged: Sequence[PairResult]) -> Estimate:
    """Over cases with both verdicts: one alone would count whose answer stood first by chance."""
    named = [result.first_named for result in judged if result.orders]
    return share_over_cases([(sum(each), len(each)) for each in named])
