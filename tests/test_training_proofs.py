"""The census: refuses a model whose precision or trained parameters are not those asked for."""

from __future__ import annotations

from typing import Any

import pytest

from model_folders import RANDOM_MODELS, VISION_MODELS, model_folder
from training_runs import base_of, tiny_config
from vlmpipe.errors import ConfigError, StageError
from vlmpipe.models.families import family_of
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
    from vlmpipe.models.families import Family

    wrong = property(lambda self: ["visual", "lm_head"])
    monkeypatch.setattr(Family, "unquantized_modules", wrong)
    with pytest.raises(StageError, match=r"layers are not in the precision") as caught:
        load_trainable(tiny_config(method="qlora"), base_of(name), "float32")
    assert any(
        "visual" in problem and "is in 4-bit" in problem for problem in caught.value.problems
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
