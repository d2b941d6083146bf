"""A few samples asked of a model: how likely the target is, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe.encoding.conversation import Sample
from vlmpipe.engines.base import Completion, Engine

ANSWER_TOKENS = 64
"""Tokens of an answer that are compared at most: models that part ways do so early."""


@dataclass(frozen=True)
class Probe:
    """One sample's loss and greedy answer."""

    sample: str
    loss: float
    """Nats a token."""

    completion: Completion


@dataclass(frozen=True)
class ProbePair:
    """The same sample before and after, as merge_info.json states it."""

    sample: str
    loss_before: float
    loss_after: float
    answer_before: str
    answer_after: str
    same_answer: bool


def ask(engine: Engine, samples: Sequence[Sample]) -> list[Probe]:
    """Score each sample's reference and complete its prompt greedily."""
    return [_ask_one(engine, sample) for sample in samples]


def mean_loss(probes: Sequence[Probe]) -> float:
    """Mean over the samples, nats a token."""
    return sum(probe.loss for probe in probes) / len(probes)


def paired(before: Sequence[Probe], after: Sequence[Probe]) -> list[ProbePair]:
    """The probes of two models over the same samples, side by side."""
    return [
        ProbePair(
            sample=first.sample,
            loss_before=round(first.loss, 6),
            loss_after=round(second.loss, 6),
            answer_before=first.completion.text,
            answer_after=second.completion.text,
            same_answer=first.completion.text == second.completion.text,
        )
        for first, second in zip(before, after, strict=True)
    ]


def as_records(pairs: Sequence[ProbePair]) -> list[dict[str, Any]]:
    """The pairs as plain JSON values."""
    return [asdict(pair) for pair in pairs]


def _ask_one(engine: Engine, sample: Sample) -> Probe:
    score = engine.score(sample.prompt, sample.reference)
    completion = engine.complete(sample.prompt, max_new_tokens=ANSWER_TOKENS)
    return Probe(sample.id, score.loss, completion)
