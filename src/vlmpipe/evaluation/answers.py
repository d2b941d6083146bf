"""Greedy answers of an engine to samples: text, task metrics, target loss, speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.engines.base import Completion, Engine, Score
from vlmpipe.tasks.base import Task

IMAGE_PLACE = "<image>"


@dataclass(frozen=True)
class Answer:
    """One sample, answered by one model."""

    sample: str
    split: str
    model: str
    task: str
    prompt: str
    """The conversation's text up to the answer, `<image>` where an image stands."""

    prediction: str
    reference: str
    metrics: Mapping[str, float]
    loss: float
    """Of the reference, teacher-forced: nats a token."""

    reference_tokens: int
    cut: bool
    """Stopped by the limit on new tokens."""

    prompt_tokens: int
    completion_tokens: int
    seconds: float
    first_token_seconds: float

    def as_row(self) -> dict[str, Any]:
        """Plain JSON values, as `predictions.jsonl` holds them."""
        return asdict(self)


def answer_sample(
    engine: Engine,
    sample: Sample,
    task: Task,
    *,
    split: str,
    model: str,
    max_new_tokens: int,
) -> Answer:
    """Ask the engine, measure its answer, and score the reference."""
    completion = engine.complete(sample.prompt, max_new_tokens=max_new_tokens)
    score = engine.score(sample.prompt, sample.reference)
    return _answer(sample, task, completion, score, split=split, model=model)


def answer_samples(
    engine: Engine,
    samples: Sequence[Sample],
    task_of: Callable[[str], Task],
    *,
    split: str,
    model: str,
    max_new_tokens: int,
) -> Iterator[Answer]:
    """Answers one by one, in the order of the samples."""
    for sample in samples:
        yield answer_sample(
            engine,
            sample,
            task_of(sample.task),
            split=split,
            model=model,
            max_new_tokens=max_new_tokens,
        )


def token_mean(losses: Sequence[tuple[float, int]]) -> float:
    """Mean over all tokens of (mean loss, tokens) pairs, nats a token."""
    tokens = sum(count for _, count in losses)
    return sum(loss * count for loss, count in losses) / tokens if tokens else 0.0


def tokens_per_second(answers: Sequence[Answer]) -> float:
    """Generation speed over all answers, from each first token on; 0 where none had a second."""
    tokens = sum(max(answer.completion_tokens - 1, 0) for answer in answers)
    seconds = sum(answer.seconds - answer.first_token_seconds for answer in answers)
    return tokens / seconds if seconds > 0 else 0.0


def seconds_per_answer(answers: Sequence[Answer]) -> float:
    """Mean time of a whole request."""
    return _mean([answer.seconds for answer in answers])


def prompt_text(messages: Sequence[Message]) -> str:
    """The turns as text for people, images as `<image>`, roles named where there are several."""
    turns = [
        (message.role, "".join(p if isinstance(p, str) else IMAGE_PLACE for p in message.parts))
        for message in messages
    ]
    if len(turns) == 1:
        return turns[0][1]
    return "\n".join(f"{role}: {text}" for role, text in turns)


def _answer(
    sample: Sample, task: Task, completion: Completion, score: Score, *, split: str, model: str
) -> Answer:
    return Answer(
        sample=sample.id,
        split=split,
        model=model,
        task=sample.task,
        prompt=prompt_text(sample.prompt),
        prediction=completion.text,
        reference=sample.reference,
        metrics=dict(task.measure(completion.text, sample.reference)),
        loss=score.loss,
        reference_tokens=score.tokens,
        cut=completion.finish_reason == "length",
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        seconds=completion.seconds,
        first_token_seconds=completion.first_token_seconds,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
