"""Batches of the transformers engine: each answer is the one that its conversation gets alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from export_models import FAMILY_NAMES, contract_of, random_base
from test_engine_llama_cpp import noise
from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.engines.answering import answers
from vlmpipe.engines.base import Completion, Failure
from vlmpipe.engines.hf import HfEngine
from vlmpipe.engines.hf_batch import taken_apart
from vlmpipe.errors import StageError
from vlmpipe.models.families import FAMILIES
from vlmpipe.models.loading import load_model, load_tokenizer

LIMIT = 12


def conversations(*, has_vision: bool) -> list[list[Message]]:
    """Text and images of different sizes, long and short, one and two of them, in no order."""
    written = [
        [Message("user", ("What is 12?",))],
        [
            Message("system", ("Be brief.",)),
            Message("user", ("a",)),
            Message("assistant", ("b",)),
            Message("user", ("한글 <|im_end|> c, and a much longer question than the others",)),
        ],
        [Message("user", ("?",))],
    ]
    if not has_vision:
        return written
    return [
        [Message("user", (noise(97, 151), "Read this: 12 + 7?"))],
        written[0],
        [Message("user", ("first", noise(100, 200), " then ", noise(200, 100), "which?"))],
        [Message("user", (noise(56, 84), "Read"))],
        written[1],
        [Message("user", ("Read", noise(225, 57)))],
    ]


class Spy(HfEngine):
    """Notes the sizes of the batches that are generated for."""

    def __init__(self, *given: object, **options: object) -> None:
        super().__init__(*given, **options)  # type: ignore[arg-type]
        self.sizes: list[int] = []

    def _generate(self, batch: Sequence, max_new_tokens: int) -> list[Completion]:  # type: ignore[type-arg]
        self.sizes.append(len(batch))
        return super()._generate(batch, max_new_tokens)


def opened(family: str, folder: Path, batch_size: int) -> Spy:
    model = random_base(family, folder)
    encoder = Encoder(load_tokenizer(model), contract_of(family))
    return Spy(load_model(model), encoder, "hf:base", batch_size=batch_size)


def said(answer: Completion | Failure) -> tuple[str, str, int, int]:
    assert isinstance(answer, Completion)
    return answer.text, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_an_answer_in_a_batch_is_the_answer_alone(family: str, tmp_path: Path) -> None:
    engine = opened(family, tmp_path / "model", batch_size=4)
    asked = conversations(has_vision=FAMILIES[family].has_vision)
    alone = [engine.complete(messages, max_new_tokens=LIMIT) for messages in asked]
    engine.sizes.clear()
    together = list(answers(engine, iter(asked), max_new_tokens=LIMIT))
    assert [said(each) for each in together] == [said(each) for each in alone]
    assert engine.sizes == ([4, 2] if FAMILIES[family].has_vision else [3])
    assert len({each.text for each in alone}) > 2


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Spy:
    return opened("qwen2_5_vl", tmp_path_factory.mktemp("seeing") / "model", batch_size=3)


def test_the_engine_says_what_it_is(seeing: Spy) -> None:
    import transformers

    assert seeing.version == f"transformers {transformers.__version__}"
    assert (seeing.name, seeing.engine_type, seeing.can_score) == ("hf:base", "hf", True)


def test_times_are_those_of_an_answers_own_last_token(seeing: Spy) -> None:
    answer = seeing.complete(conversations(has_vision=True)[0], max_new_tokens=LIMIT)
    assert 0 < answer.first_token_seconds < answer.seconds


def test_no_more_conversations_are_taken_than_fill_a_batch(seeing: Spy) -> None:
    taken: list[int] = []

    def asked() -> Iterator[list[Message]]:
        for number in range(7):
            taken.append(number)
            yield [Message("user", (str(number),))]

    found = seeing.complete_all(asked(), max_new_tokens=2)
    next(found)
    assert taken == [0, 1, 2]
    assert len(list(found)) == 6


def test_what_cannot_be_encoded_fails_alone(seeing: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Encoder.encode_prompt

    def encode_some(encoder: Encoder, messages: Sequence[Message]) -> object:
        if messages[-1].text == "bad":
            raise StageError("this one cannot be encoded")
        return encode(encoder, messages)

    monkeypatch.setattr(Encoder, "encode_prompt", encode_some)
    asked = [[Message("user", (word,))] for word in ("a", "bad", "b", "bad")]
    found = list(seeing.complete_all(asked, max_new_tokens=2))
    assert [isinstance(each, Failure) for each in found] == [False, True, False, True]
    assert found[1] == Failure("this one cannot be encoded")


def test_memory_that_runs_out_fails_its_batch_and_the_next_goes_on(
    seeing: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    model, calls = seeing._model, []
    generate = model.generate

    def fail_once(**inputs: object) -> object:
        calls.append(inputs)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", fail_once)
    asked = [[Message("user", (str(number),))] for number in range(5)]
    found = list(seeing.complete_all(asked, max_new_tokens=2))
    assert [isinstance(each, Failure) for each in found] == [True] * 3 + [False] * 2
    assert isinstance(found[0], Failure)
    assert "80 GiB" in found[0].message


def test_a_row_ends_at_its_first_stop_token_whatever_follows() -> None:
    whole, cut, at_once = taken_apart([[5, 9, 0, 0], [5, 6, 7, 8], [8, 9, 0, 0]], [9, 8])
    assert (whole.tokens, whole.stopped) == ([5, 9], True)
    assert (cut.tokens, cut.stopped) == ([5, 6, 7, 8], True)
    assert (at_once.tokens, at_once.stopped) == ([8], True)
    assert taken_apart([[1, 2]], [9])[0].stopped is False
