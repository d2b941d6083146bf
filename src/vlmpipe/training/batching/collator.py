"""Samples to padded batches; encoded when they are needed, at their phase's image size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlmpipe.config.train import LossScope
from vlmpipe.encoding.conversation import Sample
from vlmpipe.encoding.encoder import IGNORED, Encoded, Encoder
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.training.augment import KernelLot


class SampleCollator:
    """Turns rows `{"sample": index, "grid": index}` into one batch of tensors."""

    def __init__(
        self,
        samples: Sequence[Sample],
        encoder: Encoder,
        scope: LossScope,
        grids: Sequence[ImageGrid],
        lot: KernelLot | None = None,
    ) -> None:
        self._samples = samples
        self.tokenizer = encoder.tokenizer
        self._encoder = encoder
        self._scope = scope
        self._grids = grids
        self._lot = lot

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, Any]:
        """Batch of B samples padded on the right to T tokens; P patches, N images in all."""
        encoded = [self._encode(row) for row in rows]
        return pad_batch(encoded, self._encoder.tokenizer.pad_token_id)

    def _encode(self, row: dict[str, int]) -> Encoded:
        sample = self._samples[row["sample"]]
        grid, lot = self._grids[row["grid"]], self._lot
        places = range(len(sample.images))
        kernels = (
            [lot.draw(sample.id, row["grid"], lot.epoch, place) for place in places] if lot else ()
        )
        return self._encoder.encode_sample(sample.messages, self._scope, grid, kernels)


def pad_batch(encoded: Sequence[Encoded], pad_id: int) -> dict[str, Any]:
    """input_ids, attention_mask, labels, mm_token_type_ids [B, T]; pixel_values [P, ...] and
    image_grid_thw [N, 3] where there are images.
    """
    import numpy as np
    import torch

    length = max(len(each.input_ids) for each in encoded)

    def padded(rows: Sequence[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([row + [filler] * (length - len(row)) for row in rows])

    batch: dict[str, Any] = {
        "input_ids": padded([each.input_ids for each in encoded], pad_id),
        "attention_mask": padded([[1] * len(each.input_ids) for each in encoded], 0),
        "labels": padded([each.labels for each in encoded], IGNORED),
    }
    pixels = [each.pixel_values for each in encoded if each.pixel_values is not None]
    grids = [each.image_grid_thw for each in encoded if each.image_grid_thw is not None]
    if pixels:
        # Only with images: a text-only model's forward does not know the type ids.
        batch["mm_token_type_ids"] = padded([each.image_mask for each in encoded], 0)
        batch["pixel_values"] = torch.from_numpy(np.concatenate(pixels))
        batch["image_grid_thw"] = torch.from_numpy(np.concatenate(grids))
    return batch
