"""The census: refuses a model whose precision or trained parameters are not those asked for."""

from __future__ import annotations

from typing import Any

import pytest

from model_folders import RANDOM_MODELS, VISION_MODELS, model_folder
from training_runs import base_of, tiny_config
from vlmpipe.errors import ConfigError, StageError
from vlmpipe.models.families import Family, family_of
from vlmpipe.models.loading import load_model
from vlmpipe.training.adapter import make_trainable
from vlmpipe.training.audits.census import lora_layers, refuse_misquantized, take_census
from vlmpipe.training.run import load_trainable


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_qlora_puts_every_language_layer_in_4_bit_and_nothing_else(name: str) -> None:
    _, census = load_trainable(tiny_config(method="qlora"), base_of(name), "float32")
    layers = 4 if "qwen3_vl" in name else 2
    assert census.quantized_linears == 7 * layers
    assert census.adapted_linears == 7 * layers
    assert census.trained_tensors == 14 * layers
    assert census.trained_dtypes == ("torch.float32",)


@pytest.mark.parametrize("variant", ["rslora", "dora"])
def test_the_census_knows_the_weights_of_loras_variants(variant: str) -> None:
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, variant: True}
    _, census = load_trainable(
        tiny_config(method="lora", lora=lora), base_of("random-qwen3"), "float32"
    )
    assert census.trained_tensors == (42 if variant == "dora" else 28)


def test_lora_leaves_everything_in_16_bit() -> None:
    _, census = load_trainable(tiny_config(method="lora"), base_of("random-qwen3"), "bfloat16")
    assert census.quantized_linears == 0
    assert census.adapted_linears == 14


def test_targets_choose_the_projections() -> None:
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": "attention"}
    _, census = load_trainable(
        tiny_config(method="lora", lora=lora), base_of("random-qwen2_5_vl"), "float32"
    )
    assert census.adapted_linears == 2 * 4


@pytest.mark.parametrize("name", VISION_MODELS)
def test_a_vision_tower_in_4_bit_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`visual` without its full path is what bitsandbytes matches against nothing."""
    wrong = property(lambda self: ["visual", "lm_head"])
    monkeypatch.setattr(Family, "unquantized_modules", wrong)
    with pytest.raises(StageError, match=r"weights are not in the precision") as caught:
        load_trainable(tiny_config(method="qlora"), base_of(name), "float32")
    assert all(
        problem.startswith("model.visual.") and problem.endswith(" is held in nf4")
        for problem in caught.value.problems
    )


def test_a_tower_in_8_bit_is_refused_too() -> None:
    import torch

    config, folder = tiny_config(method="lora"), model_folder("random-qwen2_5_vl")
    model = load_model(folder)
    attention = model.model.visual.blocks[0].attn.qkv
    held = torch.nn.Parameter(attention.weight.detach().to(torch.int8), requires_grad=False)
    attention.weight = held
    with pytest.raises(StageError, match="1 weights are not in the precision") as caught:
        refuse_misquantized(model, family_of(folder), config.train)
    assert caught.value.problems == ("model.visual.blocks.0.attn.qkv.weight is held in int8",)


def test_another_4_bit_type_than_the_one_asked_for_is_refused() -> None:
    config, folder = tiny_config(method="qlora"), model_folder("random-qwen3")
    asked = tiny_config(method="qlora", quantization={"type": "fp4"})
    model = load_model(folder, quantization=config.train.quantization)
    with pytest.raises(StageError) as caught:
        refuse_misquantized(model, family_of(folder), asked.train)
    assert caught.value.problems[0].endswith("is held in nf4, not in fp4")


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_every_weight_is_counted_once_in_its_part_and_precision(name: str) -> None:
    model, census = load_trainable(tiny_config(method="qlora"), base_of(name), "bfloat16")
    rows = {(row.part, row.dtype): row for row in census.dtypes}
    assert sum(row.parameters for row in census.dtypes) == census.total_parameters
    assert sum(row.trained for row in census.dtypes) == census.trained_parameters
    assert sum(row.tensors for row in census.dtypes) == len(list(model.parameters()))
    assert not any(part == "rest" for part, _ in rows)
    assert [part for part, dtype in rows if dtype == "nf4"] == ["language layers"]
    assert rows["language layers", "nf4"].tensors == census.quantized_linears
    assert rows["norms", "bfloat16"].trained == 0
    assert rows["adapter", "float32"].trained == census.trained_parameters
    parts = {part for part, _ in rows}
    assert parts >= {"norms", "embeddings", "adapter"}
    assert (parts >= {"tower", "merger"}) is (name in VISION_MODELS)


def test_opened_parts_of_the_tower_are_counted_apart() -> None:
    config = tiny_config(method="lora", unfreeze=["merger"])
    _, census = load_trainable(config, base_of("random-qwen2_5_vl"), "float32")
    trained = {row.part: row.trained for row in census.dtypes if row.trained}
    assert set(trained) == {"adapter", "opened"}
    assert trained["opened"] == next(r.parameters for r in census.dtypes if r.part == "merger")


@pytest.mark.parametrize("targets", ["all", "attention", "ffn"])
def test_targets_are_resolved_to_full_names_and_counted_by_layer(targets: str) -> None:
    lora = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": targets}
    config = tiny_config(method="lora", lora=lora)
    _, census = load_trainable(config, base_of("random-qwen3_vl"), "float32")
    assert census.targets is not None
    per_layer = {"all": 7, "attention": 4, "ffn": 3}[targets]
    assert census.targets.per_layer == (per_layer,) * 4
    assert len(census.targets.names) == 4 * per_layer
    assert all(name.startswith("model.language_model.layers.") for name in census.targets.names)
    assert census.as_json()["targets"]["per_layer"] == (per_layer,) * 4


def test_lora_under_the_tower_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2.5-VL's tower has a gate_proj too: PEFT takes it where only the last name is given."""
    monkeypatch.setattr(Family, "lora_pattern", lambda self, targets: r"^.*\.(gate_proj|up_proj)$")
    with pytest.raises(StageError, match="8 modules outside the language model's") as caught:
        load_trainable(tiny_config(method="lora"), base_of("random-qwen2_5_vl"), "float32")
    assert caught.value.problems[0] == "model.visual.blocks.0.mlp.gate_proj"


def test_a_layer_with_fewer_adapted_modules_than_its_siblings_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Family.lora_pattern

    def gap(self: Family, targets: Any) -> str:
        return r"^(?!.*layers\.1\..*gate_proj)" + whole(self, targets).removeprefix("^")

    monkeypatch.setattr(Family, "lora_pattern", gap)
    with pytest.raises(StageError, match=r"1 of 2 layers are not adapted") as caught:
        load_trainable(tiny_config(method="lora"), base_of("random-qwen2_5_vl"), "float32")
    assert caught.value.problems == (
        "layer 1 has 6 adapted modules where most have 7: gate_proj not among them",
    )


def lora_model(name: str) -> tuple[Any, Any, list[str]]:
    folder, config = model_folder(name), tiny_config(method="lora")
    model, family = load_model(folder), family_of(folder)
    layers = lora_layers(model, family, config.train)
    return make_trainable(model, family, config.train, 0), config, layers


def test_a_trained_tower_weight_is_refused_by_name() -> None:
    model, config, layers = lora_model("random-qwen2_5_vl")
    name = "base_model.model.model.visual.merger.mlp.0.weight"
    dict(model.named_parameters())[name].requires_grad_(True)
    with pytest.raises(StageError, match="1 parameters") as caught:
        take_census(model, family_of(model_folder("random-qwen2_5_vl")), config.train, layers, 0)
    assert caught.value.problems == (f"{name} is trained and must not be",)


def test_a_frozen_adapter_weight_is_refused_by_name() -> None:
    model, config, layers = lora_model("random-qwen3")
    name = f"base_model.model.{layers[0]}.lora_B.default.weight"
    dict(model.named_parameters())[name].requires_grad_(False)
    with pytest.raises(StageError) as caught:
        take_census(model, family_of(model_folder("random-qwen3")), config.train, layers, 0)
    assert caught.value.problems == (f"{name} is not trained",)


def test_a_quantised_language_layer_under_lora_is_refused() -> None:
    config, folder = tiny_config(method="lora"), model_folder("random-qwen3")
    model = load_model(folder, quantization=config.train.quantization)
    with pytest.raises(StageError, match=r"train\.method=lora"):
        refuse_misquantized(model, family_of(folder), config.train)


def test_unfreeze_opens_exactly_the_named_parts() -> None:
    config = tiny_config(method="lora", unfreeze=["merger", "last_blocks:1"])
    model, census = load_trainable(config, base_of("random-qwen2_5_vl"), "float32")
    assert census.unfrozen == ("model.visual.merger", "model.visual.blocks.3")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    tower = {name for name in trained if "visual" in name}
    assert tower
    assert all("merger" in name or "blocks.3." in name for name in tower)


def test_unfreeze_of_a_text_model_or_of_too_many_blocks_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="has no vision tower"):
        load_trainable(tiny_config(unfreeze=["merger"]), base_of("random-qwen3"), "float32")
    with pytest.raises(ConfigError, match="the tower has 4 blocks"):
        load_trainable(
            tiny_config(unfreeze=["last_blocks:9"]), base_of("random-qwen2_5_vl"), "float32"
        )


def test_full_training_opens_the_language_model_and_leaves_the_tower_frozen() -> None:
    model, census = load_trainable(
        tiny_config(method="full"), base_of("random-qwen2_5_vl"), "float32"
    )
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith("model.visual.") for name in frozen)
    assert (
        census.trained_parameters
        + sum(p.numel() for n, p in model.named_parameters() if n in frozen)
        == census.total_parameters
    )
