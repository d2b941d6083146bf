"""Whether the tuned model may go on: thresholds, over-fit, forgetting, image reliance, phases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vlmpipe.config.validate import ValidateConfig
from vlmpipe.evaluation.validation import rules
from vlmpipe.evaluation.validation.comparison import BASE, HELDOUT, TRAIN, TUNED, Comparison
from vlmpipe.evaluation.validation.figures import Figures, figures_of
from vlmpipe.evaluation.validation.forgetting import Forgetting
from vlmpipe.evaluation.validation.phases import PhaseTable
from vlmpipe.evaluation.validation.rules import RuleVerdict, place_of, spread

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
    ) -> Assessment:
        """With the figures of all of it."""
        figures = figures_of(comparison)
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
        rules.overfit(comparison, asked.max_overfit_gap),
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
        reasons = [record.unmeasured for record in records if record.unmeasured is not None]
        if reasons:
            yield (
                f"{len(reasons)} of {len(records)} answers of {model} could not be measured and"
                f" count as 0 in {comparison.primary_metric}: {reasons[0]}"
            )


def summary_of(assessment: Assessment, judgement: Judgement) -> tuple[str, ...]:
    """Lines for the person who watches: the primary metric, what each phase bought, what passed,
    the notes.
    """
    lines = [line for split in (TRAIN, HELDOUT) if (line := _primary_line(assessment, split))]
    lines += _phase_lines(assessment.phases) if assessment.phases else ()
    titles = {"overfit": "over-fit", "image_reliance": "image reliance"}
    lines += [
        f"{titles.get(each.name, each.name)}: {each.sentence}"
        for each in judgement.verdicts
        if each.passed
    ]
    return (*lines, *judgement.notes)


def _primary_line(assessment: Assessment, split: str) -> str | None:
    comparison, metrics = assessment.comparison, assessment.figures.metrics
    name, count = comparison.primary_metric, len(comparison.of(split, TUNED))
    base = metrics.get(f"{split}/{name}/{BASE}")
    tuned = metrics.get(f"{split}/{name}/{TUNED}")
    if base is None or tuned is None:
        return None
    interval = spread(assessment.figures.intervals.get(f"{split}/{name}/{TUNED}"))
    line = (
        f"{name} on {count} {place_of(split, count)}: base {base:.3f}, tuned {tuned:.3f}{interval}"
    )
    change = assessment.figures.paired.get(f"{split}/{name}")
    if change is None or change.p_value is None:
        return line
    few = "too few samples to tell it from chance"
    apart = few if change.samples < FEWEST else "not told apart from chance"
    doubt = "" if change.significant else f", {apart}"
    return f"{line}; difference {change.difference:+.3f}, p = {change.p_value:.2g}{doubt}"


def _phase_lines(table: PhaseTable) -> Iterator[str]:
    """What each phase bought: the loss over all samples, the primary metric over a few."""
    for state, change in table.changes:
        value = "" if state.value is None else f", {table.primary_metric} {state.value:.3f}"
        yield (
            f"after phase {state.name} (step {state.last_step}): loss {state.loss:.4f},"
            f" {change.difference:+.4f}{spread(change.interval, 4, '+')}{value}"
        )
