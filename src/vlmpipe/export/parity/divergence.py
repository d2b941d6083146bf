"""How far one rung's distributions lie from another's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlmpipe.engines.base import Forced, log_softmax
from vlmpipe.export.parity.rung import Answers, Distributions

ROWS = 32
"""Tokens compared at once: in float64 a row of a real vocabulary takes a megabyte."""


class IncomparableError(Exception):
    """Two rungs do not even speak of the same tokens."""


@dataclass(frozen=True)
class Divergence:
    """KL(reference || other) over every token of every probe."""

    kld_mean: float
    """Nats a token."""

    kld_p99: float
    top1_agreement: float
    """Share of tokens whose most likely token is the same."""

    worst: int
    """Index of the probe with the largest mean."""


def divergence(reference: Distributions, other: Distributions) -> Divergence:
    """Compare two rungs over the same probe set.

    Raises:
        IncomparableError: when token ids or vocabularies differ.
    """
    per_sample = [
        token_divergences(reference.sample(index), other.sample(index))
        for index in range(reference.count)
    ]
    klds = np.concatenate([kld for kld, _ in per_sample])
    agree = np.concatenate([same for _, same in per_sample])
    return Divergence(
        kld_mean=float(klds.mean()),
        kld_p99=float(np.quantile(klds, 0.99)),
        top1_agreement=float(agree.mean()),
        worst=int(np.argmax([kld.mean() for kld, _ in per_sample])),
    )


def token_divergences(reference: Forced, other: Forced) -> tuple[np.ndarray, np.ndarray]:
    """KL divergence [T] in nats and top-1 agreement [T] of one sample.

    KL(p || q) = sum over the vocabulary of p (log p - log q), in float64.

    Raises:
        IncomparableError: when token ids or vocabularies differ.
    """
    _refuse_other_tokens(reference, other)
    klds = []
    for begin in range(0, len(reference.targets), ROWS):
        ours = log_softmax(np.asarray(reference.logits[begin : begin + ROWS]))
        theirs = log_softmax(np.asarray(other.logits[begin : begin + ROWS]))
        klds.append((np.exp(ours) * (ours - theirs)).sum(axis=-1))
    same = reference.logits.argmax(axis=-1) == other.logits.argmax(axis=-1)
    # Rounding can leave a sum of zeros below zero.
    return np.maximum(np.concatenate(klds), 0.0), np.asarray(same)


def exact_match(reference: Answers | None, other: Answers | None) -> float | None:
    """Share of probes answered word for word alike; None where one was not asked."""
    if reference is None or other is None:
        return None
    pairs = list(zip(reference.texts, other.texts, strict=True))
    return sum(ours == theirs for ours, theirs in pairs) / len(pairs)


def _refuse_other_tokens(reference: Forced, other: Forced) -> None:
    if reference.logits.shape[1] != other.logits.shape[1]:
        raise IncomparableError(
            f"vocabularies of {reference.logits.shape[1]} and {other.logits.shape[1]} tokens"
        )
    if not np.array_equal(reference.targets, other.targets):
        raise IncomparableError(
            f"the same answer is tokenised differently: {_first_difference(reference, other)}"
        )


def _first_difference(reference: Forced, other: Forced) -> str:
    pairs = zip(reference.targets, other.targets, strict=False)
    for place, (ours, theirs) in enumerate(pairs):
        if ours != theirs:
            return f"token {place} is {ours} above and {theirs} below"
    return f"{len(reference.targets)} tokens above and {len(other.targets)} below"
