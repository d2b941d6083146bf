"""Many conversations asked of any engine, in order, lazily, past those that fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import pytest

from evaluation_fakes import ColourEngine
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.answering import answers
from vlmpipe.engines.base import Completion, Failure, Forced
from vlmpipe.errors import ToolError

LIMIT = 8


def asking(words: Iterable[str], taken: list[str] | None = None) -> Iterator[list[Message]]:
    """A conversation for each word; `taken` grows with those that were asked for."""
    for word in words:
        if taken is not None:
            taken.append(word)
        yield [Message("user", (word,))]


class Echo(ColourEngine):
    """Says what it was told; refuses `bad`, and has a bug at `bug`."""

    def complete(self, messages: Sequence[Message], *, max_new_tokens: int) -> Completion:
        word = messages[-1].text
        if word == "bad":
            raise ToolError("no answer", "try again", problems=["the line is dead"])
        if word == "bug":
            raise KeyError(word)
        return Completion(word, "stop", 1, 1, 0.1, 0.1)


class Pairs(Echo):
    """Takes two conversations at a time."""

    def complete_all(
        self, conversations: Iterable[Sequence[Message]], *, max_new_tokens: int
    ) -> Iterator[Completion | Failure]:
        rest = iter(conversations)
        while batch := list(islice(rest, 2)):
            for messages in batch:
                yield self.complete(messages, max_new_tokens=max_new_tokens)


def text_of(answer: Completion | Failure) -> str:
    return answer.text if isinstance(answer, Completion) else f"failed: {answer.message}"


def test_a_failure_takes_its_place_and_the_others_go_on() -> None:
    found = answers(Echo("echo", {}), asking(["a", "bad", "b"]), max_new_tokens=LIMIT)
    assert [text_of(each) for each in found] == ["a", "failed: no answer; the line is dead", "b"]


def test_a_bug_is_not_taken_for_a_failure() -> None:
    with pytest.raises(KeyError):
        list(answers(Echo("echo", {}), asking(["a", "bug"]), max_new_tokens=LIMIT))


def test_one_by_one_no_conversation_is_taken_before_its_turn() -> None:
    taken: list[str] = []
    found = answers(Echo("echo", {}), asking("abcdef", taken), max_new_tokens=LIMIT)
    assert [text_of(next(found)), text_of(next(found))] == ["a", "b"]
    assert taken == ["a", "b"]


def test_an_engine_that_batches_is_asked_for_all_at_once() -> None:
    taken: list[str] = []
    found = answers(Pairs("pairs", {}), asking("abcdef", taken), max_new_tokens=LIMIT)
    assert text_of(next(found)) == "a"
    assert taken == ["a", "b"]
    assert [text_of(each) for each in found] == list("bcdef")


def test_accuracy_is_the_share_of_tokens_that_were_the_likeliest() -> None:
    logits = np.array([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
    score = Forced(np.array([0, 1, 2, 2]), logits.astype(np.float32)).score()
    assert score.accuracy == 0.75
    assert score.tokens == 4
    chances = [
        np.exp(row[t]) / np.exp(row).sum() for row, t in zip(logits, (0, 1, 2, 2), strict=True)
    ]
    assert score.loss == pytest.approx(-np.mean(np.log(chances)))
