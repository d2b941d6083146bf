"""The model with the heads that teach it where to look; all are dropped in the end.

- slots: from an image token, which character stands in each of its slots;
- strokes: from an image token, which stroke of a drawing passes through each of its slots;
- own: from an image token in the language model's second layer, its own column and row: rotary
  embeddings tell distances only, and what is read next is a place;
- where: from the language model's last state, the column and row of the image token on which the
  next characters begin.

Trained from scratch without them, a model this small learns the language and never looks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear

from pretraining.batches import CLASSES, IGNORED, SLOTS, Batch
from pretraining.sketches import STROKES
from pretraining.tower import without_loops

EMPTY_WEIGHT = 0.15
"""Of an empty slot, in the loss: nine in ten are."""

WHERE_WEIGHT, OWN_WEIGHT, TOWER_WEIGHT, STROKES_WEIGHT = 0.4, 0.3, 1.0, 0.5
"""Of the heads' losses beside the reading's own."""

MOST = 32
"""Columns and rows of image tokens on a page, at most."""

OWN_LAYER = 2


class Reader(nn.Module):
    """A Qwen2.5-VL and its heads."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        without_loops(model.model.visual)
        width = model.config.text_config.hidden_size
        self.slots = nn.Linear(width, SLOTS * CLASSES)
        self.strokes = nn.Linear(width, SLOTS * STROKES)
        self.where = nn.Linear(width, 2 * MOST)
        self.own = nn.Linear(width, 2 * MOST)
        self.register_buffer("slot_weights", _weights(CLASSES))
        self.register_buffer("stroke_weights", _weights(STROKES))

    def tower_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The first lesson: name the characters and strokes under each image token."""
        return self._naming_losses(self._image_tokens(batch), batch)

    def reading_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The second lesson: write the page's text; `loss` is the sum of all."""
        images = self._image_tokens(batch)
        hidden, labels, where, seen = self._states(batch, images)
        head = self.model.lm_head.weight
        naming = self._naming_losses(images, batch)
        logits = linear(hidden, head)
        text = cross_entropy(logits.float(), labels)
        columns = int(batch.grid_thw[0, 2]) // 2
        looked = _place_loss(self.where(hidden), where, columns)
        own = _place_loss(self.own(seen), _own_places(batch), columns)
        heads = WHERE_WEIGHT * looked + OWN_WEIGHT * own + TOWER_WEIGHT * naming["loss"]
        return {
            "loss": text + heads,
            "text": text.detach(),
            "where": looked.detach(),
            "own": own.detach(),
            "named": naming["named"],
            "traced": naming["traced"],
            "correct": (logits.argmax(-1) == labels).float().mean().detach(),
        }

    def _image_tokens(self, batch: Batch) -> torch.Tensor:
        """[B × N, width]"""
        seen: torch.Tensor = self.model.model.visual(batch.pixels, grid_thw=batch.grid_thw)[1]
        return seen

    def _naming_losses(self, images: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        slots, named = _slot_loss(self.slots(images), batch.slots, self.slot_weights)
        strokes, traced = _slot_loss(self.strokes(images), batch.strokes, self.stroke_weights)
        loss = slots + STROKES_WEIGHT * strokes
        return {"loss": loss, "named": named, "traced": traced}

    def _states(
        self, batch: Batch, images: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """States that predict supervised tokens [S, width], those tokens [S], their places [S]; and
        the states of image tokens in an early layer [B × N, width].
        """
        inner = self.model.model
        ids, labels, where = batch.input_ids, batch.labels, batch.where
        is_image = ids == self.model.config.image_token_id
        embedded = inner.language_model.embed_tokens(ids)
        embedded = embedded.masked_scatter(is_image[..., None], images.to(embedded.dtype))
        positions, _ = inner.get_rope_index(
            ids, is_image.int(), batch.grid_thw, attention_mask=torch.ones_like(ids)
        )
        # Padding stands at the end and attention is causal: no mask is needed.
        output = inner.language_model(
            inputs_embeds=embedded,
            position_ids=positions,
            attention_mask=None,
            use_cache=False,
            output_hidden_states=True,
        )
        states, early = output.last_hidden_state[:, :-1], output.hidden_states[OWN_LAYER]
        supervised = labels[:, 1:] != IGNORED
        return (
            states[supervised],
            labels[:, 1:][supervised],
            where[:, 1:][supervised],
            early[is_image],
        )


def _weights(classes: int) -> torch.Tensor:
    weights = torch.ones(classes)
    weights[0] = EMPTY_WEIGHT
    return weights


def _slot_loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy, and the share of filled slots that are named rightly, nan where
    none is filled.
    """
    logits, labels = logits.float().view(-1, weights.numel()), labels.view(-1)
    right = logits.argmax(-1) == labels
    there = labels > 0
    share = right[there].float().mean()
    # Its mean over no slot would be no number, and spoil the sum of losses.
    total = cross_entropy(logits, labels, weight=weights, reduction="sum")
    counted = weights[labels.clamp(min=0)] * (labels != IGNORED)
    return total / counted.sum().clamp(min=1), share.detach()


def _own_places(batch: Batch) -> torch.Tensor:
    tokens = batch.slots.shape[0] // len(batch.pages)
    return torch.arange(tokens, device=batch.slots.device).repeat(len(batch.pages))


def _place_loss(logits: torch.Tensor, places: torch.Tensor, columns: int) -> torch.Tensor:
    """Cross entropy of column and of row; places are row-major, -100 for none."""
    column, row = logits.float().split(MOST, dim=-1)
    there = places != IGNORED
    at_column = torch.where(there, places % columns, IGNORED)
    at_row = torch.where(there, places // columns, IGNORED)
    return cross_entropy(column, at_column) + cross_entropy(row, at_row)
