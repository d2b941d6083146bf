"""Every engine is held against the preprocess contract when it starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from model_folders import RANDOM_MODELS, contract_of, encoder_of, model_folder, picture
from serving_models import Conversions, Converted
from vlmpipe.encoding.contract import PreprocessContract, RenderedCase
from vlmpipe.encoding.conversation import Message
from vlmpipe.encoding.encoder import Encoder
from vlmpipe.encoding.images import MIN_IMAGE_TOKENS
from vlmpipe.encoding.rendered import with_rendered_ids
from vlmpipe.engines.contract_check import check_model, processed_tokens
from vlmpipe.engines.hf import HfEngine
from vlmpipe.engines.llama_cpp import LlamaCppEngine
from vlmpipe.errors import ArtifactError
from vlmpipe.models.families import FAMILIES
from vlmpipe.models.loading import load_model, load_tokenizer

SMALL_IMAGES = [(10, 10), (28, 28), (56, 84), (57, 60), (3, 400)]
SEEING = "random-qwen2_5_vl"


def stated(encoder: Encoder, **changes: object) -> PreprocessContract:
    return with_rendered_ids(encoder.contract, encoder.tokenizer).model_copy(update=changes)


def config_of(name: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model_folder(name))


def refusal(contract: PreprocessContract, name: str = SEEING, folder: Path | None = None) -> str:
    """What the check says of a model under a contract; empty where it finds nothing."""
    tokenizer = load_tokenizer(folder or model_folder(name))
    try:
        check_model(Encoder(tokenizer, contract), config_of(name), "the model")
    except ArtifactError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_a_model_meets_the_contract_that_its_own_tokenizer_stated(name: str) -> None:
    assert refusal(stated(encoder_of(name)), name) == ""


def test_a_contract_without_stated_ids_asks_for_counts_alone() -> None:
    contract = encoder_of(SEEING).contract
    assert contract.rendered == {}
    assert refusal(contract) == ""
    wrong = contract.model_copy(update={"image_tokens": {"57x225": 17}})
    assert "57x225 (height x width) takes 16 tokens, the contract states 17" in refusal(wrong)


def test_a_differing_token_is_named_with_its_place_and_both_ids() -> None:
    contract = stated(encoder_of(SEEING))
    ids = contract.rendered["two images"].as_list()
    changed = RenderedCase.of([*ids[:5], 77, *ids[6:]])
    said = refusal(
        contract.model_copy(update={"rendered": {**contract.rendered, "two images": changed}})
    )
    assert f"two images: token 5 is {ids[5]}, the contract states 77" in said
    assert "own system" not in said


def test_missing_image_tokens_are_named_as_such() -> None:
    contract = stated(encoder_of(SEEING))
    ids = contract.rendered["one image"].as_list()
    last = len(ids) - 1 - ids[::-1].index(-1)
    fewer = {"one image": RenderedCase.of([*ids[:last], *ids[last + 1 :]])}
    said = refusal(contract.model_copy(update={"rendered": fewer}))
    assert f"token {last} is an image's, the contract states {ids[last + 1]}" in said
    assert f"({len(ids)} tokens, {len(ids) - 1} stated)" in said


def other_template(contract: PreprocessContract) -> dict[str, object]:
    return {"chat_template": contract.chat_template.replace("'<|im_end|>\\n'", "'<|im_end|>'")}


def default_system(contract: PreprocessContract) -> dict[str, object]:
    return {"system_prompt": "You are a helpful assistant."}


@pytest.mark.parametrize("change", [other_template, default_system])
def test_a_prompt_rendered_otherwise_is_refused(
    change: Callable[[PreprocessContract], dict[str, object]],
) -> None:
    contract = stated(encoder_of(SEEING))
    said = refusal(contract.model_copy(update=change(contract)))
    assert "text: token" in said
    assert "several turns: token" in said


def test_a_tokenizer_that_was_exchanged_is_refused(tmp_path: Path) -> None:
    """Added tokens that swallow text are the usual way in which this happens."""
    folder = shutil.copytree(model_folder(SEEING), tmp_path / "model")
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    entry = {**tokenizer["added_tokens"][-1], "content": "What", "special": False}
    entry["id"] += 1
    tokenizer["added_tokens"].append(entry)
    path.write_text(json.dumps(tokenizer))
    contract = stated(encoder_of(SEEING))
    expected = contract.rendered["text"].as_list()[4]
    said = refusal(contract, folder=folder)
    assert f"text: token 4 is {entry['id']}, the contract states {expected}" in said


@pytest.mark.parametrize(
    ("field", "value"), [("patch_size", 16), ("merge_size", 4), ("temporal_patch_size", 1)]
)
def test_a_tower_of_another_shape_is_refused_with_both_values(field: str, value: int) -> None:
    contract = stated(encoder_of(SEEING))
    found = getattr(contract, field)
    changes = {field: value, "image_tokens": {}, "rendered": {}}
    said = refusal(contract.model_copy(update=changes))
    assert f"{field} is {found} in the model, the contract states {value}" in said


def test_a_model_without_eyes_does_not_meet_a_contract_with_images() -> None:
    tokenizer = load_tokenizer(model_folder("random-qwen3"))
    encoder = Encoder(tokenizer, encoder_of(SEEING).contract)
    with pytest.raises(ArtifactError, match="has_vision is False in the model, True stated"):
        check_model(encoder, config_of("random-qwen3"), "the model")


def test_an_hf_engine_does_not_start_against_its_contract() -> None:
    wrong = stated(encoder_of(SEEING), image_tokens={"345x451": 7})
    encoder = Encoder(encoder_of(SEEING).tokenizer, wrong)
    with pytest.raises(ArtifactError, match=r"345x451.*the contract states 7"):
        HfEngine(load_model(model_folder(SEEING)), encoder, "hf:wrong")


def with_ids(converted: Converted) -> PreprocessContract:
    return with_rendered_ids(converted.contract, load_tokenizer(converted.model))


def start(converted: Converted, contract: PreprocessContract, **options: Any) -> LlamaCppEngine:
    gguf, mmproj = converted.gguf, converted.mmproj
    return LlamaCppEngine(gguf, mmproj, contract, name="x", n_threads=1, **options)


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_llama_cpp_meets_the_contract_of_the_training_tokenizer(
    name: str, conversions: Conversions
) -> None:
    converted = conversions.of(name)
    contract = with_ids(converted)
    assert contract.rendered
    start(converted, contract).close()


@pytest.mark.slow
def test_llama_cpp_refuses_ids_and_counts_that_differ_all_at_once(
    conversions: Conversions,
) -> None:
    converted = conversions.of(SEEING)
    contract = with_ids(converted)
    wrong = {**contract.rendered, "text": RenderedCase.of([1, 2])}
    counts = {**contract.image_tokens, "57x225": 17}
    with pytest.raises(ArtifactError) as raised:
        start(converted, contract.model_copy(update={"rendered": wrong, "image_tokens": counts}))
    said = str(raised.value)
    found = contract.rendered["text"].as_list()
    assert f"text: token 0 is {found[0]}, the contract states 1 ({len(found)} tokens, 2" in said
    assert "57x225 (height x width) takes 16 tokens, the contract states 17" in said
    assert str(converted.mmproj) in said


@pytest.mark.slow
def test_an_engine_told_to_let_the_runtime_resize_meets_it_too(conversions: Conversions) -> None:
    converted = conversions.of(SEEING)
    with closing(start(converted, with_ids(converted), resize="runtime")) as engine:
        image = picture(238, 70)
        assert engine.handed_over(image).size == image.size


@pytest.mark.parametrize("size", SMALL_IMAGES)
def test_no_image_has_fewer_tokens_than_the_runtime_allows(size: tuple[int, int]) -> None:
    """In training at every phase's size, and in serving: both see the same enlarged image."""
    encoder = encoder_of(SEEING)
    image = picture(size[1], size[0])
    grids = [encoder.contract.grid.within(box) for box in ((64, 64), (84, 112), (448, 448), None)]
    for grid in grids:
        sample = (Message("user", (image, "?")), Message("assistant", ("1",)))
        trained = encoder.encode_sample(sample, grid=grid)
        prepared = grid.prepare(image)
        assert sum(trained.image_mask) >= MIN_IMAGE_TOKENS
        assert sum(trained.image_mask) == processed_tokens(
            encoder, (prepared.height, prepared.width)
        )
    contract = contract_of(FAMILIES["qwen2_5_vl"], min_pixels=1)
    assert contract.min_image_tokens == MIN_IMAGE_TOKENS


@pytest.mark.slow
@pytest.mark.parametrize("size", SMALL_IMAGES)
def test_llama_cpp_takes_a_small_image_at_the_size_that_training_gave_it(
    size: tuple[int, int], conversions: Conversions
) -> None:
    converted = conversions.of(SEEING)
    encoder = Encoder(load_tokenizer(converted.model), converted.contract)
    prompt = [Message("user", (picture(size[1], size[0]), "?"))]
    with closing(start(converted, converted.contract)) as engine:
        seen = engine.prompt_ids(prompt).count(-1)
    assert seen == sum(encoder.encode_prompt(prompt).image_mask) >= MIN_IMAGE_TOKENS
