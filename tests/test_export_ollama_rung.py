"""A real GGUF pair behind the local Ollama server, and behind a real one where there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ollama_gguf import header_only
from ollama_runner import ENLARGED, real_runner
from ollama_server import OllamaServer, Reply, running
from serving_models import Conversions, Converted, small_contract
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.engines.llama_cpp import LlamaCppEngine, PromptTooLongError
from vlmpipe.engines.ollama import OllamaEngine
from vlmpipe.engines.ollama_api import OllamaApi
from vlmpipe.errors import StageError
from vlmpipe.export.ollama.modelfile import ollama_settings
from vlmpipe.export.ollama.registration import Offer, OllamaResult, Question, offer_model
from vlmpipe.export.ollama.rung import ollama_rung, token_finder

NAME = "vlmpipe-test"
TOKENS = 12


def picture(height: int, width: int) -> Image.Image:
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    image.paste((200, 30, 30), (width // 5, height // 5, width // 2, height // 2))
    return image


def samples(*, after: bool = False) -> list[Sample]:
    sizes = [(70, 238), (121, 149), (97, 150)]
    prompts: list[tuple[Any, ...]] = [(picture(*size), "Which digits?") for size in sizes]
    if after:
        prompts.append(("Which digits?", picture(97, 150)))
    return [
        Sample(
            id=f"s{index}",
            messages=(Message("user", parts), Message("assistant", ("<table>123</table>",))),
            task="table",
        )
        for index, parts in enumerate(prompts)
    ]


def files_of(converted: Converted) -> list[Path]:
    return [converted.gguf, *([converted.mmproj] if converted.mmproj else [])]


def offer(url: str, converted: Converted, questions: Sequence[Question]) -> OllamaResult:
    settings = ollama_settings(converted.contract)
    modelfile = Path("out/Modelfile")
    return offer_model(
        Offer(url, NAME, files_of(converted), settings, converted.contract, modelfile), questions
    )


@pytest.fixture(scope="module")
def converted(conversions: Conversions) -> Converted:
    return conversions.of("random-qwen2_5_vl")


@pytest.fixture(scope="module")
def own(converted: Converted) -> Iterator[LlamaCppEngine]:
    """The same files in process."""
    engine = LlamaCppEngine(*files_of(converted), converted.contract, name="llama_cpp:f16")
    with closing(engine):
        yield engine


def answers_of(engine: LlamaCppEngine, asked: Sequence[Sample]) -> list[str]:
    return [engine.complete(each.prompt, max_new_tokens=TOKENS).text for each in asked]


@pytest.mark.slow
def test_registered_model_answers_as_the_same_file_does_in_process(
    converted: Converted, own: LlamaCppEngine, tmp_path: Path
) -> None:
    questions = [
        Question(messages, own.complete(messages, max_new_tokens=64).text)
        for messages in (samples()[0].prompt, [Message("user", ("1+1?",))])
    ]
    with (
        real_runner(tmp_path, converted.contract) as runner,
        running(OllamaServer(answer=runner)) as server,
    ):
        result = offer(server.url, converted, questions)
    assert result.state == "registered", result.detail
    assert result.likeness == (1.0, 1.0)
    assert result.answer == questions[0].expected


@pytest.mark.slow
def test_rung_finds_no_difference_where_there_is_none(
    converted: Converted, own: LlamaCppEngine, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    asked = samples(after=True)
    find = token_finder(AutoTokenizer.from_pretrained(converted.model))
    with (
        real_runner(tmp_path, converted.contract) as runner,
        running(OllamaServer(answer=runner)) as server,
        OllamaApi(server.url) as api,
    ):
        offer(server.url, converted, [])
        engine = OllamaEngine(api, NAME, converted.contract)
        record = ollama_rung(
            engine,
            asked,
            answers_of(own, asked),
            against=own.name,
            max_new_tokens=TOKENS,
            follower=(own, find),
        )
        placed = OllamaEngine(api, NAME, converted.contract, placeholders=True)
        whole = ollama_rung(
            placed, asked, answers_of(own, asked), against=own.name, max_new_tokens=TOKENS
        )
    assert (record["rung"], record["against"], record["passed"]) == ("ollama", own.name, True)
    assert record["exact_match"] == 1.0
    assert record["kld_mean"] == pytest.approx(0, abs=1e-6)
    assert record["top1_agreement"] == 1.0
    assert 0 <= record["metric"] <= 1
    assert [each.split(":")[0] for each in record["skipped"]] == ["s3"]
    assert (whole["exact_match"], whole["skipped"], whole["kld_mean"]) == (1.0, [], None)


@pytest.mark.slow
def test_rung_fails_where_the_server_enlarges_images(
    converted: Converted, own: LlamaCppEngine, tmp_path: Path
) -> None:
    asked = samples()
    with (
        real_runner(tmp_path, converted.contract, min_image_tokens=ENLARGED) as runner,
        running(OllamaServer(answer=runner)) as server,
        OllamaApi(server.url) as api,
    ):
        result = offer(server.url, converted, [])
        engine = OllamaEngine(api, NAME, converted.contract)
        record = ollama_rung(
            engine, asked, answers_of(own, asked), against=own.name, max_new_tokens=TOKENS
        )
    assert "enlarges images of fewer than 1024 tokens" in " ".join(result.notes)
    assert record["passed"] is False
    assert record["why"] == "0 of 3 answers are the file's own, wanted 90%"


@pytest.mark.slow
def test_projector_that_a_server_ignores_is_found_by_the_image_question(
    converted: Converted, own: LlamaCppEngine, tmp_path: Path
) -> None:
    messages = samples()[0].prompt
    question = Question(messages, own.complete(messages, max_new_tokens=64).text)
    with (
        real_runner(tmp_path, converted.contract) as runner,
        running(OllamaServer(answer=runner, version="0.11.0")) as server,
    ):
        result = offer(server.url, converted, [question])
    assert result.state == "failed"
    assert "where the same file answers" in result.detail
    assert server.models == {}


def test_server_before_0_12_11_is_not_asked_for_probabilities() -> None:
    with running(OllamaServer(version="0.12.10")) as server, OllamaApi(server.url) as api:
        assert not OllamaEngine(api, NAME, None)._logprobs  # type: ignore[arg-type]
    with running(OllamaServer(version="0.12.11")) as server, OllamaApi(server.url) as api:
        assert OllamaEngine(api, NAME, None)._logprobs  # type: ignore[arg-type]


def test_server_that_fails_on_the_way_fails_the_rung() -> None:
    contract = small_contract("qwen2_5_vl")
    with running(OllamaServer()) as server, OllamaApi(server.url) as api:
        engine = OllamaEngine(api, NAME, contract)
        record = ollama_rung(engine, samples(), ["1", "2", "3"], against="f16", max_new_tokens=4)
    assert (record["passed"], record["exact_match"], record["metric"]) == (False, None, None)
    assert "after 0 answers, at s0: /api/chat answered 404: model" in record["why"]


class Replying(OllamaServer):
    """A server that answers every question with the same JSON."""

    def __init__(self, **told: Any) -> None:
        super().__init__()
        self.told = told

    def chat(self, order: dict[str, Any]) -> Reply:
        return 200, self.told


def steps(count: int = 1, **changes: Any) -> list[dict[str, Any]]:
    at = {"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]}
    return [{**at, **changes}] * count


class Strict:
    """An engine in process whose context holds four tokens of an answer."""

    name = "f16"

    def follow(self, messages: Sequence[Message], tokens: Sequence[int]) -> Iterator[np.ndarray]:
        if len(tokens) > 4:
            raise PromptTooLongError(len(tokens), 4)
        return iter([np.log(np.full(8, 1 / 8))] * len(tokens))


def record_of(server: OllamaServer) -> dict[str, Any]:
    contract = small_contract("qwen2_5_vl")
    with running(server), OllamaApi(server.url) as api:
        engine = OllamaEngine(api, NAME, contract)
        follower = (Strict(), lambda text: 5)
        return ollama_rung(
            *(engine, samples()[:1], ["a"]), against="f16", max_new_tokens=4, follower=follower
        )


MESSAGE = {"role": "assistant", "content": "a"}


def test_probabilities_as_they_should_be_are_taken() -> None:
    record = record_of(Replying(message=MESSAGE, logprobs=steps()))
    assert record["passed"], record["why"]
    assert record["kld_mean"] > 0


@pytest.mark.parametrize(
    "told",
    [
        {"logprobs": 7},
        {"logprobs": ["a"]},
        {"logprobs": steps(logprob="likely")},
        {"logprobs": steps(logprob=float("nan"))},
        {"logprobs": steps(top_logprobs=["a", "b"])},
        {"logprobs": steps(top_logprobs=[{"token": "a"}])},
        {"logprobs": steps(top_logprobs=[{"token": "a", "logprob": float("inf")}])},
        {"message": "a"},
        {"prompt_eval_duration": "long"},
        {"eval_count": None},
    ],
    ids=repr,
)
def test_nonsense_for_an_answer_fails_the_rung_and_nothing_else(told: dict[str, Any]) -> None:
    record = record_of(Replying(**{"message": MESSAGE, "logprobs": steps(), **told}))
    assert (record["passed"], record["kld_mean"]) == (False, None)
    assert "s0: /api/chat answered nonsense: " in record["why"]


def test_answer_that_the_file_in_process_cannot_follow_fails_the_rung_and_nothing_else() -> None:
    record = record_of(Replying(message=MESSAGE, logprobs=steps(9)))
    assert (record["passed"], record["kld_mean"]) == (False, None)
    assert "at s0: " in record["why"]
    assert "9 tokens" in record["why"]


@pytest.mark.parametrize("info", ["yes", {"image_count": 0}, {"rendered_template": None}])
def test_nonsense_for_a_prompt_fails_the_registration_and_nothing_else(
    info: object, offered: Offer
) -> None:
    with running(Replying(message=MESSAGE, _debug_info=info)) as server:
        result = offer_model(replace(offered, url=server.url), [])
    assert result.state == "failed"
    assert "/api/chat answered nonsense: " in result.detail


@pytest.fixture
def offered(tmp_path: Path) -> Offer:
    """Headers of files, for servers that look no further."""
    text, mmproj = tmp_path / "t.gguf", tmp_path / "t-mmproj.gguf"
    text.write_bytes(header_only("qwen2vl"))
    mmproj.write_bytes(header_only("clip", "mmproj"))
    contract = small_contract("qwen2_5_vl")
    return Offer("", NAME, [text, mmproj], ollama_settings(contract), contract, Path("Modelfile"))


def test_engine_says_that_it_cannot_be_forced() -> None:
    with running(OllamaServer()) as server, OllamaApi(server.url) as api:
        engine = OllamaEngine(api, NAME, None)  # type: ignore[arg-type]
        with pytest.raises(StageError, match="cannot say how likely"):
            engine.score([Message("user", ("1+1?",))], "2")


def test_token_that_is_part_of_a_character_has_no_id() -> None:
    def tokenizer(text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [5] if text == "a" else [1, 2]}

    find = token_finder(tokenizer)
    assert (find("a"), find("�")) == (5, None)


def real_server() -> str:
    host = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434")
    return host if "://" in host else f"http://{host}"


@pytest.mark.slow
def test_real_server_registers_and_answers_or_says_why_not(
    converted: Converted, own: LlamaCppEngine
) -> None:
    with OllamaApi(real_server()) as api:
        if api.version() is None:
            pytest.skip(f"no Ollama server answers at {real_server()} (OLLAMA_HOST)")
        text = [Message("user", ("1+1?",))]
        expected = own.complete(text, max_new_tokens=64).text
        result = offer(real_server(), converted, [Question(text, expected)])
        try:
            assert result.state in ("registered", "failed"), result.detail
            assert api.exists(NAME) is (result.state == "registered")
        finally:
            api.delete(NAME)
