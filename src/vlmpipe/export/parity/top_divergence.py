"""How far a served answer's probabilities lie from those of the same model in this process.

A service tells the likeliest tokens and not the whole vocabulary; all others are one outcome, the
rest. Merging outcomes never makes a KL divergence larger: what is found here is at most what whole
distributions would show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vlmpipe.engines.likely import Choice

LEAST_MASS = 1e-12
"""Stands for a rest that rounding left at or below zero."""


@dataclass(frozen=True)
class TopDivergence:
    """Of one answer: T tokens, N log-probabilities compared."""

    klds: np.ndarray
    """[T]: KL(in process || served) in nats, over the served likeliest tokens and the rest."""

    same_first: np.ndarray
    """[T]: whether the likeliest token in process is the served one."""

    differences: np.ndarray
    """[N]: between log-probabilities of the same token."""


def top_divergence(choices: Sequence[Choice], rows: Iterable[np.ndarray]) -> TopDivergence:
    """Served choices against log-probabilities [vocabulary], a row for each token of the answer."""
    found = [_at(choice, row) for choice, row in zip(choices, rows, strict=True)]
    return TopDivergence(
        klds=np.array([kld for kld, _, _ in found]),
        same_first=np.array([same for _, same, _ in found], dtype=bool),
        differences=np.concatenate([each for _, _, each in found]) if found else np.empty(0),
    )


def _at(choice: Choice, row: np.ndarray) -> tuple[float, bool, np.ndarray]:
    served = {token.id: token.logprob for token in (choice.token, *choice.top)}
    ids = np.array(list(served))
    theirs, ours = np.array(list(served.values())), row[ids]
    kld = max(float(np.sum(_with_rest(ours) * _log_ratio(ours, theirs))), 0.0)
    differences = np.concatenate([np.abs(ours - theirs), _unlisted(choice, row, ids)])
    return kld, int(np.argmax(row)) == choice.token.id, differences


def _with_rest(logprobs: np.ndarray) -> np.ndarray:
    listed = np.exp(logprobs)
    return np.append(listed, max(1.0 - listed.sum(), LEAST_MASS))


def _log_ratio(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    rest = np.log(_with_rest(ours)[-1]) - np.log(_with_rest(theirs)[-1])
    return np.append(ours - theirs, rest)


def _unlisted(choice: Choice, row: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """The least difference of tokens that are among the likeliest here and were not served.

    Theirs is at most the last that was served.
    """
    if not choice.top:
        return np.empty(0)
    best = np.argpartition(-row, len(choice.top) - 1)[: len(choice.top)]
    missing: np.ndarray = row[np.setdiff1d(best, listed)]
    return np.maximum(missing - choice.top[-1].logprob, 0.0)
