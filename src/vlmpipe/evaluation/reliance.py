"""Image reliance: does the model look, or does it answer from the language prior?

A model that reads its image finds the right answer less likely when the image is blank, or is
another sample's. A model that answers from the prior finds it just as likely.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle

from PIL import Image

from vlmpipe.encoding.conversation import Message, Part, Sample
from vlmpipe.engines.base import Engine
from vlmpipe.evaluation.answers import Measure, token_mean
from vlmpipe.evaluation.records import Record
from vlmpipe.evaluation.statistics import Interval, ratio_interval
from vlmpipe.tasks.base import Task, mean_metrics

CONDITIONS = ("true", "blank", "swapped")
ANSWERED_SAMPLES = 4
"""Answers are asked of this many samples at most, under each condition: generating takes a hundred
times as long as scoring."""


@dataclass(frozen=True)
class Probe:
    """A sample under the three conditions."""

    true: Sample
    blank: Sample
    swapped: Sample

    def under(self, condition: str) -> Sample:
        """The sample with its `true`, a `blank` or a `swapped` image."""
        sample: Sample = getattr(self, condition)
        return sample


@dataclass(frozen=True)
class Reliance:
    """One model's dependence on its images."""

    losses: Mapping[str, float]
    """Mean target loss under each condition, nats a token."""

    task_metric: Mapping[str, float]
    """Primary metric of the answers under each condition."""

    gain_intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Of `image_gain` and `blank_gain`; empty for a single probe."""

    @property
    def image_gain(self) -> float:
        """What the right image is worth against another sample's, nats a token."""
        return self.losses["swapped"] - self.losses["true"]

    @property
    def blank_gain(self) -> float:
        """What the right image is worth against a white one, nats a token."""
        return self.losses["blank"] - self.losses["true"]

    def as_metrics(self, primary_metric: str, model: str) -> dict[str, float]:
        """Flat metrics, `reliance/…/model`."""
        found = {f"loss_{name}": loss for name, loss in self.losses.items()}
        found |= {f"{primary_metric}_{name}": value for name, value in self.task_metric.items()}
        found |= {"image_gain": self.image_gain, "blank_gain": self.blank_gain}
        return {f"reliance/{name}/{model}": value for name, value in found.items()}


def why_not_measurable(samples: Sequence[Sample]) -> str | None:
    """A reason why image reliance cannot be measured on these samples, or None."""
    seen = [sample for sample in samples if sample.images]
    if not seen:
        return "no sample has an image"
    if len(seen) == 1:
        return "only one sample has an image, so there is no other to swap in"
    if len({_digest(sample) for sample in seen}) == 1:
        return f"all {len(seen)} samples show the same image"
    return None


def probes_of(samples: Sequence[Sample]) -> list[Probe]:
    """Each sample that has images, beside its blank and its swapped self."""
    seen = [sample for sample in samples if sample.images]
    return [
        Probe(sample, with_images(sample, _blanks(sample)), with_images(sample, other.images))
        for sample, other in zip(seen, partners(seen), strict=True)
    ]


def partners(samples: Sequence[Sample]) -> list[Sample]:
    """For each sample another one that shows something else: the same choice every time.

    With the samples grouped by image and turned by the size of the largest group, each meets a
    different image, and each is used once, unless one image fills more than half of them. At least
    two images must differ.
    """
    digests = [_digest(sample) for sample in samples]
    counts = Counter(digests)
    first = {digest: index for index, digest in reversed(list(enumerate(digests)))}
    order = sorted(range(len(samples)), key=lambda index: (first[digests[index]], index))
    turn = max(counts.values())
    chosen: dict[int, Sample] = {}
    for position, index in enumerate(order):
        turned = order[(position + turn) % len(order) :] + order
        other = next(each for each in turned if digests[each] != digests[index])
        chosen[index] = samples[other]
    return [chosen[index] for index in range(len(samples))]


def with_images(sample: Sample, images: Sequence[Image.Image]) -> Sample:
    """The sample with its images replaced in order, round again where there are too few."""
    supply = cycle(images)
    messages = tuple(
        Message(message.role, tuple(_replaced(part, supply) for part in message.parts))
        for message in sample.messages
    )
    return replace(sample, messages=messages)


def measure_reliance(
    engine: Engine,
    probes: Sequence[Probe],
    task_of: Callable[[str], Task],
    primary_metric: str,
    *,
    max_new_tokens: int,
    known: Sequence[Record] = (),
    measure: Measure | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Reliance:
    """Score every probe, and answer the first few, under each condition.

    `known` are this engine's records with true images; they are not asked again. Answers are
    measured by `measure`, or by their tasks in this process. `on_step` is called once for each
    probe and condition.
    """
    answers = {record.sample: record for record in known}
    losses, values, readings = {}, {}, {}
    for condition in CONDITIONS:
        found = []
        for index, probe in enumerate(probes):
            limit = max_new_tokens if index < ANSWERED_SAMPLES else None
            sample = probe.under(condition)
            record = answers.get(sample.id) if condition == "true" else None
            reading = _known(record, answered=limit is not None) if record else None
            found.append(reading or _read(engine, sample, task_of(sample.task), limit, measure))
            on_step()
        losses[condition] = token_mean([(each.loss, each.tokens) for each in found])
        means = mean_metrics([each.metrics for each in found])
        if primary_metric in means:
            values[condition] = means[primary_metric]
        readings[condition] = found
    return Reliance(losses, values, _gain_intervals(readings))


@dataclass(frozen=True)
class _Reading:
    loss: float
    tokens: int
    metrics: Mapping[str, float]
    """Empty where no answer was asked."""


def _known(record: Record, *, answered: bool) -> _Reading | None:
    """What a record says; None where its reference was not scored."""
    if record.loss is None or not record.reference_tokens:
        return None
    return _Reading(record.loss, record.reference_tokens, record.metrics if answered else {})


def _read(
    engine: Engine,
    sample: Sample,
    task: Task,
    max_new_tokens: int | None,
    measure: Measure | None,
) -> _Reading:
    score = engine.score(sample.prompt, sample.reference)
    if max_new_tokens is None:
        return _Reading(score.loss, score.tokens, {})
    text = engine.complete(sample.prompt, max_new_tokens=max_new_tokens).text
    metrics = (
        measure(sample.task, text, sample.reference).metrics
        if measure
        else task.measure(text, sample.reference)
    )
    return _Reading(score.loss, score.tokens, metrics)


def _gain_intervals(readings: Mapping[str, Sequence[_Reading]]) -> dict[str, Interval]:
    """Of what the true image is worth, over the tokens of whole probes."""
    found = {}
    for name, condition in (("image_gain", "swapped"), ("blank_gain", "blank")):
        pairs = list(zip(readings["true"], readings[condition], strict=True))
        gains = [(other.loss - true.loss) * true.tokens for true, other in pairs]
        interval = ratio_interval(gains, [float(true.tokens) for true, _ in pairs])
        if interval is not None:
            found[name] = interval
    return found


def _replaced(part: Part, supply: Iterator[Image.Image]) -> Part:
    return part if isinstance(part, str) else next(supply)


def _blanks(sample: Sample) -> list[Image.Image]:
    return [Image.new("RGB", image.size, "white") for image in sample.images]


def _digest(sample: Sample) -> str:
    digest = hashlib.sha256()
    for image in sample.images:
        digest.update(f"{image.mode} {image.size}".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()
