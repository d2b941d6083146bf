"""Features by themselves are what the tower gives within the model, for every family."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from model_folders import VISION_MODELS, encoder_of, model_folder, picture
from training_runs import tiny_config
from vlmpipe.encoding.conversation import Message
from vlmpipe.errors import ConfigError
from vlmpipe.models.families import family_of
from vlmpipe.models.loading import load_model
from vlmpipe.training.adapter import make_trainable
from vlmpipe.training.vision_cache.features import (
    ImageFeatures,
    as_encoder_outputs,
    autocast,
    collate_features,
    compute_features,
)
from vlmpipe.training.vision_cache.tower import TowerPlace, refuse_trained_tower, tower_of

DTYPES = (None, torch.bfloat16)


@cache
def adapted(name: str, dtype: str = "float32") -> Any:
    """A model wrapped by PEFT."""
    folder = model_folder(name)
    model = load_model(folder, dtype=dtype)
    return make_trainable(model, family_of(folder), tiny_config(method="lora").train, 0).eval()


def inputs_of(name: str, *sizes: tuple[int, int]) -> tuple[dict[str, Any], torch.Tensor]:
    """A conversation over images of these sizes: ids and grid, and the pixels."""
    images = [picture(*size, seed=place) for place, size in enumerate(sizes)]
    encoded = encoder_of(name).encode_prompt([Message("user", (*images, "Read it."))])
    inputs = {
        "input_ids": torch.tensor([encoded.input_ids]),
        "mm_token_type_ids": torch.tensor([encoded.image_mask]),
        "image_grid_thw": torch.as_tensor(encoded.image_grid_thw),
    }
    return inputs, torch.as_tensor(encoded.pixel_values)


def features_of(model: Any, pixels: torch.Tensor, grids: torch.Tensor, dtype: Any) -> list[Any]:
    sizes = grids.prod(-1).tolist()
    return [
        compute_features(model, part, grid[None], dtype)
        for part, grid in zip(pixels.split(sizes), grids, strict=True)
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", VISION_MODELS)
def test_logits_over_features_are_those_over_pixels(name: str, dtype: Any) -> None:
    model, family = adapted(name), family_of(model_folder(name))
    inputs, pixels = inputs_of(name, (150, 110))
    batch = collate_features(features_of(model, pixels, inputs["image_grid_thw"], dtype))
    outputs = as_encoder_outputs(*batch, inputs["image_grid_thw"], family)
    with torch.no_grad(), autocast("cpu", dtype):
        live = model(**inputs, pixel_values=pixels).logits
        cached = model(**inputs, mm_encoder_outputs={"image": outputs}).logits
    assert torch.equal(live, cached)


@pytest.mark.parametrize("name", VISION_MODELS)
def test_several_images_go_to_their_own_places(name: str) -> None:
    model, family = adapted(name), family_of(model_folder(name))
    inputs, pixels = inputs_of(name, (150, 110), (90, 300), (60, 60))
    grids = inputs["image_grid_thw"]
    batch = collate_features(features_of(model, pixels, grids, None))
    outputs = as_encoder_outputs(*batch, grids, family)
    counts = (grids.prod(-1) // family.merge_size**2).tolist()
    assert [len(each) for each in outputs.pooler_output] == counts
    with torch.no_grad():
        live = model(**inputs, pixel_values=pixels).logits
        cached = model(**inputs, mm_encoder_outputs={"image": outputs}).logits
    torch.testing.assert_close(live, cached, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", VISION_MODELS)
def test_deepstack_is_qwen3_vls_alone(name: str) -> None:
    inputs, pixels = inputs_of(name, (150, 110))
    features = compute_features(adapted(name), pixels, inputs["image_grid_thw"])
    assert len(features.deepstack) == (3 if name == "random-qwen3_vl" else 0)
    assert not features.tokens.requires_grad
    assert all(level.shape == features.tokens.shape for level in features.deepstack)


def test_features_are_in_the_precision_that_the_trainer_computes_in() -> None:
    inputs, pixels = inputs_of("random-qwen2_5_vl", (150, 110))
    model, grid = adapted("random-qwen2_5_vl"), inputs["image_grid_thw"]
    assert compute_features(model, pixels, grid).tokens.dtype == torch.float32
    assert compute_features(model, pixels, grid, torch.bfloat16).tokens.dtype == torch.bfloat16


def test_the_tower_sees_one_image_at_a_time() -> None:
    inputs, pixels = inputs_of("random-qwen2_5_vl", (150, 110), (90, 90))
    with pytest.raises(ValueError, match="one image"):
        compute_features(adapted("random-qwen2_5_vl"), pixels, inputs["image_grid_thw"])


def test_levels_of_several_images_are_collated_level_by_level() -> None:
    one = ImageFeatures(torch.ones(2, 3), (torch.full((2, 3), 10.0), torch.full((2, 3), 20.0)))
    two = ImageFeatures(torch.zeros(1, 3), (torch.full((1, 3), 11.0), torch.full((1, 3), 21.0)))
    tokens, levels = collate_features([one, two])
    assert tokens[:, 0].tolist() == [1, 1, 0]
    assert levels is not None
    assert levels[:, :, 0].tolist() == [[10, 10, 11], [20, 20, 21]]


@pytest.mark.parametrize("part", ["merger", "last_blocks:1"])
def test_a_tower_that_is_trained_is_refused(part: str) -> None:
    folder = model_folder("random-qwen3_vl")
    config = tiny_config(method="lora", unfreeze=[part]).train
    model = make_trainable(load_model(folder), family_of(folder), config, 0)
    with pytest.raises(ConfigError, match="trains a part of it") as refusal:
        refuse_trained_tower(model, "disk")
    assert "train.unfreeze" in str(refusal.value)
    assert "train.vision_cache=off" in str(refusal.value)


def test_a_part_that_the_configuration_opens_is_refused_before_it_is_open() -> None:
    model = adapted("random-qwen3_vl")
    refuse_trained_tower(model, "disk")
    with pytest.raises(ConfigError, match=r"phase '896' .*merger"):
        refuse_trained_tower(model, "disk", ["merger"], "896")


def test_a_text_only_model_has_no_tower() -> None:
    with pytest.raises(ConfigError, match="no vision tower"):
        tower_of(load_model(model_folder("random-qwen3")))


def test_on_a_cpu_the_tower_stays_where_it_is() -> None:
    place = TowerPlace(adapted("random-qwen2_vl"))
    assert place.release() == 0
    with place.present():
        pass
    place.restore()


@pytest.mark.gpu
def test_a_released_tower_leaves_the_gpu_and_comes_back_bit_for_bit() -> None:
    model = load_model(model_folder("random-qwen3_vl"), dtype="bfloat16")
    before = {name: value.clone() for name, value in tower_of(model).named_parameters()}
    place = TowerPlace(model)
    assert place.release() == sum(value.numel() * 2 for value in before.values())
    assert {value.device.type for value in tower_of(model).parameters()} == {"cpu"}
    assert {value.device.type for value in tower_of(model).buffers()} <= {"cuda"}
    with place.present():
        after = dict(tower_of(model).named_parameters())
        assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {value.device.type for value in tower_of(model).parameters()} == {"cpu"}
