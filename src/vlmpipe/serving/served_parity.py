"""A service held against the same files in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmpipe.encoding.conversation import Sample
from vlmpipe.engines.llama_cpp import LlamaCppEngine, PromptTooLongError
from vlmpipe.export.parity.top_divergence import TopDivergence, top_divergence
from vlmpipe.serving.requests import MAX_TOP_LOGPROBS
from vlmpipe.serving.rung import Limits, ServedRung
from vlmpipe.serving.served_answers import NoAnswer, ServedAnswer
from vlmpipe.tasks import task_of


@dataclass(frozen=True)
class _Compared:
    """One answer, held against the same question in process."""

    sample: str
    same_answer: bool
    metric: float
    prompt_tokens: tuple[int, int]
    """Served, in process."""

    divergence: TopDivergence


def served_rung(
    engine: LlamaCppEngine,
    samples: Sequence[Sample],
    answers: Sequence[ServedAnswer | NoAnswer],
    *,
    against: str,
    limits: Limits,
    max_new_tokens: int,
    departures: Sequence[str] = (),
    progress: Callable[[int], None] = lambda done: None,
) -> ServedRung:
    """Follow each served answer in process, and answer the same question there.

    `departures` are differences that are known already; any of them fails the rung.
    """
    asked = [
        pair
        for pair in zip(samples, answers, strict=True)
        if not (isinstance(pair[1], NoAnswer) and pair[1].too_large)
    ]
    compared: list[_Compared] = []
    unanswered: list[str] = []
    for done, (sample, answer) in enumerate(asked, start=1):
        found = _compare(engine, sample, answer, max_new_tokens)
        if isinstance(found, str):
            unanswered.append(found)
        else:
            compared.append(found)
        progress(done)
    faults = [*departures, *_unanswered(unanswered, len(asked)), *_lengths(compared)]
    left_out = len(samples) - len(asked)
    return _judged(compared, faults, against=against, limits=limits, left_out=left_out)


def not_measured(against: str, limits: Limits, why: str) -> ServedRung:
    """A rung that nothing was asked for; it does not pass."""
    return _judged([], [why], against=against, limits=limits, left_out=0)


def _compare(
    engine: LlamaCppEngine,
    sample: Sample,
    answer: ServedAnswer | NoAnswer,
    max_new_tokens: int,
) -> _Compared | str:
    """Or why it cannot be compared."""
    if isinstance(answer, NoAnswer):
        return f"{sample.id}: {answer.why}"
    task = task_of(sample.task)
    try:
        here = engine.complete(sample.prompt, max_new_tokens=max_new_tokens)
        rows = engine.follow(sample.prompt, [choice.token.id for choice in answer.choices])
        divergence = top_divergence(answer.choices, rows)
    except PromptTooLongError as exc:
        return f"{sample.id} in process: {exc.message}"
    return _Compared(
        sample=sample.id,
        same_answer=here.text == answer.text,
        metric=task.measure(answer.text, sample.reference)[task.primary_metric],
        prompt_tokens=(answer.prompt_tokens, here.prompt_tokens),
        divergence=divergence,
    )


def _unanswered(faults: Sequence[str], asked: int) -> list[str]:
    if not faults:
        return []
    return [f"{len(faults)} of {asked} probes were not answered, {faults[0]}"]


def _lengths(compared: Sequence[_Compared]) -> list[str]:
    """Prompts that came to another number of tokens: images resized otherwise, or another text."""
    other = [each for each in compared if each.prompt_tokens[0] != each.prompt_tokens[1]]
    if not other:
        return []
    served, here = other[0].prompt_tokens
    return [
        f"{len(other)} of {len(compared)} prompts are prepared otherwise: {other[0].sample} takes"
        f" {served} tokens served, {here} in process"
    ]


def _judged(
    compared: Sequence[_Compared],
    faults: Sequence[str],
    *,
    against: str,
    limits: Limits,
    left_out: int,
) -> ServedRung:
    numbers = _numbers(compared)
    reasons = (*faults, *_shortfalls(compared, numbers, limits))
    return ServedRung(
        rung="served",
        against=against,
        **numbers,
        limit=limits.kld,
        min_exact_match=limits.exact_match,
        passed=not reasons,
        why="; ".join(reasons) or None,
        top_k=MAX_TOP_LOGPROBS,
        answers=len(compared),
        tokens=sum(len(each.divergence.klds) for each in compared),
        left_out=left_out,
    )


def _numbers(compared: Sequence[_Compared]) -> dict[str, Any]:
    klds = _joined([each.divergence.klds for each in compared])
    same_first = _joined([each.divergence.same_first for each in compared])
    differences = _joined([each.divergence.differences for each in compared])
    return {
        "kld_mean": _of(np.mean, klds),
        "kld_p99": _of(lambda values: np.percentile(values, 99), klds),
        "top1_agreement": _of(np.mean, same_first),
        "exact_match": _of(np.mean, np.array([each.same_answer for each in compared])),
        "metric": _of(np.mean, np.array([each.metric for each in compared])),
        "logprob_max_abs_diff": _of(np.max, differences),
        "logprob_mean_abs_diff": _of(np.mean, differences),
    }


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0)


def _of(summary: Callable[[np.ndarray], Any], values: np.ndarray) -> float | None:
    return float(summary(values)) if values.size else None


def _shortfalls(
    compared: Sequence[_Compared], numbers: dict[str, Any], limits: Limits
) -> list[str]:
    kld, same = numbers["kld_mean"], numbers["exact_match"]
    if kld is None or same is None:
        return ["no token of an answer could be compared"]
    found = []
    if not kld <= limits.kld:  # true for NaN too
        found.append(f"KL divergence {kld:.3g} nats a token, limit {limits.kld:g}")
    if same < limits.exact_match:
        equal = sum(each.same_answer for each in compared)
        found.append(
            f"{equal} of {len(compared)} answers are those of the same files in process,"
            f" {limits.exact_match:.0%} are asked for"
        )
    return found
