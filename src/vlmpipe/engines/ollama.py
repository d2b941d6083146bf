"""A model behind an Ollama server, asked as the other engines are."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.base import Completion, EngineType, Score, Served
from vlmpipe.engines.ollama_api import LOGPROBS_SINCE, OllamaApi, version_of
from vlmpipe.engines.ollama_messages import chat_messages
from vlmpipe.engines.replies import understood
from vlmpipe.errors import StageError

NANOSECONDS = 1e9


@dataclass(frozen=True)
class TokenChance:
    """One token of an answer as the server saw it."""

    token: str
    logprob: float
    """Of the token that was given, nats."""

    top: tuple[tuple[str, float], ...]
    """The likeliest tokens and theirs, as many as were asked for."""


class OllamaEngine:
    """Greedy answers of a registered model; it cannot be teacher-forced.

    `placeholders`: the server was seen to put images where the text says `[img]`.
    """

    engine_type: EngineType = "ollama"
    can_score = False

    def __init__(
        self,
        api: OllamaApi,
        model: str,
        contract: PreprocessContract,
        *,
        placeholders: bool = False,
    ) -> None:
        self.name = f"ollama:{model}"
        self.model = model
        self.contract = contract
        self.placeholders = placeholders
        self._api = api
        said = api.version()
        self.version = f"ollama {said or 'of unknown version'}"
        self._logprobs = version_of(said or "") >= LOGPROBS_SINCE

    @property
    def served(self) -> Served:
        """What the server says of the model now.

        Raises:
            ToolError: when it does not answer.
        """
        return self._api.served(self.model)

    def complete(self, messages: Sequence[Message], *, max_new_tokens: int) -> Completion:
        """Greedy answer to a conversation that ends with a user's turn.

        Raises:
            InexpressibleError: when Ollama would make another prompt of it.
            ToolError: when the server fails.
        """
        return self._complete(messages, max_new_tokens, 0)[0]

    def complete_with_chances(
        self, messages: Sequence[Message], *, max_new_tokens: int, top: int
    ) -> tuple[Completion, list[TokenChance]]:
        """The same, and the `top` likeliest tokens at each step of it; none of them where the
        server is too old to say.
        """
        return self._complete(messages, max_new_tokens, top)

    def score(self, messages: Sequence[Message], answer: str) -> Score:
        """Not to be had.

        Raises:
            StageError: always: Ollama's API gives no likelihood of a given text.
        """
        raise StageError("Ollama's API cannot say how likely a given answer is")

    def close(self) -> None:
        """Nothing to free: the server unloads models by itself."""

    def _complete(
        self, messages: Sequence[Message], max_new_tokens: int, top: int
    ) -> tuple[Completion, list[TokenChance]]:
        order: dict[str, Any] = {
            "model": self.model,
            "messages": chat_messages(messages, self.contract, placeholders=self.placeholders),
            "options": {"num_predict": max_new_tokens, **GREEDY},
        }
        if top and self._logprobs:
            order |= {"logprobs": True, "top_logprobs": top}
        begun = time.perf_counter()
        answer = self._api.chat(order)
        seconds = time.perf_counter() - begun
        with understood("/api/chat"):
            return _completion(answer, seconds), _chances(answer)


GREEDY = {"temperature": 0, "seed": 0, "repeat_penalty": 1.0}
"""Ollama's default penalty of repetitions changes even greedy answers."""


def _completion(answer: dict[str, Any], seconds: float) -> Completion:
    return Completion(
        text=str(answer.get("message", {}).get("content", "")),
        finish_reason="length" if answer.get("done_reason") == "length" else "stop",
        prompt_tokens=int(answer.get("prompt_eval_count", 0)),
        completion_tokens=int(answer.get("eval_count", 0)),
        seconds=seconds,
        first_token_seconds=min(answer.get("prompt_eval_duration", 0) / NANOSECONDS, seconds),
    )


def _chances(answer: dict[str, Any]) -> list[TokenChance]:
    return [
        TokenChance(
            token=str(step["token"]),
            logprob=_finite(step["logprob"]),
            top=tuple(
                (str(other["token"]), _finite(other["logprob"]))
                for other in step.get("top_logprobs") or ()
            ),
        )
        for step in answer.get("logprobs") or ()
    ]


def _finite(logprob: Any) -> float:
    """One that is not a number would make a divergence of all of them that is none either."""
    value = float(logprob)
    if not math.isfinite(value):
        raise ValueError(f"a logprob that is {value}")
    return value
