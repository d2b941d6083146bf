"""A base checkpoint of a chosen size with random weights, and an adapter for it, written cheaply.

The shape is Qwen2.5-VL-3B's with as many language layers as fill the size; under 4 GB a narrower
one.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlmpipe.models.checkpoint_keys import candidate_keys
from vlmpipe.models.families import FAMILIES

FAMILY = FAMILIES["qwen2_5_vl"]
RANK, ALPHA = 16, 32
WIDE = {"hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16,
        "num_key_value_heads": 2, "vocab_size": 151936}  # fmt: skip
NARROW = {"hidden_size": 1024, "intermediate_size": 5504, "num_attention_heads": 8,
          "num_key_value_heads": 2, "vocab_size": 32000}  # fmt: skip
TOWER = {"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "depth": 32}
NARROW_TOWER = {"hidden_size": 320, "intermediate_size": 855, "num_heads": 4, "depth": 4}
SHARDS = 4
NOISE_VALUES = 1 << 25
STD = 0.02


def write_checkpoint(folder: Path, gigabytes: float) -> None:
    """config.json and bfloat16 shards with an index, in the layout that the hub has."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = model_config(gigabytes)
    config.save_pretrained(folder)
    shapes = parameter_shapes(config)
    limit = sum(map(math.prod, shapes.values())) * 2 / SHARDS
    places: dict[str, str] = {}
    for number, names in enumerate(_parts(shapes, limit), 1):
        shard = f"model-{number:05d}-of-{SHARDS:05d}.safetensors"
        tensors = {_key(name): _values(_key(name), shapes[name]) for name in names}
        save_file(tensors, folder / shard, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, shard)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_adapter(base: Path, folder: Path) -> int:
    """A PEFT adapter on every linear layer of the language model; how many there are."""
    from peft import LoraConfig
    from safetensors.torch import save_file
    from transformers import AutoConfig

    pattern = FAMILY.lora_pattern("all")
    LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=pattern, task_type="CAUSAL_LM"
    ).save_pretrained(str(folder))
    tensors: dict[str, Any] = {}
    for name, shape in parameter_shapes(AutoConfig.from_pretrained(base)).items():
        module = name.removesuffix(".weight")
        if _is_adapted(pattern, name, module):
            own = f"base_model.model.{module}.lora_"
            tensors[f"{own}A.weight"] = _values(f"{own}A", (RANK, shape[1])).float()
            tensors[f"{own}B.weight"] = _values(f"{own}B", (shape[0], RANK)).float()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return len(tensors) // 2


def model_config(gigabytes: float) -> Any:
    """The configuration with the fewest language layers that reach the size in bfloat16."""
    layers = 1
    while _bytes(_config(gigabytes, layers)) < gigabytes * 1e9:
        layers += 1
    return _config(gigabytes, layers)


def parameter_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Parameters as transformers names them; a tied head is not stored."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def _is_adapted(pattern: str, name: str, module: str) -> bool:
    return name.endswith(".weight") and re.match(pattern, module) is not None


def _config(gigabytes: float, layers: int) -> Any:
    from transformers import Qwen2_5_VLConfig

    shape = WIDE if gigabytes >= 4 else NARROW
    text = {**shape, "num_hidden_layers": layers, "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24]}}  # fmt: skip
    vision = {
        **(TOWER if gigabytes >= 4 else NARROW_TOWER),
        "out_hidden_size": shape["hidden_size"],
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        architectures=[FAMILY.architecture],
        dtype="bfloat16",
        bos_token_id=0,
        eos_token_id=0,
    )


def _bytes(config: Any) -> int:
    return sum(2 * math.prod(shape) for shape in parameter_shapes(config).values())


def _parts(shapes: dict[str, tuple[int, ...]], limit: float) -> Iterator[list[str]]:
    """Names in `SHARDS` groups of about `limit` bytes."""
    part: list[str] = []
    size, left = 0, SHARDS
    for name, shape in shapes.items():
        if size >= limit and left > 1:
            yield part
            part, size, left = [], 0, left - 1
        part.append(name)
        size += 2 * math.prod(shape)
    yield part


def _key(name: str) -> str:
    return candidate_keys(FAMILY, name)[-1]


_noise: list[Any] = []


def _values(key: str, shape: tuple[int, ...]) -> Any:
    """Normal values, cut from one long draw at a place that depends on the name."""
    import torch

    if not _noise:
        draw = torch.randn(NOISE_VALUES, generator=torch.Generator().manual_seed(1))
        _noise.append((draw * STD).bfloat16())
    count, start = math.prod(shape), zlib.crc32(key.encode()) % NOISE_VALUES
    repeats = -(-(start + count) // NOISE_VALUES)
    return _noise[0].repeat(repeats)[start : start + count].reshape(shape).clone()
