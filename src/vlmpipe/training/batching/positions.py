"""Positions of one sample's tokens, by the family's own code, without its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlmpipe.encoding.encoder import Encoded

Positions = Callable[[Encoded], Any]
"""One sample of T tokens to its positions [4, 1, T] (text, temporal, vertical, horizontal), or
[1, T] for a model without vision."""


def positions_for(model: Any) -> Positions:
    """The positions that the model itself gives a sample that stands alone; `model` may be wrapped
    by PEFT. The weights are not held on to.
    """
    for module in model.modules():
        if hasattr(type(module), "get_rope_index"):
            return MropePositions(type(module), module.config)
    return text_positions


def text_positions(encoded: Encoded) -> Any:
    """[1, T]: 0 to T - 1."""
    import torch

    return torch.arange(len(encoded.input_ids))[None]


class MropePositions:
    """M-RoPE positions by `get_rope_index` of a family's model class."""

    def __init__(self, model_class: Any, config: Any) -> None:
        from torch import nn

        # Of the model it reads its configuration alone: an instance without any weights will do.
        self._bare = model_class.__new__(model_class)
        nn.Module.__init__(self._bare)
        self._bare.config = config

    def __call__(self, encoded: Encoded) -> Any:
        """[4, 1, T]: the text row, then the three of M-RoPE."""
        import torch

        text = text_positions(encoded)
        if encoded.image_grid_thw is None:
            return text.expand(4, 1, -1)
        rope, _ = self._bare.get_rope_index(
            torch.tensor([encoded.input_ids]),
            mm_token_type_ids=torch.tensor([encoded.image_mask]),
            image_grid_thw=torch.as_tensor(encoded.image_grid_thw),
        )
        return torch.cat([text[None], rope])
