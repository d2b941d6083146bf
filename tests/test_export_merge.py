"""Adapters folded into base weights, held against PEFT's own merge."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import export_models as models
from merge_folds import copied, edit_settings, edit_tensor, fold, in_shards, lazy_bases, rename_keys
from vlmpipe.errors import StageError
from vlmpipe.export.merging.adapter import read_adapter
from vlmpipe.export.merging.merge import merge_full
from vlmpipe.export.merging.model_files import copy_model_files
from vlmpipe.export.merging.safetensors_stream import read_header
from vlmpipe.export.merging.weights import INDEX_NAME, Checkpoint, weights_digest
from vlmpipe.models.checkpoint_keys import candidate_keys, checkpoint_key, parameter_name
from vlmpipe.models.families import FAMILIES
from vlmpipe.models.loading import load_model


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return lazy_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def text_adapter(bases: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    models.random_adapter(bases("qwen3"), "qwen3", folder)
    return folder


def rounded(model: Any) -> Any:
    """The model with bfloat16 values in its parameters; buffers stay as they are."""
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return model


def logits_of(model: Any) -> torch.Tensor:
    ids = torch.randint(10, 600, (1, 24), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return model(input_ids=ids).logits


@pytest.mark.slow
@pytest.mark.parametrize("family", models.FAMILY_NAMES)
def test_merged_model_answers_as_pefts_own_merge(
    family: str, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    base = bases(family)
    tuned = models.random_adapter(base, family, tmp_path / "adapter")
    report = fold(base, tmp_path / "adapter", family, tmp_path / "merged")
    reference = rounded(tuned.merge_and_unload())
    merged = load_model(tmp_path / "merged")
    layers = merged.config.get_text_config().num_hidden_layers
    assert report.changed == report.adapted == 7 * layers
    assert report.replaced == 0
    assert torch.allclose(logits_of(merged), logits_of(reference), atol=1e-4)
    assert not torch.allclose(logits_of(merged), logits_of(load_model(base)), atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("family", models.FAMILY_NAMES)
def test_merged_files_mirror_the_base(
    family: str, bases: Callable[[str], Path], tmp_path: Path
) -> None:
    base = in_shards(bases(family), tmp_path / "base")
    models.random_adapter(base, family, tmp_path / "adapter")
    report = fold(base, tmp_path / "adapter", family, tmp_path / "merged")
    assert report.proof is not None
    assert len(report.proof.shards) == 3
    for name in report.proof.shards:
        before, after = read_header(base / name), read_header(tmp_path / "merged" / name)
        assert [span.key for span in after.spans] == [span.key for span in before.spans]
        assert [s.key for s in after.by_place] == [s.key for s in before.by_place]
        assert after.metadata == {**before.metadata, "vlmpipe.run": "a run"}
    index = [
        json.loads((folder / INDEX_NAME).read_text()) for folder in (base, tmp_path / "merged")
    ]
    assert index[0] == index[1]
    assert report.proof.digest == weights_digest(tmp_path / "merged")


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_either_layout_of_a_checkpoint_is_understood(family: str) -> None:
    known = FAMILIES[family]
    for parameter in (
        "model.language_model.layers.0.self_attn.q_proj.weight",
        "model.language_model.embed_tokens.weight",
        "model.visual.merger.mlp.0.weight",
        "lm_head.weight",
    ):
        for key in candidate_keys(known, parameter):
            assert parameter_name(known, key) == parameter
            assert checkpoint_key(known, parameter, {key, "other"}) == key
        if len(candidate_keys(known, parameter)) > 1:
            assert checkpoint_key(known, parameter, candidate_keys(known, parameter)) is None


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\..*\.up_proj": 3}},
        {"use_dora": True},
        {"use_dora": True, "use_rslora": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_variants_of_lora_are_folded_as_peft_folds_them(
    options: dict[str, Any], bases: Callable[[str], Path], tmp_path: Path
) -> None:
    base = bases("qwen3")
    tuned = models.random_adapter(base, "qwen3", tmp_path / "adapter", **options)
    if "use_dora" in options:
        stretch_rows(tmp_path / "adapter", tuned)
    report = fold(base, tmp_path / "adapter", "qwen3", tmp_path / "merged")
    reference = rounded(tuned.merge_and_unload()).state_dict()
    merged = load_model(tmp_path / "merged").state_dict()
    assert report.proof is not None
    assert report.proof.worst_rounding <= 1
    for name, tensor in merged.items():
        # DoRA's lengths are summed in another order: the last bit of some values may differ.
        assert torch.allclose(tensor, reference[name], rtol=2**-7, atol=0), name
        assert (tensor == reference[name]).float().mean() > 0.999, name


def stretch_rows(adapter: Path, tuned: Any) -> None:
    """Give DoRA's magnitudes values that training might have."""
    path = adapter / "adapter_model.safetensors"
    parameters = dict(tuned.named_parameters())
    for key in [key for key in load_file(path) if key.endswith(".lora_magnitude_vector")]:
        edit_tensor(path, key, lambda tensor: tensor * torch.linspace(0.8, 1.3, len(tensor)))
        parameters[f"{key}.default.weight"].data.copy_(load_file(path)[key])


def test_dora_without_its_magnitudes_is_refused(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    models.random_adapter(bases("qwen3"), "qwen3", tmp_path / "adapter", use_dora=True)
    path = tmp_path / "adapter/adapter_model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "magnitude" not in k}, path)
    with pytest.raises(StageError, match=r"the parts \['A', 'B'\] where .* asks for"):
        read_adapter(tmp_path / "adapter")


def test_rank_stabilised_scale_is_told(text_adapter: Path, tmp_path: Path) -> None:
    other = copied(text_adapter, tmp_path)
    edit_settings(other, use_rslora=True)
    assert read_adapter(other).scale == models.ALPHA / models.RANK**0.5


def test_unfrozen_parts_are_replaced_and_counted(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    base, merger = bases("qwen2_5_vl"), "model.visual.merger"
    tuned = models.random_adapter(
        base, "qwen2_5_vl", tmp_path / "adapter", modules_to_save=[merger]
    )
    report = fold(base, tmp_path / "adapter", "qwen2_5_vl", tmp_path / "merged")
    wanted = tuned.merge_and_unload().state_dict()
    parts = {key: value for key, value in wanted.items() if key.startswith(f"{merger}.")}
    merged = load_model(tmp_path / "merged").state_dict()
    assert parts
    assert report.replaced == report.replaced_changed == len(parts)
    assert all(torch.equal(merged[key], parts[key].bfloat16().float()) for key in parts)


def test_float32_base_is_rounded_once_and_said_so(
    bases: Callable[[str], Path], text_adapter: Path, tmp_path: Path
) -> None:
    exact = tmp_path / "exact"
    shutil.copytree(bases("qwen3"), exact)
    weights = {
        key: tensor.float() + 1e-4 * torch.randn_like(tensor.float())
        for key, tensor in load_file(exact / "model.safetensors").items()
    }
    save_file(weights, exact / "model.safetensors", metadata={"format": "pt"})
    report = fold(exact, text_adapter, "qwen3", tmp_path / "merged")
    written = load_file(tmp_path / "merged" / "model.safetensors")
    norm = "model.norm.weight"
    assert report.base_was_rounded
    assert report.dtype == "bfloat16"
    assert torch.equal(written[norm], weights[norm].bfloat16())
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


def test_model_dtype_float16_is_followed(
    bases: Callable[[str], Path], text_adapter: Path, tmp_path: Path
) -> None:
    report = fold(bases("qwen3"), text_adapter, "qwen3", tmp_path / "merged", dtype="float16")
    written = load_file(tmp_path / "merged" / "model.safetensors")
    assert report.dtype == "float16"
    assert {str(tensor.dtype) for tensor in written.values()} == {"torch.float16"}


def test_weight_beyond_float16_is_refused(
    bases: Callable[[str], Path], text_adapter: Path, tmp_path: Path
) -> None:
    wide = tmp_path / "wide"
    shutil.copytree(bases("qwen3"), wide)
    edit_tensor(wide / "model.safetensors", "model.norm.weight", lambda tensor: tensor + 1e5)
    with pytest.raises(StageError, match=r"model\.norm\.weight holds values .* float16"):
        fold(wide, text_adapter, "qwen3", tmp_path / "merged", dtype="float16")


def test_adapter_of_other_modules_is_refused(
    bases: Callable[[str], Path], text_adapter: Path, tmp_path: Path
) -> None:
    other = copied(text_adapter, tmp_path)
    rename_keys(other / "adapter_model.safetensors", "layers.0.", "layers.9.")
    edit_settings(other, target_modules=["q_proj"], layers_to_transform=[0])
    with pytest.raises(StageError, match="no place in") as caught:
        fold(bases("qwen3"), other, "qwen3", tmp_path / "merged")
    assert any("layers.9" in problem for problem in caught.value.problems)


def test_adapter_that_lacks_targeted_modules_is_refused(
    bases: Callable[[str], Path], text_adapter: Path, tmp_path: Path
) -> None:
    other = copied(text_adapter, tmp_path)
    path = other / "adapter_model.safetensors"
    tensors = {key: value for key, value in load_file(path).items() if "layers.1.mlp" not in key}
    save_file(tensors, path)
    with pytest.raises(StageError, match="lacks 3 of the modules"):
        fold(bases("qwen3"), other, "qwen3", tmp_path / "merged")


def test_truncated_weights_are_refused(
    bases: Callable[[str], Path], text_adapter: Path, tmp_path: Path
) -> None:
    other = copied(text_adapter, tmp_path)
    path = other / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(StageError, match="cannot be read as safetensors"):
        fold(bases("qwen3"), other, "qwen3", tmp_path / "merged")


def test_settings_of_another_training_are_refused(text_adapter: Path, tmp_path: Path) -> None:
    other = copied(text_adapter, tmp_path)
    edit_settings(other, r=16)
    with pytest.raises(StageError, match=r"has rank 4 \(A\) and 4 \(B\).*says 16"):
        read_adapter(other)


def test_nan_in_an_adapter_is_refused(text_adapter: Path, tmp_path: Path) -> None:
    other = copied(text_adapter, tmp_path)
    path = other / "adapter_model.safetensors"
    key = sorted(load_file(path))[0]
    edit_tensor(path, key, lambda tensor: tensor * float("nan"))
    with pytest.raises(StageError, match="not finite"):
        read_adapter(other)


def test_update_that_vanishes_is_refused(
    bases: Callable[[str], Path], text_adapter: Path, tmp_path: Path
) -> None:
    other = copied(text_adapter, tmp_path)
    path = other / "adapter_model.safetensors"
    key = next(key for key in load_file(path) if "layers.0.mlp.up_proj.lora_B" in key)
    edit_tensor(path, key, torch.zeros_like)
    with pytest.raises(StageError, match="13 tensors changed for 14 adapted modules") as caught:
        fold(bases("qwen3"), other, "qwen3", tmp_path / "merged")
    assert caught.value.problems == ("model.layers.0.mlp.up_proj.weight",)


@pytest.mark.parametrize(
    "setting",
    [
        {"use_qalora": True},
        {"bias": "lora_only"},
        {"peft_type": "IA3"},
        {"init_lora_weights": "pissa"},
        {"trainable_token_indices": [1]},
    ],
)
def test_unsupported_kind_of_adapter_is_refused_by_name(
    setting: dict[str, Any], text_adapter: Path, tmp_path: Path
) -> None:
    other = copied(text_adapter, tmp_path)
    edit_settings(other, **setting)
    with pytest.raises(StageError, match="cannot be folded") as caught:
        read_adapter(other)
    assert next(iter(setting)) in caught.value.problems[0]


def test_lost_shard_of_the_base_is_refused(tmp_path: Path, bases: Callable[[str], Path]) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases("qwen3"), base)
    index = {"weight_map": {"model.layers.9.lost.weight": "model-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(StageError, match=r"lacks 1 tensors.*model\.layers\.9\.lost"):
        Checkpoint(base)


def test_full_training_is_cast_and_counted(bases: Callable[[str], Path], tmp_path: Path) -> None:
    base, trained = bases("qwen2_5_vl"), tmp_path / "trained"
    model = load_model(base)
    with torch.no_grad():
        model.model.language_model.layers[0].mlp.up_proj.weight.add_(0.25)
    model.save_pretrained(trained)
    (tmp_path / "merged").mkdir()
    report = merge_full(
        Checkpoint(base),
        FAMILIES["qwen2_5_vl"],
        Checkpoint(trained),
        tmp_path / "merged",
    )
    assert (report.replaced_changed, report.adapted) == (1, 0)
    assert report.replaced == report.tensors
    assert Checkpoint(tmp_path / "merged").keys == Checkpoint(base).keys


def test_full_training_that_changed_nothing_is_refused(
    bases: Callable[[str], Path], tmp_path: Path
) -> None:
    base = Checkpoint(bases("qwen3"))
    (tmp_path / "merged").mkdir()
    with pytest.raises(StageError, match="nothing was learned"):
        merge_full(base, FAMILIES["qwen3"], base, tmp_path / "merged")


def test_model_folder_states_the_contract(bases: Callable[[str], Path], tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(bases("qwen2_5_vl"), base)
    (base / "pytorch_model.bin").write_bytes(b"pickle")
    (base / "README.md").write_text("the base's own card")
    (base / "chat_template.json").write_text(json.dumps({"chat_template": "other"}))
    target, contract = tmp_path / "model", models.contract_of("qwen2_5_vl")
    target.mkdir()
    copy_model_files(base, target, contract, dtype="bfloat16")
    read = {path.name: path.read_text(encoding="utf-8") for path in target.iterdir()}
    processor = json.loads(read["preprocessor_config.json"])
    generation = json.loads(read["generation_config.json"])
    assert {"pytorch_model.bin", "README.md"}.isdisjoint(read)
    assert read["chat_template.jinja"] == contract.chat_template
    assert json.loads(read["tokenizer_config.json"])["chat_template"] == contract.chat_template
    assert json.loads(read["chat_template.json"])["chat_template"] == contract.chat_template
    assert processor["max_pixels"] == processor["size"]["longest_edge"] == contract.max_pixels
    assert processor["min_pixels"] == contract.min_pixels
    assert json.loads(read["config.json"])["architectures"] == [
        "Qwen2_5_VLForConditionalGeneration"
    ]
    assert len(generation["eos_token_id"]) == len(set(generation["eos_token_id"])) == 2


def test_full_disk_is_told_by_its_own_error(
    bases: Callable[[str], Path], text_adapter: Path, small_disk: Path
) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        fold(bases("qwen3"), text_adapter, "qwen3", small_disk / "merged")
    assert caught.value.errno == errno.ENOSPC


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no small file system can be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
