"""One sample asked of one engine, as a result record: text, task metrics, target loss, speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.engines.base import Completion, Engine, Failure, Score
from vlmpipe.evaluation.measuring import Measured
from vlmpipe.evaluation.records import NOT_ASKED, Record, System
from vlmpipe.evaluation.sources import inputs_digest
from vlmpipe.tasks import task_of

IMAGE_PLACE = "<image>"

Measure = Callable[[str, str, str], Measured]
"""Task, prediction, reference to what they came to; `MetricPool.measure` is one."""


def measured_here(task: str, prediction: str, reference: str) -> Measured:
    """The task's metrics in this process: for callers whose process is expendable."""
    return Measured(task_of(task).measure(prediction, reference))


def answer_sample(
    engine: Engine,
    system: System,
    sample: Sample,
    *,
    split: str,
    measure: Measure,
) -> Record:
    """Ask the engine, measure its answer, and score the reference where the engine can."""
    completion = engine.complete(sample.prompt, max_new_tokens=system.sampling.max_new_tokens)
    score = engine.score(sample.prompt, sample.reference) if engine.can_score else None
    measured = measure(sample.task, completion.text, sample.reference)
    return Record(
        **system.model_dump(),
        sample=sample.id,
        split=split,
        inputs=inputs_digest(sample),
        task=sample.task,
        prompt=writable(prompt_text(sample.prompt)),
        reference=writable(sample.reference),
        status="answered",
        metrics=finite(measured.metrics),
        unmeasured=measured.unmeasured,
        **answered_fields(completion),
        **scored_fields(score),
    )


def answer_samples(
    engine: Engine,
    system: System,
    samples: Sequence[Sample],
    *,
    split: str,
    measure: Measure,
) -> Iterator[Record]:
    """Records one by one, in the order of the samples."""
    for sample in samples:
        yield answer_sample(engine, system, sample, split=split, measure=measure)


def token_mean(losses: Sequence[tuple[float, int]]) -> float:
    """Mean over all tokens of (mean loss, tokens) pairs, nats a token."""
    tokens = sum(count for _, count in losses)
    return sum(loss * count for loss, count in losses) / tokens if tokens else 0.0


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics that are numbers: JSON has no other."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def writable(text: str) -> str:
    """Text that UTF-8 can hold: halves of characters become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def prompt_text(messages: Sequence[Message]) -> str:
    """The turns as text for people, images as `<image>`, roles named where there are several."""
    turns = [
        (message.role, "".join(p if isinstance(p, str) else IMAGE_PLACE for p in message.parts))
        for message in messages
    ]
    if len(turns) == 1:
        return turns[0][1]
    return "\n".join(f"{role}: {text}" for role, text in turns)


def answered_fields(completion: Completion) -> dict[str, Any]:
    """What a record takes from an answer."""
    return {
        "prediction": writable(completion.text),
        "cut": completion.finish_reason == "length",
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "seconds": completion.seconds,
        "first_token_seconds": completion.first_token_seconds,
    }


def scored_fields(score: Score | Failure | None) -> dict[str, Any]:
    """What a record takes from a score, or why there is none; None: it was not asked for."""
    if score is None:
        return {"unscored": NOT_ASKED}
    if isinstance(score, Failure):
        return {"unscored": writable(score.message)}
    if not math.isfinite(score.loss):
        return {"unscored": f"the loss is {score.loss}"}
    return {
        "loss": score.loss,
        "token_accuracy": score.accuracy,
        "reference_tokens": score.tokens,
    }
