"""Floating-point operations of a training step, counted from the model's own layers.

A linear layer of N weights takes 2N FLOPs a token forward, 2N for the gradient of its input and 2N
for that of its weights (Kaplan et al. 2020, arXiv 2001.08361, table 1; a multiply-add is two).
Full training thus takes 6N a token. Under LoRA the base weights get no gradient: 4N, and 6n for
the n weights of the adapter itself. Causal attention over a segment of L tokens with D = heads x
head size takes 2 L^2 D forward, half of the square's 4 L^2 D, and twice that backward (PaLM, arXiv
2204.02311, appendix B). The head is counted for supervised positions alone, the tower only when it
runs, and the gradient of the first layer's input is counted though LoRA may not need it.

Model FLOPs are what the mathematics needs: no padding, no recomputation. Hardware FLOPs add what
gradient checkpointing computes twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from vlmpipe.models.families import Family

WRAPPINGS = re.compile(
    r"^(_orig_mod\.|module\.)*(base_model\.model\.)?|modules_to_save\.default\.|\.base_layer$"
)
UNUSED = ("original_module",)
"""What PEFT keeps of a module that it trains a copy of."""


@dataclass(frozen=True)
class Cost:
    """FLOPs for one unit of work."""

    forward: float = 0.0
    backward: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forward + other.forward, self.backward + other.backward)

    @property
    def both(self) -> float:
        """Of a training step."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Work:
    """What the micro-batches of a step hold, padding and muted rows left out."""

    samples: int = 0
    tokens: int = 0
    token_pairs: int = 0
    """Sum over samples of the square of their length."""

    supervised: int = 0
    """Positions that carry loss."""

    patches: int = 0
    """Of images that the tower ran on; 0 where its output came from a cache."""

    patch_pairs: int = 0
    """Sum over those images of the square of their patches."""

    window_pairs: int = 0
    """The same within the windows of windowed attention."""


WORK_FIELDS = tuple(field.name for field in fields(Work))


@dataclass(frozen=True)
class ModelFlops:
    """What each kind of work costs in one model, as it is trained."""

    token: Cost
    token_pair: Cost
    supervised: Cost
    patch: Cost
    patch_pair: Cost
    window_pair: Cost
    checkpointed: bool
    """Whether the language layers are computed once more in the backward pass."""

    def model(self, work: Work) -> float:
        """FLOPs that the step needs."""
        return (
            self.token.both * work.tokens
            + self.token_pair.both * work.token_pairs
            + self.supervised.both * work.supervised
            + self.patch.both * work.patches
            + self.patch_pair.both * work.patch_pairs
            + self.window_pair.both * work.window_pairs
        )

    def hardware(self, work: Work) -> float:
        """FLOPs that the step takes, with what is computed twice."""
        again = self.token.forward * work.tokens + self.token_pair.forward * work.token_pairs
        return self.model(work) + (again if self.checkpointed else 0.0)


def flops_of(model: Any, family: Family, *, gradient_checkpointing: bool) -> ModelFlops:
    """Costs of a model with its adapter on and its parameters frozen or not, as it will train."""
    tower, attention = Cost(), Cost()
    token, head = Cost(), Cost()
    trained = False  # A layer before this one in the tower: its input needs a gradient then.
    for name, layer in _layers(model):
        weights = _weights(layer)
        if family.vision_prefix and name.startswith(f"{family.vision_prefix}."):
            rows = 1 / family.merge_size**2 if name.startswith(family.merger_prefixes) else 1.0
            tower += _linear(weights * rows, layer, input_gradient=trained)
            trained = trained or layer.weight.requires_grad
        elif name.startswith("lm_head"):
            head += _linear(weights, layer)
        else:
            token += _linear(weights, layer)
            if name.endswith(".q_proj"):
                attention += Cost(2.0 * layer.out_features, 4.0 * layer.out_features)
    patch_pair, window_pair = _tower_attention(model, family)
    return ModelFlops(
        token, attention, head, tower, patch_pair, window_pair, gradient_checkpointing
    )


def window_side(model: Any) -> int | None:
    """Patches on a side of the tower's attention windows; None where it has none."""
    vision: Any = getattr(model.config, "vision_config", None)
    size = getattr(vision, "window_size", None)
    if not size or not getattr(vision, "fullatt_block_indexes", None):
        return None
    merged = size // vision.spatial_merge_size // vision.patch_size
    return int(merged * vision.spatial_merge_size)


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Each matrix that activations are multiplied by, under its name in the bare model."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv3d)):
            bare = WRAPPINGS.sub("", name)
            if not any(part in bare for part in UNUSED):
                yield bare, module


def _weights(layer: Any) -> int:
    """A 4-bit layer's tensor holds two weights to a byte: its shape is not the layer's."""
    import torch

    if isinstance(layer, torch.nn.Linear):
        return layer.in_features * layer.out_features
    return int(layer.weight.numel())


def _linear(weights: float, layer: Any, *, input_gradient: bool = True) -> Cost:
    gradients = int(input_gradient) + int(layer.weight.requires_grad)
    return Cost(2.0 * weights, 2.0 * weights * gradients)


def _tower_attention(model: Any, family: Family) -> tuple[Cost, Cost]:
    """Of blocks that see the whole image, and of those that see a window.

    The backward pass is not counted: the tower is frozen but for a few blocks.
    """
    whole, windowed = 0.0, 0.0
    full = getattr(getattr(model.config, "vision_config", None), "fullatt_block_indexes", None)
    pattern = re.compile(rf"{re.escape(family.vision_prefix or '-')}\.blocks\.(\d+)\.attn\.proj")
    for name, layer in _layers(model):
        if found := pattern.fullmatch(name):
            sees_all = full is None or int(found[1]) in full
            whole += 4.0 * layer.in_features * sees_all
            windowed += 4.0 * layer.in_features * (not sees_all)
    return Cost(whole), Cost(windowed)
