"""What a judge says of the answers of base and tuned, where `validate.judge` asks for one."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmpipe.config.judge import JudgeConfig
from vlmpipe.encoding.conversation import Sample
from vlmpipe.evaluation.judging import (
    JudgeSummary,
    PairSummary,
    PointSummary,
    judge_pairs,
    judge_points,
)
from vlmpipe.evaluation.judging.agreement import Estimate
from vlmpipe.evaluation.judging.cases import CaseSource, drawn
from vlmpipe.evaluation.judging.connection import open_client
from vlmpipe.evaluation.judging.folders import JUDGE_FOLDER
from vlmpipe.evaluation.judging.rubrics import Rubrics
from vlmpipe.evaluation.progress import Progress, untold
from vlmpipe.evaluation.validation.comparison import BASE, TUNED, Comparison


@dataclass(frozen=True)
class GivenSamples:
    """Samples that are in memory already, as a source."""

    name: str
    samples: Sequence[Sample]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)


def refuse_unusable(config: JudgeConfig, tasks: Collection[str]) -> None:
    """What would stop the judging later, told before models are loaded.

    Raises:
        ConfigError: for a rubric that cannot be read, an address that is none, or a key that is not
            set or cannot be sent.
    """
    rubrics = Rubrics(config.rubric)
    for task in tasks:
        rubrics.of(task)
    open_client(config)


def ask_judge(
    config: JudgeConfig,
    comparison: Comparison,
    source: GivenSamples,
    run_folder: Path,
    progress: Progress = untold,
) -> JudgeSummary | None:
    """Base against tuned on what both answered of a split, or tuned alone in pointwise mode; None
    where nothing was answered. Every verdict is written under the run's `judge/`.

    Raises:
        ConfigError: for a rubric that cannot be read, or a key that is not set.
    """
    base, tuned = (comparison.of(source.name, model) for model in (BASE, TUNED))
    before = {record.sample: record for record in base}
    both = {record.sample: record for record in tuned if record.sample in before}
    if not both:
        return None
    pairs = {
        name: {each.engine: each for each in (before[name], both[name])}
        for name in drawn(list(both), config.samples)
    }
    cases = CaseSource(source, pairs, unanswered={})

    def tell(done: int) -> None:
        progress("judge", done, cases.count)

    folder = run_folder / JUDGE_FOLDER
    if config.mode == "pointwise":
        return judge_points(cases, config, tuned[0].engine, folder, tell)
    return judge_pairs(cases, config, (base[0].engine, tuned[0].engine), folder, tell)


def judged_lines(summary: JudgeSummary) -> tuple[str, ...]:
    """What a judge says, for the person who watches."""
    lines = []
    if isinstance(summary, PairSummary):
        tuned = summary.engines[1]
        rate = summary.win_rate[tuned]
        lines.append(
            f"judge {summary.judge.model}: {tuned} wins {summary.wins[tuned]} of {summary.judged},"
            f" {summary.ties} ties; win rate {_said(rate)}"
        )
    elif isinstance(summary, PointSummary):
        lines.append(f"judge {summary.judge.model}: mean score {_said(summary.mean_score)} of 5")
    left = summary.no_verdict + summary.failed
    if left:
        lines.append(f"judge: {left} of {summary.cases} samples without a verdict")
    if summary.stopped:
        lines.append(f"judge stopped: {summary.stopped}")
    return tuple(lines)


def _said(figure: Estimate) -> str:
    if figure.value is None:
        return "none"
    if figure.interval is None:
        return f"{figure.value:.2f}"
    low, high = figure.interval
    return f"{figure.value:.2f} (95 % interval {low:.2f} to {high:.2f})"
