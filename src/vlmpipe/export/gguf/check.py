"""GGUF files held against the merged model that they were made of, before anything loads them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmpipe.encoding.contract import PreprocessContract
from vlmpipe.errors import ArtifactError
from vlmpipe.export.gguf.header import ARCHITECTURES, CONVERT_AGAIN, GgufHeader, check_header
from vlmpipe.export.gguf.names import text_config, text_shapes, tower_sizes
from vlmpipe.models.families import Family, read_model_config
from vlmpipe.system.llama_cpp import LlamaCppSources

PROJECTORS = {
    "qwen2_vl": "qwen2vl_merger",
    "qwen2_5_vl": "qwen2.5vl_merger",
    "qwen3_vl": "qwen3vl_merger",
}
"""Family to llama.cpp's name of what joins tower and language model."""

SHOWN = 8
"""Faults that an error lists."""

FLOAT_TOLERANCE = 1e-6
"""Relative: GGUF holds 32-bit floats."""


def check_text(
    path: Path,
    model: Path,
    family: Family,
    sources: LlamaCppSources,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> GgufHeader:
    """The header of a text file that agrees with the merged model, quantised or not.

    `shapes` is `text_shapes` of the model, where they are at hand.

    Raises:
        ArtifactError: naming each key, tensor or shape that differs, with both values.
    """
    header = check_header(path, family, sources, mmproj=False)
    faults = field_faults(header.fields, text_fields(model, family))
    faults += _shape_faults(header, shapes or text_shapes(model, family, sources))
    return _agreed(header, faults, path, model)


def check_mmproj(
    path: Path,
    model: Path,
    family: Family,
    sources: LlamaCppSources,
    contract: PreprocessContract | None = None,
) -> GgufHeader:
    """The header of an mmproj that agrees with the merged model and the preprocess contract.

    Raises:
        ArtifactError: naming each key or tensor size that differs, with both values.
    """
    header = check_header(path, family, sources, mmproj=True)
    faults = field_faults(header.fields, tower_fields(model, family, contract or family))
    faults += _size_faults(header, model, family)
    return _agreed(header, faults, path, model)


def text_fields(model: Path, family: Family) -> dict[str, Any]:
    """The keys that a text file must carry, with their values, by config.json."""
    config, arch = text_config(model), ARCHITECTURES[family.name]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    fields = {
        f"{arch}.block_count": config.get("num_hidden_layers"),
        f"{arch}.embedding_length": config.get("hidden_size"),
        f"{arch}.feed_forward_length": config.get("intermediate_size"),
        f"{arch}.attention.head_count": config.get("num_attention_heads"),
        f"{arch}.attention.head_count_kv": config.get("num_key_value_heads"),
        f"{arch}.attention.layer_norm_rms_epsilon": config.get("rms_norm_eps"),
        f"{arch}.context_length": config.get("max_position_embeddings"),
        f"{arch}.rope.freq_base": rope.get("rope_theta", config.get("rope_theta")),
        "tokenizer.ggml.tokens": {"length": config.get("vocab_size")},
    }
    fields["tokenizer.chat_template"] = _chat_template(model)
    return {name: value for name, value in fields.items() if value is not None}


def _chat_template(model: Path) -> str | None:
    """The template that the converter finds: tokenizer_config.json's before the file's own."""
    settings = model / "tokenizer_config.json"
    if settings.is_file():
        stated = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
        if stated is not None:
            return stated if isinstance(stated, str) else None  # a list has no one to compare
    path = model / "chat_template.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def tower_fields(
    model: Path, family: Family, optics: PreprocessContract | Family
) -> dict[str, Any]:
    """The keys that an mmproj must carry, by config.json and by what images were prepared with."""
    config = read_model_config(model)
    tower = config.get("vision_config", {})
    fields = {
        "clip.projector_type": PROJECTORS[family.name],
        "clip.vision.projection_dim": text_config(model).get("hidden_size"),
        "clip.vision.block_count": tower.get("depth"),
        "clip.vision.embedding_length": tower.get("embed_dim") or tower.get("hidden_size"),
        "clip.vision.attention.head_count": tower.get("num_heads"),
        "clip.vision.patch_size": optics.patch_size,
        "clip.vision.image_mean": list(optics.image_mean),
        "clip.vision.image_std": list(optics.image_std),
    }
    return {name: value for name, value in fields.items() if value is not None}


def field_faults(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """A line for each key whose value differs."""
    return [
        f"{name}: the file has {_shown(found.get(name))}, the merged model {_shown(value)}"
        for name, value in expected.items()
        if not _same(found.get(name), value)
    ]


def _shape_faults(header: GgufHeader, expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    found = header.shapes
    faults = [f"{name}: missing from the file" for name in expected if name not in found]
    faults += [f"{name}: not in the merged model" for name in found if name not in expected]
    faults += [
        f"{name}: the file has shape {list(found[name])}, the merged model {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if len(found) != len(expected):
        faults.insert(0, f"tensors: the file has {len(found)}, the merged model {len(expected)}")
    return faults


def _size_faults(header: GgufHeader, model: Path, family: Family) -> list[str]:
    found: dict[int, int] = {}
    for shape in header.shapes.values():
        found[math.prod(shape)] = found.get(math.prod(shape), 0) + 1
    expected = tower_sizes(model, family)
    return [
        f"tensors of {size} elements: the file has {found.get(size, 0)}, the merged model's tower"
        f" {expected[size]}"
        for size in sorted({*found, *expected})
        if found.get(size, 0) != expected[size]
    ]


def _agreed(header: GgufHeader, faults: list[str], path: Path, model: Path) -> GgufHeader:
    if not faults:
        return header
    more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    raise ArtifactError(
        f"{path} does not hold the model in {model}: {faults[0]}",
        CONVERT_AGAIN,
        problems=[*faults[:SHOWN], *more],
    )


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        same_length = isinstance(found, list) and len(found) == len(expected)
        return same_length and all(map(_same, found, expected))
    if isinstance(expected, float) and isinstance(found, int | float):
        return math.isclose(found, expected, rel_tol=FLOAT_TOLERANCE)
    return bool(found == expected)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}… ({len(text)} characters)"
