"""Attention in packed rows: the samples of a row cannot see each other.

Registered with transformers beside its own attention functions. Of a model only the language part
is switched to it; the tower keeps its own. Rows that are not packed are computed as by `sdpa`.
"""

from __future__ import annotations

from typing import Any

from vlmpipe.config import Config
from vlmpipe.errors import StageError
from vlmpipe.models.wrapping import unwrapped

PACKED_SDPA = "vlmpipe_packed_sdpa"


def packing_for(config: Config, model: Any) -> tuple[bool, str]:
    """Whether samples are packed in this training, and why.

    Raises:
        StageError: with `train.packing=on`, where the attention in use cannot keep samples apart.
    """
    if config.train.packing == "off":
        return False, "train.packing=off"
    obstacle = _obstacle(_decoder(model))
    if obstacle is None:
        return True, f"{_implementation(model)} attention keeps the samples of a row apart"
    if config.train.packing == "on":
        raise StageError(
            f"train.packing=on is not possible: {obstacle}",
            "let it be decided: train.packing=auto",
            "or choose an attention that can: model.attn_implementation=sdpa",
        )
    return False, obstacle


def install_packed_attention(model: Any) -> None:
    """Make a model, wrapped by PEFT or not, take packed rows; others are computed as before."""
    from transformers import AttentionInterface, AttentionMaskInterface

    decoder = _decoder(model)
    if decoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(PACKED_SDPA, packed_sdpa)
        AttentionMaskInterface.register(PACKED_SDPA, packed_mask)
        decoder.config._attn_implementation = PACKED_SDPA


def packed_mask(*, allow_is_causal_skip: bool = True, **kwargs: Any) -> Any:
    """transformers' mask for `sdpa`, or for a packed row an empty tensor that says so: a boolean
    T x T mask is what packing is to do without.
    """
    import torch
    from transformers.masking_utils import sdpa_mask

    square = kwargs["q_length"] == kwargs["kv_length"] > 1
    if kwargs.get("attention_mask") is None and square and not allow_is_causal_skip:
        # With no padding, transformers insists on a mask only where positions begin anew in a row.
        return torch.empty(0, dtype=torch.bool, device=kwargs.get("device"))
    return sdpa_mask(allow_is_causal_skip=allow_is_causal_skip, **kwargs)


def packed_sdpa(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Any = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Any, None]:
    """Causal attention within each sample; query [1, heads, T, D] to [1, T, heads, D].

    `cu_seq_lens_q` [S + 1] says where samples begin and the last ends. Without it: transformers'
    `sdpa`.

    Raises:
        ValueError: for a packed row that does not say where its samples begin.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if cu_seq_lens_q is None:
        if attention_mask is not None and not attention_mask.numel():
            raise ValueError("a packed row came without cu_seq_lens_q")
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if max_length_q is not None and not dropout and _has_varlen_kernel(query):
        return _varlen(query, key, value, scaling, cu_seq_lens_q, max_length_q), None
    lengths = cu_seq_lens_q.diff().tolist()
    samples = zip(*(each.split(lengths, dim=2) for each in (query, key, value)), strict=True)
    outputs = [
        sdpa_attention_forward(
            module, *sample, None, dropout=dropout, scaling=scaling, is_causal=True
        )[0]
        for sample in samples
    ]
    return torch.cat(outputs, dim=1), None


def _has_varlen_kernel(query: Any) -> bool:
    """Whether torch's own FlashAttention over samples of many lengths can take this."""
    import torch

    if query.device.type != "cuda" or _compute_dtype(query) not in (torch.bfloat16, torch.float16):
        return False
    if torch.version.hip or torch.cuda.get_device_capability(query.device) < (8, 0):
        return False
    return query.shape[-1] % 8 == 0 and query.shape[-1] <= 256 and _varlen_attn() is not None


def _varlen(
    query: Any, key: Any, value: Any, scaling: float | None, starts: Any, longest: int
) -> Any:
    dtype = _compute_dtype(query)
    rows = [each[0].transpose(0, 1).to(dtype) for each in (query, key, value)]
    grouped = query.shape[1] != key.shape[1]
    output = _varlen_attn()(
        *rows,
        starts,
        starts,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=grouped,
    )
    return output[None]


def _varlen_attn() -> Any:
    """None on a torch that does not have it yet."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def _compute_dtype(query: Any) -> Any:
    """What autocast makes of it: unlike SDPA, the varlen kernel is not known to autocast."""
    import torch

    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


def _decoder(model: Any) -> Any:
    return unwrapped(model).get_decoder()


def _implementation(model: Any) -> str:
    return str(_decoder(model).config._attn_implementation).replace(PACKED_SDPA, "sdpa")


def _obstacle(decoder: Any) -> str | None:
    """Why this model's attention cannot keep samples apart."""
    used = decoder.config._attn_implementation
    if used not in ("sdpa", PACKED_SDPA, "flash_attention_2"):
        return f"{used} attention cannot keep the samples of a row apart"
    layers = set(getattr(decoder.config, "layer_types", None) or ["full_attention"])
    if layers != {"full_attention"}:
        others = ", ".join(sorted(layers - {"full_attention"}))
        return f"the model has layers of {others}"
    return None
