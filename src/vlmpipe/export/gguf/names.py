"""llama.cpp's names and shapes of a merged model's tensors."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from vlmpipe.errors import ArtifactError, StageError, ToolError
from vlmpipe.export.gguf.header import ARCHITECTURES
from vlmpipe.export.merging.weights import Checkpoint
from vlmpipe.models.families import Family, read_model_config
from vlmpipe.system.llama_cpp import LlamaCppSources
from vlmpipe.system.process import answer_of

NAMES_TIMEOUT_S = 120.0
MERGE_AGAIN = "merge again: `vlmpipe run-all --force merge` with the same options"
TOWER_MARK = "visual."
SPLITS_QKV = ("qwen2_vl", "qwen2_5_vl")
"""Families whose towers llama.cpp holds with q, k and v apart."""


def merged_shapes(model: Path) -> dict[str, tuple[int, ...]]:
    """Key to PyTorch shape of every tensor of a merged model, from the shards' headers alone.

    Raises:
        ArtifactError: when a shard is damaged or missing.
    """
    try:
        spans = Checkpoint(model).spans
    except StageError as exc:
        raise ArtifactError(exc.message, MERGE_AGAIN, problems=exc.problems) from exc
    return {key: span.shape for key, span in spans.items()}


def text_config(model: Path) -> dict[str, Any]:
    """The language model's part of config.json: a section of its own, or the whole of it."""
    config = read_model_config(model)
    return {**config, **config.get("text_config", {})}


def language_keys(shapes: Iterable[str]) -> list[str]:
    """The keys that do not belong to the tower."""
    return [key for key in shapes if TOWER_MARK not in key]


def gguf_names(
    keys: Iterable[str], model: Path, family: Family, sources: LlamaCppSources
) -> dict[str, str]:
    """Keys of the language model to llama.cpp's tensor names, by its own tensor map.

    Raises:
        ToolError: when the map knows no name for one of them.
    """
    child = Path(__file__).parent / "programs" / "child_names.py"
    blocks = str(text_config(model)["num_hidden_layers"])
    text = answer_of(
        [sys.executable, child, sources.folder, ARCHITECTURES[family.name], blocks, *keys],
        timeout_s=NAMES_TIMEOUT_S,
    )
    if text is None:
        raise ToolError(
            f"the tensor map of {sources.gguf_package} cannot be read",
            "convert with another llama.cpp checkout: convert.llama_cpp_dir=DIR",
        )
    found: dict[str, str | None] = json.loads(text)
    unknown = [key for key, name in found.items() if name is None]
    if unknown:
        raise ToolError(
            f"llama.cpp {sources.version} has no tensor for {len(unknown)} of {model}",
            "convert with another llama.cpp checkout: convert.llama_cpp_dir=DIR",
            problems=unknown[:5],
        )
    return {key: name for key, name in found.items() if name is not None}


def text_shapes(
    model: Path, family: Family, sources: LlamaCppSources
) -> dict[str, tuple[int, ...]]:
    """Name and shape (ggml's order) of every tensor that the text file must hold.

    A head that is tied to the embedding is there when the checkpoint stores it all the same, as
    that of Qwen3-0.6B does.
    """
    shapes = merged_shapes(model)
    names = gguf_names(language_keys(shapes), model, family, sources)
    return {name: tuple(reversed(shapes[key])) for key, name in names.items()}


def tower_sizes(model: Path, family: Family) -> Counter[int]:
    """Elements of a tensor to how many of that size the mmproj must hold.

    llama.cpp takes the three-dimensional patch embedding apart by time and, in the Qwen2 families,
    the joint projection by q, k and v.
    """
    sizes: Counter[int] = Counter()
    for key, shape in merged_shapes(model).items():
        if TOWER_MARK in key:
            parts = _parts(key, shape, family)
            sizes[prod(shape) // parts] += parts
    return sizes


def _parts(key: str, shape: tuple[int, ...], family: Family) -> int:
    if key.endswith("patch_embed.proj.weight"):
        return shape[2]
    return 3 if ".qkv." in key and family.name in SPLITS_QKV else 1
