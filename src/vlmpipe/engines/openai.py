"""A model behind any server that speaks OpenAI's chat interface."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.engines.answering import answer
from vlmpipe.engines.base import Completion, EngineType, Failure, Score
from vlmpipe.engines.in_flight import in_order
from vlmpipe.engines.openai_check import check_server
from vlmpipe.engines.openai_messages import Resize, chat_messages
from vlmpipe.engines.openai_score import score_by_prompt
from vlmpipe.engines.openai_server import Kind, OpenAIServer
from vlmpipe.engines.openai_stream import read_completion
from vlmpipe.engines.patience import BACKOFF_S
from vlmpipe.errors import StageError

GREEDY = {"temperature": 0, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "seed": 0}
OWN_FIELDS: Mapping[Kind, Mapping[str, Any]] = {
    # A model's generation_config.json may penalise repetitions (Qwen2.5-VL's does), which changes
    # greedy answers too.
    "vllm": {"repetition_penalty": 1.0},
    "sglang": {"repetition_penalty": 1.0},
    # A prompt half out of the cache is computed in other batches; thoughts are part of the answer.
    "llama-server": {"repeat_penalty": 1.0, "cache_prompt": False, "reasoning_format": "none"},
}
"""What else it takes until a server's answer is the model's own."""


class OpenAIEngine:
    """Greedy answers of a model on llama-server, vLLM, SGLang, this project's gateway or another;
    it can be teacher-forced on vLLM alone.
    """

    engine_type: EngineType = "openai"

    def __init__(
        self,
        base_url: str,
        model: str | None,
        contract: PreprocessContract,
        *,
        name: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        retries: int = 4,
        backoff_s: float = BACKOFF_S,
        concurrency: int = 4,
        resize: Resize = "contract",
    ) -> None:
        """Ask the server what it is, and hold it against the contract.

        `base_url` as the openai client takes it, `http://HOST:PORT/v1`; `model` may be None where
        the server has but one; `name` is `openai:MODEL` where none is given; `timeout_s` is for one
        attempt at a request, `retries` for those after the first; `concurrency` requests are in
        flight at once in `complete_all`. `resize="runtime"` hands images over as they are.

        Raises:
            ConfigError: for an address or a key that no request could be made with; when the server
                has no such model, or several and none is named, or refuses the API key.
            ArtifactError: when it makes other prompts than the contract states.
            ToolError: when it cannot be reached, or speaks something else.
        """
        self.contract = contract
        self.concurrency = concurrency
        self._resize = resize
        self._server = OpenAIServer(
            base_url, api_key=api_key, timeout_s=timeout_s, retries=retries, backoff_s=backoff_s
        )
        try:
            self.served = self._server.served(model)
            with self._server.discretion.kept():
                self.held_by = check_server(self._server, self.served, contract)
        except BaseException:
            self.close()
            raise
        self.name = name or f"openai:{_short(self.served.name)}"
        self.version = self.served.version

    @property
    def can_score(self) -> bool:
        """Only vLLM tells the likelihood of a text that it is given in a chat."""
        return self.served.kind == "vllm"

    def complete(self, messages: Sequence[Message], *, max_new_tokens: int) -> Completion:
        """Greedy answer to a conversation that ends with a user's turn.

        Times are of the attempt that succeeded, as this side of the connection sees them.

        Raises:
            VlmpipeError: when the server fails, after its retries.
        """
        order = {
            "model": self.served.name,
            "messages": chat_messages(messages, self.contract, self._resize),
            "max_tokens": max_new_tokens,
            **GREEDY,
            "extra_body": dict(OWN_FIELDS.get(self.served.kind, {})),
        }

        def attempt() -> Completion:
            begun = time.perf_counter()
            with self._server.stream(order) as chunks:
                return read_completion(chunks, max_new_tokens=max_new_tokens, begun=begun)

        return self._server.persist(attempt)

    def complete_all(
        self, conversations: Iterable[Sequence[Message]], *, max_new_tokens: int
    ) -> Iterator[Completion | Failure]:
        """The same for many, `concurrency` at a time; one that fails becomes a Failure."""
        return in_order(
            lambda messages: answer(self, messages, max_new_tokens=max_new_tokens),
            conversations,
            self.concurrency,
        )

    def score(self, messages: Sequence[Message], answer: str) -> Score:
        """How likely `answer` and its end of turn are, teacher-forced.

        Raises:
            StageError: on any server but vLLM, or where its tokenizer joins the answer's beginning
                with what stands before it.
            VlmpipeError: when the server fails.
        """
        if not self.can_score:
            raise StageError(
                f"{self.served.kind} cannot say over a chat how likely a given answer is",
                "score on vLLM, or in this process: hf, llama_cpp",
            )
        turns = self.contract.conversation(messages)
        asked = chat_messages(turns, self.contract, self._resize)
        ends = self.contract.stop_tokens
        with self._server.discretion.kept():
            return score_by_prompt(self._server, self.served.name, asked, answer, stop_tokens=ends)

    def close(self) -> None:
        """End requests under way and free the connections."""
        self._server.close()


def _short(model: str) -> str:
    """llama-server names a model by its file."""
    return PurePosixPath(model).name.removesuffix(".gguf")
