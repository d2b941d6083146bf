"""One rung: what an engine says to the probe set, teacher-forced and by itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlmpipe.encoding.conversation import Sample
from vlmpipe.engines.base import Engine, Forced, ForcingEngine
from vlmpipe.tasks import task_of

Step = Callable[[], None]


@dataclass(frozen=True)
class Answers:
    """Greedy answers to the probe set, in its order."""

    texts: tuple[str, ...]
    metric: float
    """Mean of each task's primary metric."""


@dataclass(frozen=True)
class Distributions:
    """Teacher-forced logits of the probe set, a file a sample: real vocabularies take gigabytes."""

    folder: Path
    loss: float
    """Mean target loss over all tokens, nats a token."""

    count: int

    def drop(self) -> None:
        """Give the disk back; nothing can be compared with these any more."""
        shutil.rmtree(self.folder)

    def sample(self, index: int) -> Forced:
        """One sample's, read from disk as it is used."""
        targets = np.load(self.folder / f"{index}.ids.npy")
        return Forced(targets, np.load(self.folder / f"{index}.npy", mmap_mode="r"))


@dataclass(frozen=True)
class Rung:
    """An engine's distributions, and its answers where they were asked for."""

    name: str
    distributions: Distributions
    answers: Answers | None = None


def ask_rung(
    engine: ForcingEngine,
    samples: Sequence[Sample],
    scratch: Path,
    *,
    name: str,
    max_new_tokens: int,
    answers: Answers | None = None,
    answered: bool = True,
    step: Step = lambda: None,
) -> Rung:
    """Force every reference through an engine, and let it answer by itself.

    `answers` are taken where they are known already; with `answered=False` none are asked for.
    """
    distributions = force(engine, samples, scratch / name, step)
    if answers is None and answered:
        answers = answer(engine, samples, max_new_tokens, step)
    return Rung(name, distributions, answers)


def force(
    engine: ForcingEngine, samples: Sequence[Sample], folder: Path, step: Step = lambda: None
) -> Distributions:
    """The engine's distributions over the references, kept in `folder`."""
    folder.mkdir(parents=True)
    losses, tokens = 0.0, 0
    for index, sample in enumerate(samples):
        forced = engine.forced(sample.prompt, sample.reference)
        np.save(folder / f"{index}.ids.npy", forced.targets)
        np.save(folder / f"{index}.npy", forced.logits)
        score = forced.score()
        losses, tokens = losses + score.loss * score.tokens, tokens + score.tokens
        step()
    return Distributions(folder, losses / tokens, len(samples))


def answer(
    engine: Engine, samples: Sequence[Sample], max_new_tokens: int, step: Step = lambda: None
) -> Answers:
    """The engine's own greedy answers, and how good they are."""
    texts = []
    for sample in samples:
        texts.append(engine.complete(sample.prompt, max_new_tokens=max_new_tokens).text)
        step()
    return measured(texts, samples)


def measured(texts: Sequence[str], samples: Sequence[Sample]) -> Answers:
    """Answers with their mean primary metric."""
    values = []
    for text, sample in zip(texts, samples, strict=True):
        task = task_of(sample.task)
        values.append(task.measure(text, sample.reference)[task.primary_metric])
    return Answers(tuple(texts), sum(values) / len(values))
