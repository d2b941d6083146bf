from __future__ import annotations

import json
from pathlib import Path

import pytest

from model_folders import contract_of
from vlmpipe.encoding.contract import read_contract
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
