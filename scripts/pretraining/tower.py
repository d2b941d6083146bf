"""The same model, faster on a CPU: the tower without Python loops, small operations fused.

transformers calls attention once for each image and window; here chunks of equal length attend in
one call. The result is the same; `tests/test_pretraining.py` compares them.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import linear
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

FUSED = ("RMSNorm", "MLP", "PatchMerger")
"""Ends of the names of modules that are compiled, each by itself: images of any size fit them."""


def fused(model: Any) -> None:
    """Compile norms and feed-forward layers; takes a minute at the first step."""
    for module in model.modules():
        if type(module).__name__.endswith(FUSED):
            module.forward = torch.compile(module.forward, dynamic=True)


def without_loops(visual: Any) -> None:
    """Replace the forward of every attention, and of the patch embedding, in this tower."""
    embed = visual.patch_embed
    embed.forward = lambda pixels: linear(pixels, embed.proj.weight.flatten(1))
    for block in visual.blocks:
        block.attn.forward = _Attention(block.attn)


class _Attention:
    """What `Qwen2_5_VLVisionAttention.forward` computes."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(
        self,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **_: Any,
    ) -> torch.Tensor:
        module = self.module
        tokens = hidden_states.shape[0]
        qkv = module.qkv(hidden_states).reshape(tokens, 3, module.num_heads, -1)
        query, key, value = qkv.unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        query, key = query.to(value.dtype), key.to(value.dtype)
        mixed = torch.empty_like(value)
        for places in _chunks(tuple(cu_seqlens.tolist()), value.device):
            parts = (each[places].transpose(1, 2) for each in (query, key, value))
            attended = _attended(*parts, module.scaling)
            mixed = mixed.index_put((places,), attended.transpose(1, 2))
        return module.proj(mixed.reshape(tokens, -1))


def _attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention written out: for chunks this short, faster than the fused kernel."""
    weights = (query * scale @ key.transpose(-1, -2)).float().softmax(-1)
    return weights.to(value.dtype) @ value


@lru_cache(maxsize=512)
def _chunks(edges: tuple[int, ...], device: torch.device) -> list[torch.Tensor]:
    """Token indices [chunks, length], one tensor for each length that occurs."""
    by_length: dict[int, list[range]] = {}
    for start, end in itertools.pairwise(edges):
        by_length.setdefault(end - start, []).append(range(start, end))
    return [torch.tensor([list(r) for r in ranges], device=device) for ranges in by_length.values()]
