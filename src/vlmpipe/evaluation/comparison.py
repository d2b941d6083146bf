"""Base against tuned on training probes and held-out samples, over any two engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from vlmpipe.encoding.conversation import Sample
from vlmpipe.engines.base import Engine
from vlmpipe.evaluation.answers import (
    Answer,
    answer_samples,
    seconds_per_answer,
    token_mean,
    tokens_per_second,
)
from vlmpipe.evaluation.reliance import (
    Reliance,
    measure_reliance,
    probes_of,
    why_not_measurable,
)
from vlmpipe.tasks.base import Task, mean_metrics

BASE, TUNED = "base", "tuned"
TRAIN: Final = "train"
HELDOUT: Final = "heldout"
Progress = Callable[[str, int, int], None]
"""Told what is being done, how many steps are done, and of how many."""


@dataclass(frozen=True)
class Comparison:
    """All answers, the image reliance of each model, and the flat metrics."""

    answers: tuple[Answer, ...]
    reliance: Mapping[str, Reliance]
    """By model; empty where it could not be measured."""

    has_images: bool
    reliance_split: str
    reliance_samples: int
    reliance_unmeasured: str | None
    """Why not, where it could not be measured."""

    metrics: Mapping[str, float]
    primary_metric: str

    def of(self, split: str, model: str) -> list[Answer]:
        """One model's answers to one split."""
        return [each for each in self.answers if each.split == split and each.model == model]


@dataclass
class _Steps:
    """Counts what is done and passes it on."""

    total: int
    tell: Progress
    label: str = ""
    done: int = field(default=0)

    def __call__(self) -> None:
        self.done += 1
        self.tell(self.label, self.done, self.total)


def compare(
    engines: Mapping[str, Engine],
    splits: Mapping[str, Sequence[Sample]],
    task_of: Callable[[str], Task],
    *,
    max_new_tokens: int,
    progress: Progress = lambda label, done, total: None,
) -> Comparison:
    """Run every engine (`base`, `tuned`) over every split (`train`, `heldout`; any may be empty).

    Image reliance is measured on the held-out samples, on the training probes where those do not
    allow it. The primary metric is that of the task most samples are of.
    """
    primary_metric = _primary_metric(splits, task_of)
    split, unmeasured = _reliance_split(splits)
    probes = [] if unmeasured else probes_of(splits[split])
    count = sum(len(samples) for samples in splits.values())
    steps = _Steps(len(engines) * (count + 3 * len(probes)), progress)
    answers: list[Answer] = []
    reliance: dict[str, Reliance] = {}
    for model, engine in engines.items():
        steps.label = f"{model} answers"
        given = _answers(engine, model, splits, task_of, max_new_tokens, steps)
        answers += given
        steps.label = f"{model} without its images"
        if probes:
            reliance[model] = measure_reliance(
                engine,
                probes,
                task_of,
                primary_metric,
                max_new_tokens=max_new_tokens,
                known=[answer for answer in given if answer.split == split],
                on_step=steps,
            )
    return Comparison(
        answers=tuple(answers),
        reliance=reliance,
        has_images=any(sample.images for samples in splits.values() for sample in samples),
        reliance_split=split,
        reliance_samples=len(probes),
        reliance_unmeasured=unmeasured,
        metrics=_metrics(answers, reliance, primary_metric),
        primary_metric=primary_metric,
    )


def _primary_metric(splits: Mapping[str, Sequence[Sample]], task_of: Callable[[str], Task]) -> str:
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
    model: str,
    splits: Mapping[str, Sequence[Sample]],
    task_of: Callable[[str], Task],
    max_new_tokens: int,
    steps: Callable[[], None],
) -> list[Answer]:
    found = []
    for split, samples in splits.items():
        for answer in answer_samples(
            engine, samples, task_of, split=split, model=model, max_new_tokens=max_new_tokens
        ):
            found.append(answer)
            steps()
    return found


def _metrics(
    answers: Sequence[Answer], reliance: Mapping[str, Reliance], primary_metric: str
) -> dict[str, float]:
    found: dict[str, float] = {}
    models = dict.fromkeys(answer.model for answer in answers)
    for model in models:
        own = [answer for answer in answers if answer.model == model]
        for split in dict.fromkeys(answer.split for answer in own):
            found |= _split_metrics([a for a in own if a.split == split], split, model)
        if model in reliance:
            found |= reliance[model].as_metrics(primary_metric, model)
        found[f"speed/tokens_per_second/{model}"] = tokens_per_second(own)
        found[f"speed/seconds_per_answer/{model}"] = seconds_per_answer(own)
    return found


def _split_metrics(answers: Sequence[Answer], split: str, model: str) -> dict[str, float]:
    means = mean_metrics([answer.metrics for answer in answers])
    means["loss"] = token_mean([(answer.loss, answer.reference_tokens) for answer in answers])
    means["cut"] = sum(answer.cut for answer in answers) / len(answers)
    return {f"{split}/{name}/{model}": value for name, value in means.items()}
