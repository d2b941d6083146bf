"""llama.cpp in process, held against transformers in fp32 on the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving_models import Conversions, Converted, small_contract
from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.encoder import IGNORED, Encoder
from vlmpipe.engines.llama_cpp import LlamaCppEngine, PromptTooLongError
from vlmpipe.errors import ArtifactError

VISION = ("random-qwen2_vl", "random-qwen2_5_vl", "random-qwen3_vl")
ANSWER = "<table><tr><td>12</td><td>x9</td></tr></table> 안녕 "


def open_engine(converted: Converted, **options: int) -> LlamaCppEngine:
    return LlamaCppEngine(
        converted.gguf,
        converted.mmproj,
        converted.contract,
        name="llama_cpp:f16",
        **{"n_threads": 1, **options},
    )


def noise(height: int, width: int) -> Image.Image:
    """A picture of coarse random blocks, the same for the same size."""
    blocks = np.random.default_rng(height * width).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def vision_prompts() -> dict[str, list[Message]]:
    """Odd sizes, one below the smallest grid, several images, several turns."""
    return {
        "off grid": [Message("user", (noise(97, 151), "Read this: 12 + 7?"))],
        "tiny": [Message("user", (noise(56, 84), "Read"))],
        "tall": [Message("user", (noise(225, 57), "Read"))],
        "two images": [
            Message("system", ("Be brief.",)),
            Message("user", ("first", noise(100, 200), " then ", noise(200, 100), "which?")),
        ],
        "two turns": [
            Message("user", (noise(100, 200), "한글")),
            Message("assistant", ("\n42 <b>",)),
            Message("user", ("again <__media__> <|im_end|>",)),
        ],
    }


def text_prompts() -> dict[str, list[Message]]:
    return {
        "one turn": [Message("user", ("What is 12?",))],
        "two turns": [
            Message("system", ("x\n",)),
            Message("user", ("a",)),
            Message("assistant", ("b",)),
            Message("user", ("한글 <|im_end|> c",)),
        ],
    }


def hf_loss(model: object, encoder: Encoder, prompt: list[Message]) -> float:
    """Mean negative log-likelihood of the last answer in transformers."""
    import torch

    encoded = encoder.encode_sample([*prompt, Message("assistant", (ANSWER,))], scope="assistant")
    ids = torch.tensor([encoded.input_ids])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if encoded.pixel_values is not None:
        inputs["pixel_values"] = torch.tensor(encoded.pixel_values)
        inputs["image_grid_thw"] = torch.tensor(encoded.image_grid_thw)
        inputs["mm_token_type_ids"] = torch.tensor([encoded.image_mask])
    with torch.no_grad():
        logits = model(**inputs).logits[0].log_softmax(-1)  # type: ignore[operator]
    supervised = np.flatnonzero(np.array(encoded.labels) != IGNORED)
    last = np.split(supervised, np.flatnonzero(np.diff(supervised) > 1) + 1)[-1]
    return float(np.mean([-logits[i - 1, encoded.input_ids[i]].item() for i in last]))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*VISION, "random-qwen3"])
def test_ids_and_scores_are_those_of_transformers(name: str, conversions: Conversions) -> None:
    from vlmpipe.models.loading import load_model, load_tokenizer

    converted = conversions.of(name)
    encoder = Encoder(load_tokenizer(converted.model), converted.contract)
    model = load_model(converted.model)
    prompts = vision_prompts() if converted.mmproj else text_prompts()
    with closing(open_engine(converted)) as engine:
        for case, prompt in prompts.items():
            ids = encoder.encode_prompt(prompt).input_ids
            expected = [-1 if token == encoder.image_token_id else token for token in ids]
            assert engine.prompt_ids(prompt) == expected, case
            score = engine.score(prompt, ANSWER)
            assert score.loss == pytest.approx(hf_loss(model, encoder, prompt), abs=1e-3), case


@pytest.fixture(scope="module")
def seeing(conversions: Conversions) -> Iterator[LlamaCppEngine]:
    with closing(open_engine(conversions.of("random-qwen2_5_vl"))) as engine:
        yield engine


@pytest.mark.slow
def test_greedy_answers_are_those_of_transformers(
    conversions: Conversions, seeing: LlamaCppEngine
) -> None:
    from vlmpipe.engines.hf import HfEngine
    from vlmpipe.models.loading import load_model, load_tokenizer

    converted = conversions.of("random-qwen2_5_vl")
    encoder = Encoder(load_tokenizer(converted.model), converted.contract)
    reference = HfEngine(load_model(converted.model), encoder, "hf")
    for case, prompt in vision_prompts().items():
        expected = reference.complete(prompt, max_new_tokens=8)
        found = seeing.complete(prompt, max_new_tokens=8)
        assert (found.text, found.finish_reason) == (expected.text, expected.finish_reason), case
        assert found.prompt_tokens == expected.prompt_tokens, case
        assert found.completion_tokens == expected.completion_tokens, case


@pytest.mark.slow
def test_streamed_pieces_are_the_answer(seeing: LlamaCppEngine) -> None:
    prompt = vision_prompts()["off grid"]
    whole = seeing.complete(prompt, max_new_tokens=20)
    pieces = [piece.text for piece in seeing.stream(prompt, max_new_tokens=20)]
    assert len(pieces) > 5
    assert "".join(pieces) == whole.text
    assert whole.finish_reason == "length"
    assert whole.completion_tokens == 20
    assert 0 < whole.first_token_seconds < whole.seconds


@pytest.mark.slow
def test_an_answer_given_up_leaves_nothing_behind(seeing: LlamaCppEngine) -> None:
    first, second = vision_prompts()["off grid"], vision_prompts()["tall"]
    expected = seeing.complete(second, max_new_tokens=10).text
    half = seeing.stream(first, max_new_tokens=10)
    next(half)
    half.close()
    assert seeing.complete(second, max_new_tokens=10).text == expected


@pytest.mark.slow
def test_a_conversation_beyond_the_context_is_refused_with_both_counts(
    conversions: Conversions,
) -> None:
    with closing(open_engine(conversions.of("random-qwen3"), n_ctx=256)) as engine:
        prompt = [Message("user", ("12 " * 400,))]
        with pytest.raises(PromptTooLongError) as raised:
            engine.complete(prompt, max_new_tokens=4)
        assert raised.value.tokens == len(engine.prompt_ids(prompt)) > 256
        assert raised.value.limit == 256
        with pytest.raises(PromptTooLongError):
            engine.score(prompt, "a")


@pytest.mark.slow
def test_an_answer_ends_where_the_context_does(conversions: Conversions) -> None:
    with closing(open_engine(conversions.of("random-qwen3"), n_ctx=256)) as engine:
        prompt = [Message("user", ("12 " * 50,))]
        tokens = len(engine.prompt_ids(prompt))
        answer = engine.complete(prompt, max_new_tokens=1000)
        assert answer.finish_reason == "stop" or answer.completion_tokens == 256 - tokens


def with_counts(contract: PreprocessContract, **changed: int) -> PreprocessContract:
    return contract.model_copy(update={"image_tokens": {**contract.image_tokens, **changed}})


@pytest.mark.slow
def test_a_contract_that_counts_image_tokens_otherwise_is_refused(conversions: Conversions) -> None:
    made = conversions.of("random-qwen2_5_vl")
    wrong = with_counts(made.contract, **{"345x451": 7})
    found = made.contract.image_tokens["345x451"]
    with pytest.raises(ArtifactError) as raised:
        LlamaCppEngine(made.gguf, made.mmproj, wrong, name="wrong")
    assert "345x451" in str(raised.value)
    assert f"takes {found} tokens" in str(raised.value)
    assert "states 7" in str(raised.value)


@pytest.mark.slow
def test_a_pair_of_another_family_is_refused(conversions: Conversions) -> None:
    older, newer = conversions.of("random-qwen2_5_vl"), conversions.of("random-qwen3_vl")
    with pytest.raises(ArtifactError):
        LlamaCppEngine(older.gguf, older.mmproj, newer.contract, name="wrong contract")


def test_a_vision_contract_needs_its_mmproj(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="an mmproj file"):
        LlamaCppEngine(tmp_path / "x.gguf", None, small_contract("qwen2_5_vl"), name="x")


def test_a_missing_file_is_named_with_the_way_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"x\.gguf") as raised:
        LlamaCppEngine(tmp_path / "x.gguf", None, small_contract("qwen3"), name="x")
    assert "vlmpipe convert" in str(raised.value)


def test_a_damaged_file_is_refused_in_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ArtifactError, match="cannot load"):
        LlamaCppEngine(tmp_path / "x.gguf", None, small_contract("qwen3"), name="x")
    assert capfd.readouterr().err == ""
