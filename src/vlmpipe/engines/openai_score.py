"""Teacher forcing over vLLM's chat interface, by the log-probabilities of a prompt.

The answer is sent as an assistant's turn that nothing is to be added to, and the log-probabilities
of that whole prompt are asked for. Where the answer begins is what the prompt without it tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlmpipe.engines.base import Score
from vlmpipe.engines.openai_messages import plain
from vlmpipe.engines.openai_server import OpenAIServer
from vlmpipe.engines.replies import understood
from vlmpipe.errors import StageError

ROUTE = "/v1/chat/completions"


def score_by_prompt(
    server: OpenAIServer,
    model: str,
    prompt: Sequence[Mapping[str, Any]],
    answer: str,
    *,
    stop_tokens: Sequence[str],
) -> Score:
    """How likely `answer` and its end of turn are after `prompt`, its turns in OpenAI's form.

    Raises:
        StageError: where the server's tokenizer joins the answer's beginning with the prompt.
        VlmpipeError: when the server fails.
    """
    order = {"model": model, "max_tokens": 1, "temperature": 0, "return_token_ids": True}
    begun = server.post(ROUTE, {**order, "messages": list(prompt)})
    turns = [*prompt, {"role": "assistant", "content": plain(answer)}]
    forced = {"messages": turns, "add_generation_prompt": False, "prompt_logprobs": 0}
    whole = server.post(ROUTE, {**order, **forced})
    with understood(ROUTE):
        start = len(begun["prompt_token_ids"])
        if whole["prompt_token_ids"][:start] != begun["prompt_token_ids"]:
            raise StageError(
                f"{server.root} joins the beginning of the answer {answer[:20]!r} with the prompt,"
                " so its tokens are not those of training"
            )
        chances = [_only(place) for place in whole["prompt_logprobs"][start:]]
        end = max(i for i, each in enumerate(chances) if each["decoded_token"] in stop_tokens)
        return _score(chances[: end + 1])


def _only(place: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """With no others asked for, a place has its own token alone."""
    (chance,) = place.values()
    return chance


def _score(chances: Sequence[Mapping[str, Any]]) -> Score:
    losses = [-float(each["logprob"]) for each in chances]
    likeliest = [int(each["rank"]) == 1 for each in chances]
    return Score(
        loss=sum(losses) / len(losses),
        tokens=len(losses),
        accuracy=sum(likeliest) / len(likeliest),
    )
