"""Two engines side by side: each pair of answers asked in both orders."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from vlmpipe.config.judge import JudgeConfig
from vlmpipe.evaluation.judging.asking import Progress, ask_until_verdict, each_case
from vlmpipe.evaluation.judging.cases import Case
from vlmpipe.evaluation.judging.endpoint import Endpoint
from vlmpipe.evaluation.judging.pair_figures import summarise
from vlmpipe.evaluation.judging.pairs import Pair, PairResult
from vlmpipe.evaluation.judging.questions import pair_question
from vlmpipe.evaluation.judging.rubrics import Rubrics
from vlmpipe.evaluation.judging.summary import PairSummary
from vlmpipe.evaluation.judging.writing import CACHE, pair_stem, write_judgement


def judge_pairs(
    cases: Iterable[Case],
    config: JudgeConfig,
    engines: Pair,
    folder: Path,
    progress: Progress = lambda done: None,
) -> PairSummary:
    """Judge every case, and write `<A>_vs_<B>.json` and `.jsonl` into a folder.

    Replies are kept in `cache` under the folder: the same questions are asked once. What a server
    does or fails to do is counted and never raised.

    Raises:
        ConfigError: for a rubric that cannot be read, or a key that is not set.
    """
    rubrics = Rubrics(config.rubric)

    async def judge(endpoint: Endpoint, case: Case) -> PairResult:
        return await _both_orders(endpoint, case, engines, rubrics.of(case.task))

    results, endpoint = each_case(cases, config, folder / CACHE, judge, progress)
    summary = summarise(results, engines, endpoint, rubrics)
    write_judgement(folder, pair_stem(*engines), summary, (each.as_row() for each in results))
    return summary


async def _both_orders(endpoint: Endpoint, case: Case, engines: Pair, rubric: str) -> PairResult:
    first, second = engines
    answered = replace(case, images=())
    if case.answers[first].strip() == case.answers[second].strip():
        return PairResult(case=answered, engines=engines)
    questions = [
        pair_question(case, shown, other, rubric, endpoint.config)
        for shown, other in (engines, engines[::-1])
    ]
    orders = await asyncio.gather(*(ask_until_verdict(endpoint, each) for each in questions))
    return PairResult(case=answered, engines=engines, orders=orders)
