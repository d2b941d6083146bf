"""The model with the heads that teach it where to look; all are dropped in the end.

- slots: from an image token, which character stands in each of its slots;
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
from pretraining.tower import without_loops

EMPTY_WEIGHT = 0.15
"""Of a slot without a character, in the loss: nine in ten are empty."""

WHERE_WEIGHT, OWN_WEIGHT, SLOTS_WEIGHT = 0.4, 0.3, 1.0
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
        self.where = nn.Linear(width, 2 * MOST)
        self.own = nn.Linear(width, 2 * MOST)
        weights = torch.ones(CLASSES)
        weights[0] = EMPTY_WEIGHT
        self.register_buffer("class_weights", weights)

    def tower_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The first lesson: name the characters under each image token."""
        return self._slot_losses(self._image_tokens(batch), batch)

    def reading_losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The second lesson: write the page's text; `loss` is the sum of all."""
        images = self._image_tokens(batch)
        hidden, labels, where, seen = self._states(batch, images)
        head = self.model.lm_head.weight
        losses = self._slot_losses(images, batch)
        logits = linear(hidden, head)
        text = cross_entropy(logits.float(), labels)
        columns = int(batch.grid_thw[0, 2]) // 2
        looked = _place_loss(self.where(hidden), where, columns)
        own = _place_loss(self.own(seen), _own_places(batch), columns)
        heads = WHERE_WEIGHT * looked + OWN_WEIGHT * own + SLOTS_WEIGHT * losses["loss"]
        return {
            "loss": text + heads,
            "text": text.detach(),
            "where": looked.detach(),
            "own": own.detach(),
            "slots": losses["loss"].detach(),
            "correct": (logits.argmax(-1) == labels).float().mean().detach(),
        }

    def _image_tokens(self, batch: Batch) -> torch.Tensor:
        """[B × N, width]"""
        seen: torch.Tensor = self.model.model.visual(batch.pixels, grid_thw=batch.grid_thw)[1]
        return seen

    def _slot_losses(self, images: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        logits = self.slots(images).float().view(-1, CLASSES)
        labels = batch.slots.view(-1)
        loss = cross_entropy(logits, labels, weight=self.class_weights)
        there = labels > 0
        named = (logits.argmax(-1) == labels)[there].float().mean()
        return {"loss": loss, "named": named.detach()}

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


def _own_places(batch: Batch) -> torch.Tensor:
    tokens = batch.slots.shape[0] // len(batch.pages)
    return torch.arange(tokens).repeat(len(batch.pages))


def _place_loss(logits: torch.Tensor, places: torch.Tensor, columns: int) -> torch.Tensor:
    """Cross entropy of column and of row; places are row-major, -100 for none."""
    column, row = logits.float().split(MOST, dim=-1)
    there = places != IGNORED
    at_column = torch.where(there, places % columns, IGNORED)
    at_row = torch.where(there, places // columns, IGNORED)
    return cross_entropy(column, at_column) + cross_entropy(row, at_row)
