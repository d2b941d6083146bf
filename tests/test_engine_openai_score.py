"""Likelihoods out of a prompt's log-probabilities, on replies in vLLM's form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

import faulty_server as faulty
from export_models import contract_of
from faulty_server import faulty_server
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.base import Score
from vlmpipe.engines.openai import OpenAIEngine
from vlmpipe.errors import StageError, ToolError

PROMPT = [1, 2, 3]


def place(token: int, logprob: float, rank: int, text: str) -> dict[str, Any]:
    return {str(token): {"logprob": logprob, "rank": rank, "decoded_token": text}}


ANSWER = [
    place(7, -0.5, 1, "<td>"),
    place(8, -1.5, 3, "한"),
    place(9, -1.0, 1, "<|im_end|>"),
    place(198, -9.0, 80, "\n"),
]
"""A template's newline follows the end of turn."""


@contextmanager
def vllm_saying(ids: Sequence[int], logprobs: Sequence[Any]) -> Iterator[OpenAIEngine]:
    """An engine on a server that gives a forced answer these ids and log-probabilities."""

    def reply(handler: faulty.Handler) -> None:
        forced = handler.server.asked[-1].get("add_generation_prompt") is False
        content = {"prompt_token_ids": ids, "prompt_logprobs": logprobs}
        faulty.send_json(handler, content if forced else {"prompt_token_ids": PROMPT})

    with faulty_server() as server:
        server.models = {"data": [{"id": "tiny", "owned_by": "vllm"}]}
        server.deeds.default_factory = lambda: [reply] * 9
        engine = OpenAIEngine(server.url, None, contract_of("qwen3"), backoff_s=0.001)
        yield engine
        engine.close()


def score(engine: OpenAIEngine) -> Score:
    return engine.score([Message("user", ("?",))], "<td>한")


def test_a_score_is_that_of_the_answer_and_its_end_of_turn() -> None:
    prompt = [None, place(2, -5.0, 9, "b"), place(3, -5.0, 9, "c")]
    with vllm_saying([*PROMPT, 7, 8, 9, 198], [*prompt, *ANSWER]) as engine:
        assert engine.version == "vllm of unknown version"
        assert score(engine) == Score(loss=1.0, tokens=3, accuracy=pytest.approx(2 / 3))


def test_an_answer_that_is_cut_into_other_tokens_is_not_scored() -> None:
    prompt = [None, place(2, -5.0, 9, "b"), place(271, -5.0, 9, "\n\n")]
    with (
        vllm_saying([1, 2, 271, 8, 9, 198], [*prompt, *ANSWER[1:]]) as engine,
        pytest.raises(StageError, match="joins the beginning of the answer '<td>한'"),
    ):
        score(engine)


@pytest.mark.parametrize(
    "logprobs",
    [None, [], [None] * 7, [*[None] * 3, *ANSWER[:2]], [*[None] * 3, {"7": {}}, *ANSWER[1:]]],
    ids=["none", "empty", "nulls", "no end of turn", "no logprob"],
)
def test_log_probabilities_that_make_no_sense_are_refused(logprobs: Any) -> None:
    with (
        vllm_saying([*PROMPT, 7, 8, 9, 198], logprobs) as engine,
        pytest.raises(ToolError, match="nonsense"),
    ):
        score(engine)
