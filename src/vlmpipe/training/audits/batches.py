"""A batch as the model is given it: labels at their own places, image tokens for its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmpipe.encoding.encoder import IGNORED, Encoder
from vlmpipe.errors import StageError


def audit_batch(batch: Mapping[str, Any], encoder: Encoder, where: str) -> None:
    """Examine a collated batch, padded or packed, with pixels or with ready features.

    Raises:
        StageError: saying `where` it was, when a label is not the token at its own place, an image
            token or padding is supervised, or image tokens and images do not match.
    """
    fault = _label_fault(batch, encoder) or _image_fault(batch, encoder)
    if fault:
        raise StageError(
            f"the batch of {where} is wrong: {fault}",
            "this is a fault of the collator, not of the data",
        )


def _label_fault(batch: Mapping[str, Any], encoder: Encoder) -> str | None:
    ids, labels = batch["input_ids"], batch["labels"]
    supervised = labels != IGNORED
    if not bool((labels[supervised] == ids[supervised]).all()):
        return "a label is not the token at its own place"
    if any(bool((labels == token).any()) for token in encoder.vision_token_ids):
        return "an image token is supervised"
    if "attention_mask" in batch and bool(supervised[batch["attention_mask"] == 0].any()):
        return "padding is supervised"
    return None


def _image_fault(batch: Mapping[str, Any], encoder: Encoder) -> str | None:
    is_image = batch["input_ids"] == encoder.image_token_id
    tokens, grids = int(is_image.sum()), batch.get("image_grid_thw")
    wanted = 0 if grids is None else int(grids.prod(1).sum()) // encoder.contract.merge_size**2
    if tokens != wanted:
        return f"{tokens} image tokens, where its images have {wanted} features"
    features = batch.get("image_features")
    if features is not None and len(features) != wanted:
        return f"{len(features)} ready features for {wanted} image tokens"
    types = batch.get("mm_token_type_ids")
    if types is not None and not bool((types.bool() == is_image).all()):
        return "mm_token_type_ids do not mark the image tokens"
    return None
