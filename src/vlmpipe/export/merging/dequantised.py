"""What a 4-bit base really held: its 16-bit weights through bitsandbytes and back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from vlmpipe.config.train import QuantizationSection
from vlmpipe.export.merging.fold import Original, Rows
from vlmpipe.export.merging.safetensors_stream import StoredTensor, TensorSpan
from vlmpipe.models.checkpoint_keys import parameter_name
from vlmpipe.models.families import Family
from vlmpipe.models.loading import best_device


def four_bit_keys(spans: Iterable[TensorSpan], family: Family) -> frozenset[str]:
    """Keys of the tensors that QLoRA holds in 4-bit: the language blocks' linear layers.

    Tower, merger, embeddings and head stay in 16 bit, as the training's census makes sure.
    """
    blocks = re.compile(rf"{family.layer_pattern}\..+\.weight")
    return frozenset(
        span.key
        for span in spans
        if len(span.shape) == 2 and blocks.fullmatch(parameter_name(family, span.key))
    )


def dequantised(weight: Any, section: QuantizationSection, dtype: str) -> Any:
    """The values that bitsandbytes multiplies with when it was given this weight to hold.

    `dtype` is the precision that the model was loaded in: the weight is cast to it, quantised as
    `Params4bit` does (blocks of 64 values; their scales in blocks of 256), and dequantised to it.
    On the device that models are loaded on, whose kernel decides ties.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    held = weight.to(best_device(), getattr(torch, dtype)).contiguous()
    packed, state = quantize_4bit(
        held, blocksize=64, compress_statistics=section.double_quant, quant_type=section.type
    )
    return dequantize_4bit(packed, state).to(weight.device)


def through_four_bits(section: QuantizationSection, dtype: str) -> Original:
    """The base's tensor as `dequantised` gives it. The scales need the whole of it at once."""

    def original(stored: StoredTensor) -> Rows:
        matrix = dequantised(stored.rows(0, stored.span.rows), section, dtype)
        return lambda begin, end: matrix[begin:end]

    return original
