"""Base against tuned on training probes and held-out samples, over any two engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vlmpipe.encoding.conversation import Sample
from vlmpipe.engines.base import Engine
from vlmpipe.evaluation.answers import Measure, answer_samples, measured_here
from vlmpipe.evaluation.progress import Progress, Steps, untold
from vlmpipe.evaluation.records import Record, System
from vlmpipe.evaluation.reliance import (
    Reliance,
    measure_reliance,
    probes_of,
    why_not_measurable,
)
from vlmpipe.tasks import task_of

BASE, TUNED = "base", "tuned"
TRAIN: Final = "train"
HELDOUT: Final = "heldout"


@dataclass(frozen=True)
class Comparison:
    """All answers, and the image reliance of each model."""

    records: Mapping[str, Sequence[Record]]
    """By model, split after split."""

    reliance: Mapping[str, Reliance]
    """By model; empty where it could not be measured."""

    has_images: bool
    reliance_split: str
    reliance_samples: int
    reliance_unmeasured: str | None
    """Why not, where it could not be measured."""

    primary_metric: str

    @property
    def tasks(self) -> list[str]:
        """Those that were asked, in the order of their first samples."""
        return list(dict.fromkeys(each.task for each in self.records.get(TUNED, ())))

    def of(self, split: str, model: str, task: str | None = None) -> list[Record]:
        """One model's answers to one split, or to one task's samples of it."""
        return [
            each
            for each in self.records.get(model, ())
            if each.split == split and task in (None, each.task)
        ]


def compare(
    engines: Mapping[str, Engine],
    systems: Mapping[str, System],
    splits: Mapping[str, Sequence[Sample]],
    *,
    measure: Measure = measured_here,
    progress: Progress = untold,
) -> Comparison:
    """Run every engine (`base`, `tuned`) over every split (`train`, `heldout`; any may be empty).

    Image reliance is measured on the held-out samples, on the training probes where those do not
    allow it. The primary metric is that of the task most samples are of.
    """
    primary_metric = _primary_metric(splits)
    split, unmeasured = _reliance_split(splits)
    probes = [] if unmeasured else probes_of(splits[split])
    count = sum(len(samples) for samples in splits.values())
    steps = Steps(len(engines) * (count + 3 * len(probes)), progress)
    records: dict[str, Sequence[Record]] = {}
    reliance: dict[str, Reliance] = {}
    for model, engine in engines.items():
        steps.label = f"{model} answers"
        given = _answers(engine, systems[model], splits, measure, steps)
        records[model] = given
        steps.label = f"{model} without its images"
        if probes:
            reliance[model] = measure_reliance(
                engine,
                probes,
                task_of,
                primary_metric,
                max_new_tokens=systems[model].sampling.max_new_tokens,
                known=[record for record in given if record.split == split],
                measure=measure,
                on_step=steps,
            )
    return Comparison(
        records=records,
        reliance=reliance,
        has_images=any(sample.images for samples in splits.values() for sample in samples),
        reliance_split=split,
        reliance_samples=len(probes),
        reliance_unmeasured=unmeasured,
        primary_metric=primary_metric,
    )


def _primary_metric(splits: Mapping[str, Sequence[Sample]]) -> str:
    names = Counter(
        task_of(sample.task).primary_metric for samples in splits.values() for sample in samples
    )
    return names.most_common(1)[0][0] if names else ""


def _reliance_split(splits: Mapping[str, Sequence[Sample]]) -> tuple[str, str | None]:
    """The split to measure image reliance on, and why it cannot be measured there."""
    reasons = {name: why_not_measurable(splits.get(name, ())) for name in (HELDOUT, TRAIN)}
    measurable = [name for name, reason in reasons.items() if reason is None]
    if measurable:
        return measurable[0], None
    asked = HELDOUT if splits.get(HELDOUT) else TRAIN
    return asked, reasons[asked]


def _answers(
    engine: Engine,
    system: System,
    splits: Mapping[str, Sequence[Sample]],
    measure: Measure,
    steps: Callable[[], None],
) -> list[Record]:
    found = []
    for split, samples in splits.items():
        for record in answer_samples(engine, system, samples, split=split, measure=measure):
            found.append(record)
            steps()
    return found
