"""Memory of the language head, measured: over all logits at once, and over supervised rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vlmpipe.encoding.encoder import IGNORED
from vlmpipe.training.loss.supervised_head import loss_at, supervised_positions
from vlmpipe.training.memory_peak import peak_memory

_PLAIN_BYTES_A_LOGIT = 20
"""Upper bound: logits and their gradient in the run's precision and in fp32, the log-softmax."""

_SHARE_OF_FREE = 0.5
"""Of the free memory that the plain head may take for the sake of a measurement."""


@dataclass(frozen=True)
class HeadMemory:
    """Peak bytes of forward and backward pass through the head, gradient of its weight left out."""

    tokens: int
    supervised: int
    plain_bytes: int
    """With all logits in fp32, as transformers' own loss does."""

    supervised_bytes: int
    measured_tokens: int
    """Fewer than `tokens` where the plain head would not fit: it was measured at these, and its
    bytes multiplied up."""

    @property
    def is_scaled(self) -> bool:
        """`plain_bytes` was multiplied up from a smaller measurement."""
        return self.measured_tokens < self.tokens

    def as_json(self) -> dict[str, int]:
        """For `audit.json`."""
        return asdict(self)

    def told(self) -> str:
        """One line for a person."""
        plain, ours = (
            f"{size / 2**20:,.0f} MiB" for size in (self.plain_bytes, self.supervised_bytes)
        )
        how = f", scaled from {self.measured_tokens} tokens" if self.is_scaled else ""
        return (
            f"language head on {self.tokens} tokens, {self.supervised} of them supervised:"
            f" peak {ours}, over all logits {plain} (measured{how})"
        )


def measure_head_memory(causal_lm: Any, tokens: int, supervised: int, dtype: str) -> HeadMemory:
    """Measure both heads on the shapes of a batch: B * T tokens, some of them supervised.

    Hidden states are made up; memory does not depend on them. `dtype` is what the run computes in.
    """
    weight = causal_lm.get_output_embeddings().weight
    fitting = _tokens_that_fit(weight, tokens)

    def plain(hidden: Tensor, labels: Tensor) -> Tensor:
        logits = causal_lm.get_output_embeddings()(hidden)
        loss: Tensor = causal_lm.loss_function(logits, labels, vocab_size=logits.shape[-1])
        return loss

    def ours(hidden: Tensor, labels: Tensor) -> Tensor:
        positions = supervised_positions(labels)
        loss: Tensor = loss_at(causal_lm, hidden, labels, positions)["loss_sum"]
        return loss

    with torch.autocast(weight.device.type, getattr(torch, dtype), enabled=dtype != "float32"):
        measured = _peak(plain, weight, fitting, min(supervised, fitting - 1))
        supervised_bytes = _peak(ours, weight, tokens, supervised)
    return HeadMemory(
        tokens=tokens,
        supervised=supervised,
        plain_bytes=measured * tokens // fitting,
        supervised_bytes=supervised_bytes,
        measured_tokens=fitting,
    )


def _peak(
    head: Callable[[Tensor, Tensor], Tensor], weight: Tensor, tokens: int, supervised: int
) -> int:
    hidden = weight.new_zeros(1, tokens, weight.shape[1]).requires_grad_()
    labels = torch.full((1, tokens), IGNORED, device=weight.device)
    labels[0, tokens - supervised :] = 0
    # What a library sets up at its first use is none of the head's memory.
    torch.autograd.grad(head(hidden[:, -2:], labels[:, -2:]), hidden)
    with peak_memory(weight.device) as peak, torch.enable_grad():
        torch.autograd.grad(head(hidden, labels), hidden)
    return peak.bytes


def _tokens_that_fit(weight: Tensor, tokens: int) -> int:
    """As many of the tokens as the plain head may be measured on."""
    most = int(_SHARE_OF_FREE * _free_bytes(weight.device)) // (
        _PLAIN_BYTES_A_LOGIT * weight.shape[0]
    )
    return max(2, min(tokens, most))


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    import psutil

    return int(psutil.virtual_memory().available)
