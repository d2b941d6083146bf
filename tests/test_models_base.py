"""Resolving a base model: what is accepted, what is refused, what is noticed later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_files import picture as picture_file
from model_folders import RANDOM_MODELS, contract_of, encoder_of, model_folder, picture
from vlmpipe.config import parse_config
from vlmpipe.data.prepare import prepare_data
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.errors import ArtifactError, BadSamplesError, ConfigError, ToolError
from vlmpipe.models.base import BaseModelFolder, read_base, resolve_base
from vlmpipe.models.embedded import EMBEDDED, build_embedded
from vlmpipe.models.families import FAMILIES, family_of
from vlmpipe.models.loading import load_model, load_tokenizer
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.stages.s1_setup import length_check


def resolved(model_id: str | Path, target: Path) -> BaseModelFolder:
    target.mkdir(parents=True, exist_ok=True)
    return resolve_base(parse_config({"model": {"id": str(model_id)}}).model, target)


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A local model folder that a test may spoil."""
    return Path(shutil.copytree(model_folder("random-qwen3"), tmp_path / "qwen3-vl-claims"))


def test_a_local_folder_is_taken_where_it_lies(own_folder: Path, tmp_path: Path) -> None:
    base = resolved(own_folder, tmp_path / "setup")
    assert base.folder == own_folder
    assert read_base(tmp_path / "setup") == base


def test_the_family_is_what_the_configuration_says_whatever_the_folder_is_called(
    own_folder: Path, tmp_path: Path
) -> None:
    assert resolved(own_folder, tmp_path / "setup").family.name == "qwen3"


def test_an_embedded_model_goes_into_the_version_itself(tmp_path: Path) -> None:
    base = resolved("embedded:random-qwen3", tmp_path / "setup")
    assert base.folder == tmp_path / "setup" / "model"
    moved = (tmp_path / "setup").rename(tmp_path / "moved")
    assert read_base(moved).folder == moved / "model"


@pytest.mark.parametrize("name", [*RANDOM_MODELS, "tiny", "tiny-text"])
def test_embedded_models_are_the_same_each_time_and_small(name: str, tmp_path: Path) -> None:
    build_embedded(name, tmp_path / "again")
    first, again = model_folder(name), tmp_path / "again"
    for file in sorted(first.iterdir()):
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name
    assert resolved(first, tmp_path / "setup").parameters <= 10_000_000
    assert set(EMBEDDED) >= {name}


def test_an_unknown_embedded_model_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="embedded:tny") as caught:
        resolved("embedded:tny", tmp_path / "setup")
    assert "embedded:tiny-text" in str(caught.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter.pt", "a.pkl", "b.ckpt", "c.pth"])
def test_pickled_weights_are_refused_by_name(name: str, own_folder: Path, tmp_path: Path) -> None:
    (own_folder / name).write_bytes(b"x")
    with pytest.raises(ArtifactError) as caught:
        resolved(own_folder, tmp_path / "setup")
    assert caught.value.problems == (f"{name}: pickled weights run code when they are loaded",)


def test_python_files_and_auto_map_are_refused_together(own_folder: Path, tmp_path: Path) -> None:
    (own_folder / "modeling_own.py").write_text("import os\n")
    config = json.loads((own_folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_own.Own"}
    (own_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError) as caught:
        resolved(own_folder, tmp_path / "setup")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "modeling_own.py",
        "config.json",
    ]


def test_a_folder_without_safetensors_is_refused(own_folder: Path, tmp_path: Path) -> None:
    (own_folder / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match="refused") as caught:
        resolved(own_folder, tmp_path / "setup")
    assert caught.value.problems == ("no *.safetensors weights",)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "holds no config.json"),
        ("{", "cannot be read"),
        ("[]", "does not hold a JSON object"),
        ('{"model_type": "llama"}', "model_type 'llama'"),
    ],
)
def test_a_folder_of_no_known_family_is_refused_with_the_reason(
    config: str | None, message: str, own_folder: Path
) -> None:
    (own_folder / "config.json").unlink()
    if config is not None:
        (own_folder / "config.json").write_text(config)
    with pytest.raises(ArtifactError, match=message):
        family_of(own_folder)


def test_a_path_that_is_not_there_is_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no such folder"):
        resolved(tmp_path / "none", tmp_path / "setup")


def test_a_hub_that_cannot_be_reached_is_told_with_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ToolError, match="Qwen/None-Such") as caught:
        resolved("Qwen/None-Such", tmp_path / "setup")
    assert "model.id=DIR" in str(caught.value)


def test_weights_changed_after_setup_are_noticed_by_name(own_folder: Path, tmp_path: Path) -> None:
    resolved(own_folder, tmp_path / "setup")
    weights = own_folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        read_base(tmp_path / "setup")
    assert caught.value.problems == (f"{weights}: changed since setup",)
    weights.unlink()
    with pytest.raises(ArtifactError, match="not the one that setup resolved") as caught:
        read_base(tmp_path / "setup")
    assert caught.value.problems == (f"{weights}: missing",)


def test_missing_weights_are_refused_rather_than_drawn_at_random(own_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(str(own_folder / "model.safetensors"))
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, str(own_folder / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="1 missing") as caught:
        load_model(own_folder)
    assert "up_proj" in caught.value.problems[0]


def test_truncated_weights_are_an_artifact_error(own_folder: Path) -> None:
    weights = own_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="damaged"):
        load_model(own_folder)


def test_a_folder_without_a_tokenizer_is_an_artifact_error(own_folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (own_folder / name).unlink()
    with pytest.raises(ArtifactError, match="holds no tokenizer"):
        load_tokenizer(own_folder)


def test_an_image_of_too_many_tokens_is_named_by_file_and_line(tmp_path: Path) -> None:
    picture_file(tmp_path / "page.png", side=440)
    picture_file(tmp_path / "small.png", side=60)
    turns = [
        [
            {"role": "user", "content": [{"type": "image", "image": name}]},
            {"role": "assistant", "content": "ok"},
        ]
        for name in ("small.png", "page.png")
    ]
    lines = "".join(json.dumps({"messages": each}) + "\n" for each in turns)
    source = tmp_path / "s.jsonl"
    source.write_text(lines, encoding="utf-8")
    config = parse_config(
        {"data": {"sources": [{"path": str(source)}]}, "train": {"max_length": 100}}
    )
    check = length_check(config, encoder_of("random-qwen2_5_vl"))
    with pytest.raises(BadSamplesError) as caught:
        prepare_data(config, tmp_path / "out", SilentReporter(), check)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{source}:2: takes ")
    assert "more than train.max_length=100" in problem


def test_only_what_can_make_a_sample_fit_is_proposed_for_its_length() -> None:
    """Smaller images do not help where the text alone is too long."""
    check = length_check(parse_config({"train": {"max_length": 100}}), encoder_of("random-qwen3"))
    sample = Sample(
        "a", (Message("user", ("word " * 200,)), Message("assistant", ("ok",))), "table"
    )
    wordy = check(sample) or ""
    needed = int(wordy.split()[1])
    assert f"({needed} of text, 0 of images)" in wordy
    assert f"train.max_length={needed};" in wordy
    assert "max_pixels" not in wordy
    enough = parse_config({"train": {"max_length": needed}})
    assert length_check(enough, encoder_of("random-qwen3"))(sample) is None
    large = Sample(
        "b", (Message("user", (picture(600, 600),)), Message("assistant", ("ok",))), "table"
    )
    seen = length_check(
        parse_config({"train": {"max_length": 100}}), encoder_of("random-qwen2_5_vl")
    )
    assert "or make images smaller: model.max_pixels" in (seen(large) or "")


def test_the_length_check_lets_pass_what_fits() -> None:
    sample = Sample(
        "a", (Message("user", (picture(),)), Message("assistant", ("ok",))), task="table"
    )
    assert length_check(parse_config({}), encoder_of("random-qwen2_5_vl"))(sample) is None
    assert contract_of(FAMILIES["qwen2_5_vl"]).has_vision
