"""Whether the tuned model may go on: thresholds, over-fit, forgetting, image reliance, phases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlmpipe.config.validate import ValidateConfig
from vlmpipe.evaluation.statistics import mean_interval
from vlmpipe.evaluation.validation import rules
from vlmpipe.evaluation.validation.comparison import BASE, HELDOUT, TRAIN, TUNED, Comparison
from vlmpipe.evaluation.validation.figures import Figures, figures_of, paired
from vlmpipe.evaluation.validation.forgetting import Forgetting
from vlmpipe.evaluation.validation.phases import PhaseTable
from vlmpipe.evaluation.validation.rules import RuleVerdict, place_of, spread
from vlmpipe.tasks import task_of

FEWEST = 6
"""Pairs below which no difference can be told from chance at 5 %: of five, all better, one lot in
sixteen comes out as far."""


@dataclass(frozen=True)
class Assessment:
    """Everything that was measured."""

    comparison: Comparison
    figures: Figures
    forgetting: Forgetting | None = None
    phases: PhaseTable | None = None

    @classmethod
    def of(
        cls,
        comparison: Comparison,
        forgetting: Forgetting | None = None,
        phases: PhaseTable | None = None,
        measured: Mapping[str, float] | None = None,
    ) -> Assessment:
        """With the figures of all of it, and metrics that were `measured` beside the answers."""
        figures = figures_of(comparison) | Figures(measured or {})
        for each in (forgetting, phases):
            figures = figures | each.figures() if each is not None else figures
        return cls(comparison, figures, forgetting, phases)


@dataclass(frozen=True)
class Judgement:
    """What every rule says; and what the person who watches should know beside it."""

    verdicts: tuple[RuleVerdict, ...]
    remarks: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no rule failed."""
        return not self.reasons

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences of the rules that failed."""
        return tuple(each.sentence for each in self.verdicts if each.passed is False)

    @property
    def notes(self) -> tuple[str, ...]:
        """Why rules were not judged, and the remarks."""
        unjudged = (each.sentence for each in self.verdicts if each.passed is None)
        return (*unjudged, *self.remarks)


def judge(assessment: Assessment, asked: ValidateConfig) -> Judgement:
    """Hold what was measured against every rule of section `validate`."""
    comparison, metrics = assessment.comparison, assessment.figures.metrics
    verdicts = [
        *rules.numbers(metrics, comparison.records),
        *rules.thresholds(metrics, asked.thresholds),
        *rules.overfit(comparison, asked.max_overfit_gap),
        *rules.forgetting(assessment.forgetting, asked.max_forgetting),
        *rules.image_reliance(comparison, asked.min_image_gain),
        *rules.phases(assessment.phases),
    ]
    return Judgement(tuple(verdicts), tuple(_remarks(comparison)))


def _remarks(comparison: Comparison) -> Iterator[str]:
    tuned = comparison.records.get(TUNED, ())
    cut = sum(record.cut for record in tuned)
    if cut:
        yield (
            f"{cut} of {len(tuned)} tuned answers were cut at validate.max_new_tokens"
            f" and are measured as they stand"
        )
    for model, records in comparison.records.items():
        reasons = defaultdict(list)
        for record in records:
            if record.unmeasured is not None:
                reasons[task_of(record.task).primary_metric].append(record.unmeasured)
        for metric, own in reasons.items():
            yield (
                f"{len(own)} of {len(records)} answers of {model} could not be measured and"
                f" count as 0 in {metric}: {own[0]}"
            )


def summary_of(assessment: Assessment, judgement: Judgement) -> tuple[str, ...]:
    """Lines for the person who watches: the primary metric of each task, what each phase bought,
    what passed, the notes.
    """
    comparison = assessment.comparison
    lines = [
        line
        for split in (TRAIN, HELDOUT)
        for task in comparison.tasks
        if (line := _primary_line(comparison, split, task))
    ]
    lines += _phase_lines(assessment.phases) if assessment.phases else ()
    titles = {"overfit": "over-fit", "image_reliance": "image reliance"}
    lines += [
        f"{titles.get(each.name, each.name)}: {each.sentence}"
        for each in judgement.verdicts
        if each.passed
    ]
    return (*lines, *judgement.notes)


def _primary_line(comparison: Comparison, split: str, task: str) -> str | None:
    name = task_of(task).primary_metric
    first, second = (comparison.of(split, model, task) for model in (BASE, TUNED))
    base, tuned = (
        [record.metrics[name] for record in records if name in record.metrics]
        for records in (first, second)
    )
    if not base or not tuned:
        return None
    where = f"{place_of(split, len(second))}{rules.of_task(task, len(comparison.tasks))}"
    line = (
        f"{name} on {len(second)} {where}: base {_mean(base):.3f},"
        f" tuned {_mean(tuned):.3f}{spread(mean_interval(tuned))}"
    )
    change = paired(first, second).get(name)
    if change is None or change.p_value is None:
        return line
    few = "too few samples to tell it from chance"
    apart = few if change.samples < FEWEST else "not told apart from chance"
    doubt = "" if change.significant else f", {apart}"
    return f"{line}; difference {change.difference:+.3f}, p = {change.p_value:.2g}{doubt}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _phase_lines(table: PhaseTable) -> Iterator[str]:
    """What each phase bought: the loss over all samples, the primary metric over a few."""
    for state, change in table.changes:
        value = "" if state.value is None else f", {table.primary_metric} {state.value:.3f}"
        yield (
            f"after phase {state.name} (step {state.last_step}): loss {state.loss:.4f},"
            f" {change.difference:+.4f}{spread(change.interval, 4, '+')}{value}"
        )
