"""Encoded samples laid out as one batch: padded rows, or one packed row."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from vlmpipe.encoding.encoder import IGNORED, Encoded
from vlmpipe.training.batching.positions import Positions


def pad_batch(encoded: Sequence[Encoded], pad_id: int) -> dict[str, Any]:
    """input_ids, attention_mask, labels, mm_token_type_ids [B, T]; pixel_values [P, ...] and
    image_grid_thw [N, 3] where there are images.
    """
    import torch

    length = max(len(each.input_ids) for each in encoded)

    def padded(rows: Sequence[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([row + [filler] * (length - len(row)) for row in rows])

    return {
        "input_ids": padded([each.input_ids for each in encoded], pad_id),
        "attention_mask": padded([[1] * len(each.input_ids) for each in encoded], 0),
        "labels": padded([each.labels for each in encoded], IGNORED),
        **_images(encoded, padded([each.image_mask for each in encoded], 0)),
    }


def pack_batch(encoded: Sequence[Encoded], positions: Positions) -> dict[str, Any]:
    """One row of all samples, T tokens together, S samples: input_ids, labels,
    mm_token_type_ids [1, T]; position_ids [4, 1, T] (text-only models: [1, T]), anew for each
    sample; cu_seq_lens_q and cu_seq_lens_k [S + 1], where samples begin and the last ends;
    max_length_q and max_length_k; images as in `pad_batch`.
    """
    import torch

    def joined(rows: Sequence[list[int]]) -> torch.Tensor:
        return torch.tensor([[token for row in rows for token in row]])

    lengths = [len(each.input_ids) for each in encoded]
    starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return {
        "input_ids": joined([each.input_ids for each in encoded]),
        "labels": joined([each.labels for each in encoded]),
        "position_ids": torch.cat([positions(each) for each in encoded], dim=-1),
        "cu_seq_lens_q": starts,
        "cu_seq_lens_k": starts,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        **_images(encoded, joined([each.image_mask for each in encoded])),
    }


def _images(encoded: Sequence[Encoded], type_ids: Any) -> dict[str, Any]:
    """Only where there are images: a text-only model's forward does not know the type ids."""
    import numpy as np
    import torch

    grids = [each.image_grid_thw for each in encoded if each.image_grid_thw is not None]
    pixels = [each.pixel_values for each in encoded if each.pixel_values is not None]
    images: dict[str, Any] = {}
    if grids:
        images["mm_token_type_ids"] = type_ids
        images["image_grid_thw"] = torch.from_numpy(np.concatenate(grids))
    if pixels:
        images["pixel_values"] = torch.from_numpy(np.concatenate(pixels))
    return images
