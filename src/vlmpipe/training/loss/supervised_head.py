"""A causal language model that, asked to, gives the loss of its supervised tokens and no logits."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from vlmpipe.encoding.encoder import IGNORED
from vlmpipe.training.loss.chunked_ce import chunked_cross_entropy

_PLAIN_FORWARD = "_forward_before_supervised_head"


@dataclass
class SupervisedLoss(ModelOutput):
    """What a patched model returns for `supervised_head=True`; S supervised tokens.

    A ModelOutput, so that DDP, FSDP and accelerate find the tensors in it.
    """

    loss_sum: Tensor | None = None
    """Cross entropy in nats, summed over the supervised tokens; fp32 scalar, with gradient."""

    tokens: int | None = None
    """S."""

    correct: Tensor | None = None
    """Supervised tokens that no other token outdoes; int64 scalar."""

    token_losses: Tensor | None = None
    """Each one's cross entropy; fp32 [S], without gradient."""

    positions: Tensor | None = None
    """Where each one stands in the flattened `labels` [B * T]; int64 [S], ascending."""


def install_supervised_head(causal_lm: Any) -> None:
    """Teach a transformers causal language model (below PEFT and any wrapper) a cheaper loss.

    `model(**inputs, labels=labels, supervised_head=True)` then runs the backbone, projects the
    positions whose next token is supervised, in chunks, and returns `SupervisedLoss`. Every other
    call is the model's own forward, `generate` included. A second call changes nothing.
    """
    if hasattr(causal_lm, _PLAIN_FORWARD):
        return
    # On the model, not in a closure: a deep copy of the model must call its own forward.
    setattr(causal_lm, _PLAIN_FORWARD, causal_lm.forward)
    forward = type(causal_lm).forward

    # `generate` checks its arguments against forward's signature, so that must stay.
    @functools.wraps(forward)
    def with_supervised_head(
        self: Any, *args: Any, supervised_head: bool = False, **kwargs: Any
    ) -> Any:
        if not supervised_head:
            return getattr(self, _PLAIN_FORWARD)(*args, **kwargs)
        return _forward_with_loss(self, *args, **kwargs)

    causal_lm.forward = MethodType(with_supervised_head, causal_lm)


@contextmanager
def keeping_forward(causal_lm: Any) -> Iterator[None]:
    """Take back what the block laid over the model's forward.

    Every SFTTrainer lays its fused head there when it is made; over the phases of a curriculum
    they would pile up, one call inside the other.
    """
    before = causal_lm.__dict__.get("forward")
    try:
        yield
    finally:
        if before is not None:
            causal_lm.forward = before
        else:
            causal_lm.__dict__.pop("forward", None)


def _forward_with_loss(causal_lm: Any, *args: Any, labels: Tensor, **kwargs: Any) -> SupervisedLoss:
    # Before the backbone: a GPU is waited for here, and now it has the least to do.
    positions = supervised_positions(labels)
    kwargs["use_cache"] = False
    # Backbone and head are looked up at each call: FSDP and PEFT replace them later.
    hidden = causal_lm.base_model(*args, **kwargs).last_hidden_state
    return loss_at(causal_lm, hidden, labels, positions)


def loss_at(causal_lm: Any, hidden: Tensor, labels: Tensor, positions: Tensor) -> SupervisedLoss:
    """The loss of labels [B, T] at flat `positions` [S], from hidden states [B, T, H]."""
    targets = labels.flatten()[positions]
    # Position p is foretold by p - 1. Selecting nothing at all leaves the result in the graph, with
    # a gradient of exactly zero: every process takes part in the reduction of every step.
    before = (positions - 1).to(hidden.device)
    chosen = hidden.flatten(0, 1).index_select(0, before)
    loss_sum, token_losses, correct = _through_head(causal_lm, chosen, targets)
    there = positions.to(token_losses.device)
    return SupervisedLoss(loss_sum, len(positions), correct, token_losses, there)


def supervised_positions(labels: Tensor) -> Tensor:
    """Flat positions [S] in labels [B, T] that are learned; the first of a row is foretold by
    nothing.
    """
    supervised = labels != IGNORED
    supervised[:, 0] = False
    return supervised.flatten().nonzero()[:, 0]


def _through_head(causal_lm: Any, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from torch.distributed.tensor import DTensor
    from trl.trainer.utils import maybe_gather_lm_head_ctx

    weight = causal_lm.get_output_embeddings().weight
    # FSDP2 outside its own hooks hands out a shard, ZeRO-3 an empty tensor.
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
    with maybe_gather_lm_head_ctx(weight):
        return _loss_of(hidden.to(weight.device), weight, targets.to(weight.device))


@torch.compiler.disable  # the number of supervised rows differs in every batch
def _loss_of(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return chunked_cross_entropy(hidden, weight, targets)


def losses_by_sample(token_losses: Tensor, positions: Tensor, ends: Tensor) -> Tensor:
    """Summed cross entropy of each sample of a batch, fp32 [K], from a `SupervisedLoss`'s fields.

    `ends` int [K] says where each sample ends in the flattened labels: T, 2T, … for rows padded to
    T tokens; `cu_seq_lens_q[1:]` for samples packed into one row.
    """
    sample = torch.bucketize(positions, ends.to(positions.device, torch.int64), right=True)
    return token_losses.new_zeros(len(ends)).index_add_(0, sample, token_losses)
