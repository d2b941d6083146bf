"""The vision tower without its Python loops: chunks of equal length attend in one call.

transformers calls attention once for each image and window, 27 times slower than once for all on a
CPU when windows are this small. The result is the same; `tests/test_pretraining.py` compares them.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision


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
        for places in _chunks(tuple(cu_seqlens.tolist())):
            parts = (each[places].transpose(1, 2) for each in (query, key, value))
            attended = scaled_dot_product_attention(*parts, scale=module.scaling)
            mixed = mixed.index_put((places,), attended.transpose(1, 2))
        return module.proj(mixed.reshape(tokens, -1))


@lru_cache(maxsize=512)
def _chunks(edges: tuple[int, ...]) -> list[torch.Tensor]:
    """Token indices [chunks, length], one tensor for each length that occurs."""
    by_length: dict[int, list[range]] = {}
    for start, end in itertools.pairwise(edges):
        by_length.setdefault(end - start, []).append(range(start, end))
    return [torch.tensor([list(r) for r in ranges]) for ranges in by_length.values()]
