"""What every engine does: answer a conversation, and say how likely an answer is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from vlmpipe.encoding.conversation import Message

EngineType = Literal["hf", "llama_cpp", "openai", "ollama"]


@dataclass(frozen=True)
class Completion:
    """A greedy answer."""

    text: str
    finish_reason: Literal["stop", "length"]
    """`length`: cut at the limit."""

    prompt_tokens: int
    completion_tokens: int
    """End of turn included where the model gave it."""

    seconds: float
    """Whole request."""

    first_token_seconds: float
    """Until the first token was known: prompt processing, image included."""

    @property
    def tokens_per_second(self) -> float:
        """Generation speed after the first token; 0 where there was no second one."""
        spent = self.seconds - self.first_token_seconds
        return (self.completion_tokens - 1) / spent if spent > 0 else 0.0


@dataclass(frozen=True)
class Failure:
    """Why a conversation was not answered."""

    message: str


@dataclass(frozen=True)
class Score:
    """How likely a given answer is, teacher-forced."""

    loss: float
    """Mean negative log-likelihood, nats a token, end of turn included."""

    tokens: int
    accuracy: float | None = None
    """Share of its tokens, end of turn included, that were the likeliest at their places; None
    where the engine cannot say.
    """


@dataclass(frozen=True)
class Forced:
    """Teacher forcing of a given answer: T tokens, V in the vocabulary."""

    targets: np.ndarray
    """[T] int64: the answer's token ids, end of turn included."""

    logits: np.ndarray
    """[T, V] float32: row t is what the model expects where token t stands."""

    def score(self) -> Score:
        """Mean negative log-likelihood of the targets, and how many were the likeliest."""
        chosen = [
            log_softmax(np.asarray(row[None]))[0, target]
            for row, target in zip(self.logits, self.targets, strict=True)
        ]
        likeliest = np.argmax(self.logits, axis=-1) == self.targets
        return Score(
            loss=float(-np.mean(chosen)),
            tokens=len(self.targets),
            accuracy=float(np.mean(likeliest)),
        )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities along the last axis, in float64."""
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=-1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=-1, keepdims=True))
    return rows


@dataclass(frozen=True)
class Served:
    """What a server says of the model that it runs, as far as it says it."""

    name: str
    digests: Mapping[str, str] = field(default_factory=dict)
    """sha256 of its parts, by what the server calls them."""

    quantization: str | None = None


class Engine(Protocol):
    """One way to run a model. Images are prepared by the contract in each of them."""

    @property
    def name(self) -> str:
        """As it stands in results: `hf:base`, `hf:tuned`, `llama_cpp:q8_0`."""

    @property
    def engine_type(self) -> EngineType:
        """What kind of engine it is."""

    @property
    def version(self) -> str:
        """The software that computes, with its version; a server's in its own words."""

    @property
    def can_score(self) -> bool:
        """Whether `score` is to be had."""

    def complete(self, messages: Sequence[Message], *, max_new_tokens: int) -> Completion:
        """Greedy answer to a conversation that ends with a user's turn."""

    def score(self, messages: Sequence[Message], answer: str) -> Score:
        """How likely `answer` is, teacher-forced, to the same conversation.

        Raises:
            StageError: always, where `can_score` is false.
        """

    def close(self) -> None:
        """Free what the engine holds."""


@runtime_checkable
class BatchingEngine(Engine, Protocol):
    """An engine that works on several conversations at once."""

    def complete_all(
        self, conversations: Iterable[Sequence[Message]], *, max_new_tokens: int
    ) -> Iterator[Completion | Failure]:
        """Greedy answers in the order of the conversations, which are taken a window at a time.

        One that cannot be answered becomes a Failure, and the others go on.
        """


class ForcingEngine(Engine, Protocol):
    """An engine in this process, which can be asked for whole distributions."""

    def forced(self, messages: Sequence[Message], answer: str) -> Forced:
        """Logits over the whole vocabulary at each token of `answer`, teacher-forced."""
