"""Image reliance: does the model look, or does it answer from the language prior?

A model that reads its image finds the right answer less likely when the image is blank, or is
another sample's. A model that answers from the prior finds it just as likely.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

from PIL import Image

from vlmpipe.encoding.conversation import Message, Part, Sample
from vlmpipe.engines.base import Engine
from vlmpipe.evaluation.answers import Answer, token_mean
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
    known: Sequence[Answer] = (),
    on_step: Callable[[], None] = lambda: None,
) -> Reliance:
    """Score every probe, and answer the first few, under each condition.

    `known` are this engine's answers with true images; they are not asked again. `on_step` is
    called once for each probe and condition.
    """
    answers = {answer.sample: answer for answer in known}
    losses, values = {}, {}
    for condition in CONDITIONS:
        readings = []
        for index, probe in enumerate(probes):
            limit = max_new_tokens if index < ANSWERED_SAMPLES else None
            sample = probe.under(condition)
            answer = answers.get(sample.id) if condition == "true" else None
            readings.append(
                _Reading(answer.loss, answer.reference_tokens, answer.metrics if limit else {})
                if answer
                else _read(engine, sample, task_of(sample.task), limit)
            )
            on_step()
        losses[condition] = token_mean([(each.loss, each.tokens) for each in readings])
        means = mean_metrics([each.metrics for each in readings])
        if primary_metric in means:
            values[condition] = means[primary_metric]
    return Reliance(losses, values)


@dataclass(frozen=True)
class _Reading:
    loss: float
    tokens: int
    metrics: Mapping[str, float]
    """Empty where no answer was asked."""


def _read(engine: Engine, sample: Sample, task: Task, max_new_tokens: int | None) -> _Reading:
    score = engine.score(sample.prompt, sample.reference)
    if max_new_tokens is None:
        return _Reading(score.loss, score.tokens, {})
    completion = engine.complete(sample.prompt, max_new_tokens=max_new_tokens)
    return _Reading(score.loss, score.tokens, task.measure(completion.text, sample.reference))


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
