from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_folders import VISION_MODELS, contract_of, encoder_of
from vlmpipe.encoding.contract import PreprocessContract, RenderedCase, read_contract
from vlmpipe.encoding.rendered import WIDE, with_rendered_ids
from vlmpipe.encoding.runtime_flags import runtime_flags
from vlmpipe.errors import ArtifactError
from vlmpipe.models.families import FAMILIES


def test_a_contract_survives_the_disk(tmp_path: Path) -> None:
    contract = contract_of(FAMILIES["qwen3_vl"], system_prompt="x")
    contract.write(tmp_path)
    assert read_contract(tmp_path) == contract
    assert read_contract(tmp_path).digest == contract.digest


def test_it_states_token_counts_of_odd_sizes() -> None:
    counts = contract_of(FAMILIES["qwen2_5_vl"]).image_tokens
    assert counts["57x225"] == 16
    assert all(count >= 8 for count in counts.values())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("chat_template", "other", "chat_template has sha256"),
        ("resize_kernel", "bilinear", "cannot be read as a preprocess contract.*resize_kernel"),
        ("patch_size", 16, "tokens here, the contract states"),
    ],
)
def test_a_contract_that_contradicts_itself_is_refused_with_both_values(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    path = contract_of(FAMILIES["qwen2_5_vl"]).write(tmp_path)
    changed = {**json.loads(path.read_text()), field: value}
    path.write_text(json.dumps(changed))
    with pytest.raises(ArtifactError, match=message):
        read_contract(tmp_path)


def test_an_absent_or_damaged_contract_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_contract(tmp_path)
    (tmp_path / "preprocess_contract.json").write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_contract(tmp_path)


def test_a_contract_of_before_its_rendered_ids_is_refused_in_words(tmp_path: Path) -> None:
    path = contract_of(FAMILIES["qwen2_5_vl"]).write(tmp_path)
    older = {k: v for k, v in json.loads(path.read_text()).items() if k != "rendered"}
    path.write_text(json.dumps(older))
    with pytest.raises(ArtifactError, match="rendered: Field required") as raised:
        read_contract(tmp_path)
    assert any("run-all --force" in remedy for remedy in raised.value.remedies)


def test_a_contract_that_lets_images_be_smaller_than_a_runtime_does_is_refused(
    tmp_path: Path,
) -> None:
    contract = contract_of(FAMILIES["qwen2_5_vl"]).model_copy(
        update={"min_pixels": 7 * 28 * 28, "image_tokens": {}}
    )
    contract.write(tmp_path)
    with pytest.raises(ArtifactError, match="min_pixels 5488 is 7 image tokens"):
        read_contract(tmp_path)


def test_stated_ids_that_were_touched_are_refused(tmp_path: Path) -> None:
    encoder = encoder_of("random-qwen2_5_vl")
    contract = with_rendered_ids(encoder.contract, encoder.tokenizer)
    case = contract.rendered["text"]
    touched = case.model_copy(update={"ids": f"{case.ids} 7"})
    contract.model_copy(update={"rendered": {"text": touched}}).write(tmp_path)
    with pytest.raises(ArtifactError, match=r"rendered\.text\.ids has sha256"):
        read_contract(tmp_path)


@given(st.lists(st.integers(-1, 200_000), max_size=60))
def test_ids_survive_being_written_down(ids: list[int]) -> None:
    assert RenderedCase.of(ids).as_list() == ids


@pytest.mark.parametrize("name", VISION_MODELS)
def test_every_shape_of_a_conversation_is_stated(name: str) -> None:
    encoder = encoder_of(name)
    contract = with_rendered_ids(encoder.contract, encoder.tokenizer)
    shapes = {"text", "one image", "two images", "image after text", "several turns"}
    assert set(contract.rendered) == shapes | {f"own system, {shape}" for shape in shapes}
    assert read_back(contract) == contract
    for shape in shapes:
        plain = contract.rendered[shape].as_list()
        own = contract.rendered[f"own system, {shape}"].as_list()
        assert own[-len(plain) :] == plain
        assert len(own) > len(plain)
    images = [case.as_list().count(-1) for case in contract.rendered.values()][:5]
    assert images[0] == 0 < images[1] < images[2]
    assert images[1] == contract.grid.tokens(*WIDE)


def test_a_contracts_own_system_prompt_gives_way_to_a_conversations(tmp_path: Path) -> None:
    encoder = encoder_of("random-qwen2_5_vl")
    prompted = encoder.contract.model_copy(update={"system_prompt": "You count."})
    plain = with_rendered_ids(encoder.contract, encoder.tokenizer).rendered
    stated = with_rendered_ids(prompted, encoder.tokenizer).rendered
    assert stated["own system, text"] == plain["own system, text"]
    assert stated["text"] != plain["text"]


def test_a_model_without_eyes_is_asked_in_text_only() -> None:
    encoder = encoder_of("random-qwen3")
    stated = with_rendered_ids(encoder.contract, encoder.tokenizer).rendered
    shapes = {"text", "several turns"}
    assert set(stated) == shapes | {f"own system, {shape}" for shape in shapes}
    assert all(-1 not in case.as_list() for case in stated.values())


def test_llama_server_is_told_limits_context_and_template() -> None:
    contract = contract_of(FAMILIES["qwen2_5_vl"], min_pixels=20 * 28 * 28)
    words = runtime_flags(contract, "t.jinja")
    assert words == [
        *("-c", "1024", "--jinja", "--chat-template-file", "t.jinja"),
        *("--image-min-tokens", "20", "--image-max-tokens", "256"),
    ]
    text = runtime_flags(contract_of(FAMILIES["qwen3"]), "t.jinja")
    assert text == words[:5]


def read_back(contract: PreprocessContract) -> PreprocessContract:
    return PreprocessContract.model_validate_json(contract.model_dump_json())
