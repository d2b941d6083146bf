"""What the vision tower hands to the language model, for one image or a batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmpipe.models.families import Family
from vlmpipe.models.wrapping import unwrapped
from vlmpipe.training.vision_cache.tower import tower_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ImageFeatures:
    """Features of one image; N image tokens of width H."""

    tokens: torch.Tensor
    """[N, H]: what takes the place of the image tokens' embeddings."""

    deepstack: tuple[torch.Tensor, ...] = ()
    """[N, H] for each level of Qwen3-VL's DeepStack, added after the first layers; else empty."""

    def cpu(self) -> ImageFeatures:
        """The same values in RAM."""
        return ImageFeatures(self.tokens.cpu(), tuple(level.cpu() for level in self.deepstack))


def compute_features(
    model: Any,
    pixel_values: torch.Tensor,
    grid_thw: torch.Tensor,
    autocast_dtype: torch.dtype | None = None,
) -> ImageFeatures:
    """The tower's output for one image, on the tower's device, without gradients.

    `pixel_values` [P, D] and `grid_thw` [1, 3] of one image alone: matrix products of another
    number of rows may round otherwise, and features would depend on what else is in a batch.
    `autocast_dtype` is the precision that the trainer casts to; None where it casts nothing. The
    model may be wrapped by PEFT, DDP or torch.compile.

    Raises:
        ValueError: for more than one image.
    """
    import torch

    if grid_thw.shape != (1, 3):
        raise ValueError(f"one image is asked for, grid_thw is of shape {tuple(grid_thw.shape)}")
    device = next(tower_of(model).parameters()).device
    with torch.no_grad(), autocast(device.type, autocast_dtype):
        outputs = unwrapped(model).get_image_features(
            pixel_values.to(device), grid_thw.to(device), return_dict=True
        )
    levels = getattr(outputs, "deepstack_features", None) or ()
    return ImageFeatures(
        torch.cat(tuple(outputs.pooler_output)), tuple(torch.cat(tuple(each)) for each in levels)
    )


def autocast(device_type: str, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """torch's autocast in that precision, as accelerate sets it around a forward pass."""
    import torch

    if dtype is None:
        return nullcontext()
    return torch.autocast(device_type=device_type, dtype=dtype)


def collate_features(
    features: Sequence[ImageFeatures],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Several images' features as image_features [G, H] and deepstack [L, G, H], None without
    DeepStack.
    """
    import torch

    tokens = torch.cat([each.tokens for each in features])
    levels = list(zip(*(each.deepstack for each in features), strict=True))
    if not levels:
        return tokens, None
    # Stacked afterwards, they would be copied twice.
    deepstack = levels[0][0].new_empty((len(levels), *tokens.shape))
    for level, target in zip(levels, deepstack, strict=True):
        torch.cat(level, out=target)
    return tokens, deepstack


def as_encoder_outputs(
    image_features: torch.Tensor,
    deepstack: torch.Tensor | None,
    image_grid_thw: torch.Tensor,
    family: Family,
) -> Any:
    """What `forward(mm_encoder_outputs={"image": ...})` of a family takes in place of pixels.

    `image_features` [G, H], `deepstack` [L, G, H] or None, `image_grid_thw` [N, 3].
    """
    import torch
    from transformers.modeling_outputs import BaseModelOutputWithPooling
    from transformers.models.qwen3_vl.modeling_qwen3_vl import (
        BaseModelOutputWithDeepstackFeatures,
    )

    sizes = (image_grid_thw.prod(-1) // family.merge_size**2).tolist()
    images = torch.split(image_features, sizes)
    if deepstack is None:
        return BaseModelOutputWithPooling(pooler_output=images)
    levels = [torch.split(level, sizes) for level in deepstack]
    return BaseModelOutputWithDeepstackFeatures(pooler_output=images, deepstack_features=levels)
