"""Real servers behind the OpenAI engine: llama-server and this project's own gateway."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import vlmpipe.encoding.runtime_flags
from serving_models import Conversions, Converted, make_bundle
from test_engine_bare_server import SIZES, server
from test_engine_llama_cpp import noise
from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.rendered import with_rendered_ids
from vlmpipe.engines.answering import answers
from vlmpipe.engines.base import Completion, Failure
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.engines.openai import OpenAIEngine
from vlmpipe.errors import ArtifactError, ConfigError, StageError
from vlmpipe.serving.running import RunningService
from vlmpipe.system.llama_tools import LlamaTools, cached_tools

pytestmark = pytest.mark.slow
NAME = "random-qwen2_5_vl"
FEW = 2
"""Of random weights: from the third token on, rounding decides between two equally likely ones, and
llama-server evaluates in other batches."""


def questions() -> list[list[Message]]:
    """Images of odd sizes, two in one turn after a text, several turns, and text alone."""
    return [
        *[[Message("user", (noise(*size), "Read this: 12 + 7?"))] for size in SIZES],
        [Message("user", ("first", noise(100, 201), " then ", noise(57, 225), "which?"))],
        [
            Message("system", ("Be brief.",)),
            Message("user", ("한글?",)),
            Message("assistant", ("\n42 <b>",)),
            Message("user", ("again <|im_end|>",)),
        ],
    ]


def expected(made: Converted, asked: Sequence[Sequence[Message]], tokens: int) -> list[Completion]:
    """What the model says in this process."""
    engine = LlamaCppEngine(
        made.gguf, made.mmproj, made.contract, name="x", n_threads=1, n_ctx=1024
    )
    with closing(engine):
        return [engine.complete(each, max_new_tokens=tokens) for each in asked]


def essence(answer: Completion | Failure) -> tuple[str, str, int, int]:
    assert isinstance(answer, Completion), answer
    return answer.text, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens


@pytest.fixture(scope="module")
def made(conversions: Conversions) -> Converted:
    """A model under a contract that states the ids of its conversations."""
    from vlmpipe.models.loading import load_tokenizer

    found = conversions.of(NAME)
    contract = with_rendered_ids(found.contract, load_tokenizer(found.model))
    return replace(found, contract=contract)


@pytest.fixture(scope="module")
def tools() -> LlamaTools:
    found = cached_tools()
    if found is None:
        pytest.skip("llama-server is not built: run `make llama-tools`")
    return found


def test_llama_server_answers_as_llama_cpp_in_this_process_does(
    made: Converted, tools: LlamaTools, tmp_path: Path
) -> None:
    asked = questions()
    with server(tools, made, tmp_path) as url:
        with closing(OpenAIEngine(f"{url}/v1", None, made.contract, concurrency=3)) as engine:
            found = list(answers(engine, asked, max_new_tokens=FEW))
            assert engine.held_by == "prompt text and token counts"
            assert engine.version.startswith("llama-server b")
            assert engine.name == f"openai:{made.gguf.stem}"
            with pytest.raises(StageError, match="llama-server cannot say"):
                engine.score(asked[0], "42")
        bare = OpenAIEngine(url, None, made.contract, resize="runtime")
        with closing(bare):
            as_sent = list(answers(bare, asked, max_new_tokens=FEW))
    wanted = expected(made, asked, FEW)
    # llama-server leaves out bytes of a character that the limit cut off.
    wanted = [replace(each, text=each.text.rstrip("\ufffd")) for each in wanted]
    assert [essence(each) for each in found] == [essence(each) for each in wanted]
    assert [essence(each) for each in as_sent] != [essence(each) for each in wanted]


def test_a_llama_server_with_another_template_is_refused(
    made: Converted, tools: LlamaTools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "template.jinja"
    helpful = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    template.write_text("{{- " + repr(helpful) + " -}}\n" + made.contract.chat_template)
    flags = vlmpipe.encoding.runtime_flags.runtime_flags(made.contract, str(template))
    monkeypatch.setattr("test_engine_bare_server.runtime_flags", lambda _contract: flags)
    with server(tools, made, tmp_path) as url, pytest.raises(ArtifactError) as caught:
        OpenAIEngine(f"{url}/v1", None, made.contract)
    said = "\n".join(caught.value.problems)
    assert "one image: the prompt takes" in said
    assert "You are a helpful" in said


@pytest.fixture
def gateway(made: Converted, tmp_path: Path) -> Iterator[RunningService]:
    """With room for one request and one that waits."""
    make_bundle(tmp_path / "bundle", made, max_queue=1)
    with RunningService(tmp_path / "bundle", tmp_path / "log", timeout_s=60) as service:
        service.wait_until_ready()
        yield service


def test_the_gateway_answers_as_the_engine_behind_it_however_many_ask(
    made: Converted, gateway: RunningService
) -> None:
    asked = questions() * 2
    engine = OpenAIEngine(gateway.url, None, made.contract, concurrency=4, retries=40)
    with closing(engine):
        found = list(answers(engine, asked, max_new_tokens=12))
        assert engine.held_by == "token counts"
        assert not engine.can_score
    wanted = expected(made, asked, 12)
    assert [essence(each) for each in found] == [essence(each) for each in wanted]


def test_a_worker_that_dies_in_mid_run_costs_no_answer(
    made: Converted, gateway: RunningService
) -> None:
    asked = questions()
    engine = OpenAIEngine(gateway.url, None, made.contract, concurrency=1, retries=40)
    with closing(engine):
        found = answers(engine, asked, max_new_tokens=12)
        some = [next(found), next(found)]
        worker_of(gateway).kill()
        rest = list(found)
    wanted = expected(made, asked, 12)
    assert [essence(each) for each in [*some, *rest]] == [essence(each) for each in wanted]


def worker_of(service: RunningService) -> psutil.Process:
    children = psutil.Process(service.process.pid).children()
    return next(child for child in children if "vlmpipe.serving.worker" in child.cmdline())


def test_another_model_than_the_gateways_is_refused(
    made: Converted, gateway: RunningService
) -> None:
    with pytest.raises(ConfigError, match="has no model 'other'"):
        OpenAIEngine(gateway.url, "other", made.contract)
