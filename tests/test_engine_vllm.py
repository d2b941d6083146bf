"""A real vLLM behind the OpenAI engine: ids, answers and likelihoods against transformers.

Images included: the environment's torchvision is made to import beside a CPU torch. Skipped where
that environment was not built; `make test-vllm` builds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import pytest

from export_models import contract_of, merged_folder
from test_engine_batches import conversations, said
from vllm_server import vllm_python, vllm_server
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.encoding.rendered import with_rendered_ids
from vlmpipe.engines.answering import answers
from vlmpipe.engines.base import Completion
from vlmpipe.engines.hf import HfEngine
from vlmpipe.engines.openai import OpenAIEngine
from vlmpipe.errors import ArtifactError
from vlmpipe.models.loading import load_model, load_tokenizer

pytestmark = pytest.mark.slow
TOKENS = 12


@dataclass(frozen=True)
class Served:
    """A merged model, behind vLLM and in this process."""

    url: str
    contract: PreprocessContract
    reference: HfEngine


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl", "qwen3"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    vllm_python()
    folder = tmp_path_factory.mktemp(request.param)
    model = merged_folder(request.param, folder)
    tokenizer = load_tokenizer(model)
    contract = with_rendered_ids(contract_of(request.param), tokenizer)
    reference = HfEngine(load_model(model), Encoder(tokenizer, contract), "hf:merged")
    with vllm_server(model, folder / "vllm.log") as url:
        yield Served(url, contract, reference)


@pytest.fixture
def engine(served: Served) -> Iterator[OpenAIEngine]:
    with closing(OpenAIEngine(served.url, None, served.contract, concurrency=3)) as opened:
        yield opened


def test_vllm_tells_what_it_is_and_makes_the_ids_of_training(engine: OpenAIEngine) -> None:
    assert engine.version.startswith("vllm 0.")
    assert engine.name == "openai:tiny"
    assert engine.held_by == "token ids"
    assert engine.can_score


def test_vllm_answers_as_transformers_does(engine: OpenAIEngine, served: Served) -> None:
    asked = conversations(has_vision=served.contract.has_vision)
    found = answers(engine, asked, max_new_tokens=TOKENS)
    for messages, answer in zip(asked, found, strict=True):
        expected = served.reference.complete(messages, max_new_tokens=TOKENS)
        assert isinstance(answer, Completion)
        assert said(replace(answer, text=""))[1:] == said(replace(expected, text=""))[1:]
        withheld = expected.text.removeprefix(answer.text)
        assert expected.text == answer.text + withheld
        # vLLM withholds the last token of a cut answer where it ends within a character.
        assert withheld == "" or (withheld[-1] == "\ufffd" and len(withheld) <= 3)


def test_vllm_gives_an_answer_the_likelihood_that_transformers_gives_it(
    engine: OpenAIEngine, served: Served
) -> None:
    accuracies = []
    for messages in conversations(has_vision=served.contract.has_vision):
        own = served.reference.complete(messages, max_new_tokens=TOKENS).text
        for answer in ("<table>123</table>", "한글 42", own):
            found, expected = (each.score(messages, answer) for each in (engine, served.reference))
            assert found.tokens == expected.tokens
            assert found.loss == pytest.approx(expected.loss, abs=1e-3)
            assert found.accuracy == pytest.approx(expected.accuracy)
            accuracies.append(found.accuracy)
    assert max(accuracies) > 0.5
    assert min(accuracies) == 0


def test_a_vllm_that_makes_other_prompts_is_refused(served: Served) -> None:
    other = served.contract.model_copy(update={"system_prompt": "You are a helpful assistant."})
    with pytest.raises(ArtifactError) as caught:
        OpenAIEngine(served.url, None, other)
    assert any(problem.startswith("several turns: token ") for problem in caught.value.problems)
