"""The tokens that a model thought of at one place of its answer, with their probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vlmpipe.engines.base import log_softmax

LEAST_LOGPROB = -9999.0
"""Stands for a probability of zero, as in OpenAI's answers: JSON has no infinity."""


@dataclass(frozen=True)
class LikelyToken:
    """A token at its place."""

    id: int
    data: bytes
    """What it stands for; a control token's name."""

    logprob: float
    """Natural logarithm of its probability over the whole vocabulary."""


@dataclass(frozen=True)
class Choice:
    """The token that was taken, and the likeliest ones, best first."""

    token: LikelyToken
    top: tuple[LikelyToken, ...]


@dataclass(frozen=True)
class Piece:
    """What one token added to an answer."""

    text: str
    """Empty while a character's bytes are not whole."""

    choice: Choice | None = None
    """Where probabilities were asked for; None for bytes left over at the end."""


def choice_of(logits: np.ndarray, token: int, top: int, data_of: Callable[[int], bytes]) -> Choice:
    """The `top` likeliest tokens of a row of logits [vocabulary], and the one that was taken."""
    logprobs = log_softmax(logits)

    def likely(id_: int) -> LikelyToken:
        return LikelyToken(id_, data_of(id_), max(float(logprobs[id_]), LEAST_LOGPROB))

    return Choice(likely(token), tuple(likely(id_) for id_ in _best(logprobs, top)))


def _best(logprobs: np.ndarray, count: int) -> list[int]:
    """Ids of the largest values, the lower id first among equals."""
    count = min(count, len(logprobs))
    if count == 0:
        return []
    least = np.partition(logprobs, -count)[-count]
    ids = np.flatnonzero(logprobs >= least)
    best: list[int] = ids[np.lexsort((ids, -logprobs[ids]))][:count].tolist()
    return best
