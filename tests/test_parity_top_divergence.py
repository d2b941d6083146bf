"""What a service tells of its probabilities, held against whole distributions; no model at all."""

from __future__ import annotations

import numpy as np
import pytest

from vlmpipe.engines.base import log_softmax
from vlmpipe.engines.likely import LEAST_LOGPROB, Choice, choice_of
from vlmpipe.export.parity.top_divergence import top_divergence

V = 50


def rows(seed: int, tokens: int = 6) -> np.ndarray:
    """Logits [tokens, V]."""
    return np.random.default_rng(seed).normal(0.0, 3.0, (tokens, V)).astype(np.float32)


def served(logits: np.ndarray, top: int) -> list[Choice]:
    """What a service with these logits tells of its greedy answer."""
    return [choice_of(row, int(row.argmax()), top, lambda id_: bytes([id_])) for row in logits]


def whole_kld(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    p, q = log_softmax(ours), log_softmax(theirs)
    kld: np.ndarray = (np.exp(p) * (p - q)).sum(axis=-1)
    return kld


@pytest.mark.parametrize("top", [0, 5, V])
def test_the_same_model_diverges_by_nothing(top: int) -> None:
    logits = rows(1)
    found = top_divergence(served(logits, top), log_softmax(logits))
    assert found.klds == pytest.approx(np.zeros(6), abs=1e-12)
    assert found.same_first.all()
    assert found.differences.max() < 1e-12
    assert found.differences.size >= 6


def test_with_every_token_told_the_divergence_is_the_whole_one() -> None:
    ours, theirs = rows(1), rows(2)
    found = top_divergence(served(theirs, V), log_softmax(ours))
    assert found.klds == pytest.approx(whole_kld(ours, theirs), rel=1e-9)
    same = [p.argmax() == q.argmax() for p, q in zip(ours, theirs, strict=True)]
    assert found.same_first.tolist() == same


def test_with_few_tokens_told_it_is_a_part_of_the_whole_one() -> None:
    ours, theirs = rows(1), rows(1) + 0.5 * rows(2)
    found = top_divergence(served(theirs, 5), log_softmax(ours))
    whole = whole_kld(ours, theirs)
    assert (found.klds <= whole + 1e-12).all()
    assert (found.klds > 0.1 * whole).all()


def test_a_difference_of_one_token_is_seen_in_its_size() -> None:
    logits = rows(1, tokens=1)
    other = logits.copy()
    best = int(logits.argmax())
    other[0, best] += 0.25
    found = top_divergence(served(other, 3), log_softmax(logits))
    moved = abs(log_softmax(other)[0, best] - log_softmax(logits)[0, best])
    rest = abs(log_softmax(other)[0, 0] - log_softmax(logits)[0, 0])
    assert found.differences.max() == pytest.approx(max(moved, rest), abs=1e-6)


def test_a_likely_token_that_was_not_told_counts_by_what_it_must_differ() -> None:
    logits = rows(1, tokens=1)
    order = np.argsort(-logits[0])
    other = logits.copy()
    other[0, order[2]] = logits[0].min()
    found = top_divergence(served(other, 3), log_softmax(logits))
    third_here = log_softmax(logits)[0, order[2]]
    last_told = log_softmax(other)[0, order[3]]
    assert found.differences.tolist()[-1] == pytest.approx(third_here - last_told)


def test_other_lengths_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="shorter"):
        top_divergence(served(rows(1), 3), log_softmax(rows(1))[:-1])


def test_equal_tokens_are_told_in_the_order_of_their_ids() -> None:
    row = np.zeros(V, dtype=np.float32)
    choice = choice_of(row, 7, 4, lambda id_: b"x")
    assert [token.id for token in choice.top] == [0, 1, 2, 3]
    assert choice.token.logprob == pytest.approx(-np.log(V))


def test_more_tokens_than_there_are_and_impossible_ones_are_told_as_numbers() -> None:
    row = np.full(3, -np.inf, dtype=np.float32)
    row[1] = 0.0
    choice = choice_of(row, 1, 20, lambda id_: b"x")
    assert [token.id for token in choice.top] == [1, 0, 2]
    assert [token.logprob for token in choice.top] == [0.0, LEAST_LOGPROB, LEAST_LOGPROB]
