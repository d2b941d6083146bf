"""Cross entropy of a language head in chunks of rows: logits are made once and never kept.

The gradient with respect to the hidden states, (softmax - one-hot) @ W, is computed beside the
loss while a chunk's logits are there: two matrix products, where keeping nothing and computing
again in the backward pass takes three. A chunk holds whole rows of the vocabulary, so each row's
gradient is one product with one rounding, as the plain head's is; summing products of vocabulary
slices in bf16 would bias it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = {"cpu": 128 << 20, "cuda": 256 << 20}
"""Budget of a chunk's fp32 log-probabilities. oneDNN repacks the whole head for every product, so
on a CPU more rows are faster until their softmax leaves the time even: 220 rows of 151,936 did. A
GPU reads the whole head for every product, 2 bytes a weight for 2 FLOPs a row: above the 300 FLOPs
a byte of an H100 it is no longer the memory that it waits for; 441 rows of 151,936."""

_FP16_SCALE = 1024.0
"""Keeps small probabilities above fp16's 6e-8, as loss scaling does: here the gradient is made
before the loss scale is known."""


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy of hidden states [S, H] through a head [V, H] against targets [S], all valid.

    Returns the sum over rows in nats (fp32 scalar, differentiable), each row's own (fp32 [S],
    detached), and how many targets no other token outdoes (int64 scalar). Logits have autocast's
    precision where it is on, else the head's; the softmax is fp32.
    """
    device = hidden.device.type
    autocast = torch.is_autocast_enabled(device)
    compute_dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
    loss_sum, row_losses, correct = _ChunkedCrossEntropy.apply(
        hidden, weight, targets, compute_dtype, torch.is_grad_enabled()
    )
    return loss_sum, row_losses, correct


def chunk_rows(rows: int, vocabulary: int, device_type: str) -> int:
    """Rows in a chunk: within the budget, and the same in each, since a short last one costs as
    much as a long one.
    """
    budget = CHUNK_BYTES.get(device_type, CHUNK_BYTES["cuda"])
    most = max(1, budget // (4 * vocabulary))
    return math.ceil(rows / max(1, math.ceil(rows / most)))


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        compute_dtype: torch.dtype,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        chunks = _Chunks(hidden, weight, targets, compute_dtype)
        # needs_input_grad says what could have a gradient, also where none is recorded.
        hidden_grad = chunks.grad_like(hidden, grad_enabled and ctx.needs_input_grad[0])
        weight_grad = chunks.weight_grad(grad_enabled and ctx.needs_input_grad[1])
        with torch.autocast(hidden.device.type, enabled=False):
            chunks.run(hidden_grad, weight_grad)
        ctx.scale = chunks.scale
        ctx.dtypes = hidden.dtype, weight.dtype
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.mark_non_differentiable(chunks.row_losses, chunks.correct)
        ctx.set_materialize_grads(False)
        return chunks.row_losses.sum(), chunks.row_losses, chunks.correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_sum: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad_sum is None:
            return None, None, None, None, None
        by = grad_sum.float() / ctx.scale
        pairs = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        grads = [None if grad is None else (grad * by).to(dtype) for grad, dtype in pairs]
        return *grads, None, None, None


class _Chunks:
    """One pass over all rows; the buffers of a chunk are used again by the next."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, targets: Tensor, compute_dtype: torch.dtype
    ) -> None:
        self.hidden = hidden.to(compute_dtype)
        self.weight = weight.to(compute_dtype)
        self.targets = targets
        self.scale = _FP16_SCALE if compute_dtype == torch.float16 else 1.0
        self.row_losses = targets.new_empty(len(targets), dtype=torch.float32)
        self.correct = targets.new_zeros((), dtype=torch.int64)

    def grad_like(self, hidden: Tensor, wanted: bool) -> Tensor | None:
        return hidden.new_empty(hidden.shape, dtype=self.hidden.dtype) if wanted else None

    def weight_grad(self, wanted: bool) -> Tensor | None:
        """fp32, since every chunk adds to it: sums of rounded products would be biased."""
        return torch.zeros_like(self.weight, dtype=torch.float32) if wanted else None

    def run(self, hidden_grad: Tensor | None, weight_grad: Tensor | None) -> None:
        rows = chunk_rows(len(self.targets), len(self.weight), self.hidden.device.type)
        shape = (rows, len(self.weight))
        logits = self.hidden.new_empty(shape)
        log_probs = self.hidden.new_empty(shape, dtype=torch.float32)
        for start in range(0, len(self.targets), max(rows, 1)):
            part = slice(start, min(start + rows, len(self.targets)))
            size = part.stop - part.start
            self._losses(part, logits[:size], log_probs[:size])
            if hidden_grad is None and weight_grad is None:
                continue
            grad = self._logit_grad(part, logits[:size], log_probs[:size])
            if hidden_grad is not None:
                torch.mm(grad, self.weight, out=hidden_grad[part])
            if weight_grad is not None:
                _add_product(weight_grad, grad.t(), self.hidden[part])

    def _losses(self, part: slice, logits: Tensor, log_probs: Tensor) -> None:
        torch.mm(self.hidden[part], self.weight.t(), out=logits)
        target = self.targets[part, None]
        self.correct += (logits.gather(1, target) >= logits.amax(1, keepdim=True)).sum()
        torch.log_softmax(logits, 1, dtype=torch.float32, out=log_probs)
        self.row_losses[part] = -log_probs.gather(1, target)[:, 0]

    def _logit_grad(self, part: slice, logits: Tensor, log_probs: Tensor) -> Tensor:
        """(softmax - one-hot) times `scale`, over the logits, in the compute dtype."""
        target = self.targets[part, None]
        # p - 1 where p is near 1 would have no digit left in bf16.
        at_target = torch.expm1(log_probs.gather(1, target)).mul_(self.scale)
        if self.scale != 1.0:
            log_probs += math.log(self.scale)
        torch.exp(log_probs, out=logits)
        return logits.scatter_(1, target, at_target.to(logits.dtype))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total [V, H], fp32, += left [V, R] @ right [R, H] without rounding the product."""
    if total.device.type == "cuda" and left.dtype != torch.float32 and _mm_makes_fp32():
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())


def _mm_makes_fp32() -> bool:
    from packaging.version import Version

    return Version(torch.__version__) >= Version("2.8")
