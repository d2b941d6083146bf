"""One engine by itself: each answer scored from 1 to 5."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmpipe.config.judge import JudgeConfig
from vlmpipe.evaluation.judging.agreement import mean, spearman
from vlmpipe.evaluation.judging.asking import Asked, Progress, ask_until_verdict, each_case
from vlmpipe.evaluation.judging.cases import Case
from vlmpipe.evaluation.judging.endpoint import Endpoint
from vlmpipe.evaluation.judging.questions import point_question
from vlmpipe.evaluation.judging.rubrics import Rubrics, rubric_digests
from vlmpipe.evaluation.judging.summary import Judge, PointSummary, faults_of, usage_of
from vlmpipe.evaluation.judging.verdicts import PointVerdict
from vlmpipe.evaluation.judging.writing import CACHE, point_stem, write_judgement
from vlmpipe.tasks import task_of


@dataclass(frozen=True)
class PointResult:
    """A case with its score."""

    case: Case
    engine: str
    asked: Asked

    @property
    def score(self) -> int | None:
        """1 to 5; None without a verdict."""
        verdict = self.asked.verdict
        return verdict.score if isinstance(verdict, PointVerdict) else None

    def as_row(self) -> dict[str, Any]:
        """Plain JSON values, a line of the file of verdicts."""
        return {
            "sample": self.case.sample,
            "split": self.case.split,
            "task": self.case.task,
            "engine": self.engine,
            "score": self.score,
            "reason": self.asked.verdict.reason if self.asked.verdict else None,
            "fault": self.asked.fault or self.asked.nonsense,
            "metric": self.case.scores.get(self.engine),
            "answers": self.case.digests,
        }


def judge_points(
    cases: Iterable[Case],
    config: JudgeConfig,
    engine: str,
    folder: Path,
    progress: Progress = lambda done: None,
) -> PointSummary:
    """Score every case, and write `<engine>.json` and `.jsonl` into a folder.

    Replies are kept and faults counted as `judge_pairs` does.

    Raises:
        ConfigError: for a rubric that cannot be read, or a key that is not set.
    """
    rubrics = Rubrics(config.rubric)

    async def judge(endpoint: Endpoint, case: Case) -> PointResult:
        question = point_question(case, engine, rubrics.of(case.task), config)
        asked = await ask_until_verdict(endpoint, question)
        return PointResult(replace(case, images=()), engine, asked)

    results, endpoint = each_case(cases, config, folder / CACHE, judge, progress)
    summary = _summarise(results, engine, endpoint, rubrics)
    write_judgement(folder, point_stem(engine), summary, (each.as_row() for each in results))
    return summary


def _summarise(
    results: Sequence[PointResult], engine: str, endpoint: Endpoint, rubrics: Rubrics
) -> PointSummary:
    asked = [result.asked for result in results]
    scored = [(each, each.score) for each in results if each.score is not None]
    scores = [score for _, score in scored]
    measured = [
        (score, each.case.scores[engine]) for each, score in scored if engine in each.case.scores
    ]
    failed = sum(each.fault is not None for each in asked)
    config = endpoint.config
    return PointSummary(
        mode="pointwise",
        engines=(engine,),
        judge=Judge(
            base_url=config.base_url,
            model=config.model,
            rubrics=rubric_digests(rubrics, [each.case.task for each in results]),
        ),
        cases=len(results),
        judged=len(scored),
        no_verdict=len(results) - len(scored) - failed,
        failed=failed,
        faults=faults_of(asked),
        stopped=endpoint.stopped,
        usage=usage_of(asked, endpoint),
        mean_score=mean(scores),
        scores={score: scores.count(score) for score in range(1, 6)},
        metrics=tuple(sorted({task_of(each.case.task).primary_metric for each, _ in scored})),
        correlation=spearman([score for score, _ in measured], [value for _, value in measured]),
    )
