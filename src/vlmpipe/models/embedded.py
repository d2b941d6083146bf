"""Embedded models: complete transformers folders made from nothing but this package.

`tiny` reads: its weights are shipped, made by `scripts/pretrain_embedded.py`, and described in
`data/tiny.md`. The others have random weights from a fixed seed: they have the shapes and names of
their families, train, merge, convert and serve as the real ones do, and cannot read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from vlmpipe.errors import ArtifactError, ConfigError
from vlmpipe.models.families import FAMILIES, Family
from vlmpipe.models.quiet import quiet_transformers
from vlmpipe.models.tokenizer import token_id, vocabulary_size, write_tokenizer

PREFIX = "embedded:"
SEED = 20260101
INITIALIZER_RANGE = 0.08
"""Weights drawn at transformers' 0.02 give logits so flat that rounding decides the top token."""


@dataclass(frozen=True)
class EmbeddedModel:
    """A recipe; the same recipe gives the same bytes."""

    family: str
    text: dict[str, Any]
    vision: dict[str, Any] | None
    tied: bool
    weights: str | None = None
    """File of shipped weights; without one they are random."""


def _text(layers: int, intermediate: int = 768, **extra: Any) -> dict[str, Any]:
    # K-quants work on rows of 256: hidden and intermediate sizes are multiples of it.
    return {
        "hidden_size": 256,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        **extra,
    }


_MROPE: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12]}}
# Qwen3-VL interleaves its sections, [24, 20, 20] in the real ones. Where the first is not the
# largest, llama.cpp leaves some frequencies without a position and departs from transformers.
_INTERLEAVED: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "default",
        "mrope_section": [12, 10, 10],
        # As published checkpoints say; transformers interleaves without it, vLLM does not.
        "mrope_interleaved": True,
    }
}
_QWEN3: dict[str, Any] = {"head_dim": 64}


def _vision_2_5(width: int) -> dict[str, Any]:
    return {
        "depth": 4,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_heads": 4,
        "out_hidden_size": 256,
        "window_size": 112,
        "fullatt_block_indexes": [1, 3],
    }


_VISION_2 = {"depth": 4, "embed_dim": 64, "hidden_size": 256, "mlp_ratio": 2, "num_heads": 4}
_VISION_3 = {
    "depth": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 4,
    "out_hidden_size": 256,
    "num_position_embeddings": 256,
    "deepstack_visual_indexes": [0, 1, 2],
}

EMBEDDED: dict[str, EmbeddedModel] = {
    "tiny": EmbeddedModel(
        "qwen2_5_vl",
        _text(4, intermediate=512, **_MROPE),
        _vision_2_5(192),
        tied=True,
        weights="tiny.safetensors",
    ),
    "tiny-text": EmbeddedModel("qwen3", _text(4, **_QWEN3), None, tied=False),
    "random-qwen2_vl": EmbeddedModel("qwen2_vl", _text(2, **_MROPE), _VISION_2, tied=True),
    "random-qwen2_5_vl": EmbeddedModel(
        "qwen2_5_vl", _text(2, **_MROPE), _vision_2_5(64), tied=False
    ),
    "random-qwen3_vl": EmbeddedModel(
        "qwen3_vl", _text(4, **_QWEN3, **_INTERLEAVED), _VISION_3, tied=False
    ),
    "random-qwen3": EmbeddedModel("qwen3", _text(2, **_QWEN3), None, tied=True),
}


def embedded_model(name: str) -> EmbeddedModel:
    """The recipe of that name.

    Raises:
        ConfigError: naming those that exist.
    """
    recipe = EMBEDDED.get(name)
    if recipe is None:
        known = ", ".join(f"{PREFIX}{each}" for each in EMBEDDED)
        raise ConfigError(
            f"model.id={PREFIX}{name}: no embedded model has that name",
            f"choose one with model.id=ID: {known}",
        )
    return recipe


def build_embedded(name: str, folder: Path) -> None:
    """Write the model's folder: configuration, bfloat16 weights, tokenizer, processor."""
    import torch

    recipe = embedded_model(name)
    family = FAMILIES[recipe.family]
    folder.mkdir(parents=True, exist_ok=True)
    model = untrained(name).to(torch.bfloat16)
    if recipe.weights:
        _load_shipped(model, recipe.weights)
    with quiet_transformers():
        model.save_pretrained(folder, max_shard_size="2GB")
    write_tokenizer(folder, family.chat_template)
    _write_json(folder / "generation_config.json", _generation_config())
    if family.has_vision:
        _write_json(folder / "preprocessor_config.json", preprocessor_config(family))


def untrained(name: str) -> Any:
    """The model in float32 with random weights, the same ones each time."""
    import torch

    recipe = embedded_model(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return _BUILDERS[recipe.family](recipe)


def _load_shipped(model: Any, name: str) -> None:
    """Fill the model from package data.

    Raises:
        ArtifactError: for a file that is not of this model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    path = Path(str(files("vlmpipe.models"))) / "data" / name
    try:
        load_model(model, path)
    except (OSError, RuntimeError, SafetensorError) as exc:
        raise ArtifactError(
            f"the shipped weights {path} are missing or damaged",
            "install the package again: make setup",
        ) from exc


def preprocessor_config(family: Family) -> dict[str, Any]:
    """What image processors of transformers, vLLM and llama.cpp's converter look for."""
    factor = family.grid_factor
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen3VLProcessor"
        if family.name == "qwen3_vl"
        else "Qwen2_5_VLProcessor",
        "patch_size": family.patch_size,
        "temporal_patch_size": family.temporal_patch_size,
        "merge_size": family.merge_size,
        "image_mean": list(family.image_mean),
        "image_std": list(family.image_std),
        "size": {"shortest_edge": 8 * factor**2, "longest_edge": 16384 * factor**2},
    }


def _generation_config() -> dict[str, Any]:
    ends = [token_id("<|im_end|>"), token_id("<|endoftext|>")]
    return {"do_sample": False, "eos_token_id": ends, "pad_token_id": token_id("<|endoftext|>")}


def _spread(recipe: EmbeddedModel) -> float:
    """Standard deviation of new weights: transformers' own for those that are to be trained."""
    return 0.02 if recipe.weights else INITIALIZER_RANGE


def _text_settings(recipe: EmbeddedModel) -> dict[str, Any]:
    return {
        **recipe.text,
        "vocab_size": vocabulary_size(),
        "bos_token_id": None,
        "eos_token_id": token_id("<|im_end|>"),
        "pad_token_id": token_id("<|endoftext|>"),
        "initializer_range": _spread(recipe),
        "tie_word_embeddings": recipe.tied,
    }


def _vision_settings(recipe: EmbeddedModel) -> dict[str, Any]:
    return {
        "image_token_id": token_id("<|image_pad|>"),
        "video_token_id": token_id("<|video_pad|>"),
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
        "vision_config": {**(recipe.vision or {}), "initializer_range": _spread(recipe)},
        "text_config": _text_settings(recipe),
        "tie_word_embeddings": recipe.tied,
    }


def _qwen2_vl(recipe: EmbeddedModel) -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(**_vision_settings(recipe)))


def _qwen2_5_vl(recipe: EmbeddedModel) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**_vision_settings(recipe)))


def _qwen3_vl(recipe: EmbeddedModel) -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(**_vision_settings(recipe)))


def _qwen3(recipe: EmbeddedModel) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**_text_settings(recipe)))


_BUILDERS: dict[str, Callable[[EmbeddedModel], Any]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3": _qwen3,
}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
