"""Section `model`: which model, in what precision, with what limits on images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vlmpipe.config.base import Section


class ModelConfig(Section):
    """The base model."""

    id: str = Field("embedded:tiny", min_length=1)
    """A hub id (`Qwen/Qwen2.5-VL-3B-Instruct`), a local folder, or an embedded model
    (`embedded:tiny`, `embedded:tiny-text`, `embedded:random-<family>`)."""

    revision: str | None = None
    """Commit or tag of a hub id; unset takes the newest and records what it was."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision of the weights outside 4-bit. auto: bfloat16 where the device has it, float16 with
    loss scaling on a GPU without (V100)."""

    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention kernel; flash_attention_2 needs the flash-attn package."""

    min_pixels: int | None = Field(None, ge=28 * 28)
    """Images of fewer pixels are enlarged to this. Unset: the smallest that every runtime leaves
    alone (8 image tokens: llama.cpp enlarges anything smaller)."""

    max_pixels: int | None = Field(None, ge=28 * 28)
    """Images of more pixels are reduced to this, in training and in every engine. More pixels:
    finer print is readable, and memory and time grow in proportion. Unset: the curriculum's
    largest phase, or 1232x1792."""

    system_prompt: str | None = None
    """System message of every conversation, in training and serving alike. Unset: none at all
    (some chat templates would add their own)."""

    @model_validator(mode="after")
    def pixel_limits_are_ordered(self) -> ModelConfig:
        """min_pixels must not exceed max_pixels."""
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        return self
