"""The proof, at the start of a training, that the supervised head gives the loss it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vlmpipe.encoding.encoder import IGNORED
from vlmpipe.errors import StageError

ROUNDING = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Error that no head can be blamed for, as a share. fp32: sums over the vocabulary in another
order. fp16 and bf16: the gradient's own digits, 2^-11 and 2^-9, rounded up to four times."""

AGAINST_PLAIN = 2.0
"""Beyond that, the head may be this many times as far from fp32 as the plain head in the run's own
precision: bf16 logits of 32 lie 0.25 apart, so what is fair depends on the model."""


@dataclass(frozen=True)
class HeadProof:
    """Errors against fp32 cross entropy over full logits, as shares; allowed ones beside them."""

    tokens: int
    loss: float
    """fp32 cross entropy in nats, a mean over the supervised tokens."""

    loss_error: float
    loss_allowed: float
    gradient_error: float
    gradient_allowed: float

    @property
    def holds(self) -> bool:
        """Both errors are within what is allowed; NaN is not."""
        return self.loss_error <= self.loss_allowed and self.gradient_error <= self.gradient_allowed

    def as_json(self) -> dict[str, float]:
        """For `audit.json`."""
        return asdict(self)


def prove_head(causal_lm: Any, batch: Mapping[str, Any], dtype: str) -> HeadProof:
    """Hold loss and gradient of the hidden states against plain cross entropy, on a real batch.

    `causal_lm` is the patched model below PEFT, `batch` a small one with labels, on its device;
    `dtype` is what the run computes in. The reference makes all logits of the batch in fp32.

    Raises:
        StageError: when one is further off than rounding explains.
    """
    with torch.autocast(causal_lm.device.type, getattr(torch, dtype), enabled=dtype != "float32"):
        hidden, (loss, gradient) = _ours(causal_lm, batch)
        labels = batch["labels"]
        precision = _precision(causal_lm, hidden.device.type)
        plain_loss, plain_gradient = _plain(causal_lm, hidden, labels)
    with torch.autocast(hidden.device.type, enabled=False):
        true_loss, true_gradient = _plain(causal_lm, hidden, labels, in_fp32=True)
    tokens = int((labels[:, 1:] != IGNORED).sum())
    # Where next to nothing is left to learn, a share of the loss says nothing: nats a token do.
    size = max(abs(true_loss), float(tokens))
    rounding = ROUNDING[precision]
    proof = HeadProof(
        tokens=tokens,
        loss=true_loss / max(tokens, 1),
        loss_error=abs(loss - true_loss) / size,
        loss_allowed=rounding + AGAINST_PLAIN * abs(plain_loss - true_loss) / size,
        gradient_error=_distance(gradient, true_gradient),
        gradient_allowed=rounding + AGAINST_PLAIN * _distance(plain_gradient, true_gradient),
    )
    if not proof.holds:
        raise StageError(*_refusal(proof, precision))
    return proof


def _ours(causal_lm: Any, batch: Mapping[str, Any]) -> tuple[Tensor, tuple[float, Tensor]]:
    """The batch's hidden states [B, T, H], and what the installed head makes of them."""
    with _leaf_behind_backbone(causal_lm) as leaves, torch.enable_grad():
        output = causal_lm(**batch, supervised_head=True)
        (gradient,) = torch.autograd.grad(output.loss_sum, leaves[0])
    return leaves[0].detach(), (float(output.loss_sum.detach()), gradient.float())


@contextmanager
def _leaf_behind_backbone(causal_lm: Any) -> Any:
    """Cut the graph behind the backbone: the head's own gradient is what is proven."""
    leaves: list[Tensor] = []

    def cut(_module: Any, _inputs: Any, output: Any) -> Any:
        leaves.append(output.last_hidden_state.detach().requires_grad_())
        output.last_hidden_state = leaves[-1]
        return output

    handle = causal_lm.base_model.register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


def _plain(
    causal_lm: Any, hidden: Tensor, labels: Tensor, *, in_fp32: bool = False
) -> tuple[float, Tensor]:
    """Summed cross entropy over all logits, and its gradient with respect to the hidden states."""
    weight = causal_lm.get_output_embeddings().weight.detach()
    if in_fp32:
        hidden, weight = hidden.float(), weight.float()
    leaf = hidden.detach().requires_grad_()
    with torch.enable_grad():
        logits = torch.nn.functional.linear(leaf, weight)[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1),
            labels[:, 1:].flatten().to(logits.device),
            ignore_index=IGNORED,
            reduction="sum",
        )
        (gradient,) = torch.autograd.grad(loss, leaf)
    return float(loss.detach()), gradient.float()


def _precision(causal_lm: Any, device_type: str) -> torch.dtype:
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    weight: Tensor = causal_lm.get_output_embeddings().weight
    return weight.dtype


def _distance(gradient: Tensor, true_gradient: Tensor) -> float:
    """Length of the difference, as a share of the true gradient's."""
    length = true_gradient.norm().clamp_min(torch.finfo(torch.float32).tiny)
    return float((gradient - true_gradient).norm() / length)


def _refusal(proof: HeadProof, precision: torch.dtype) -> tuple[str, ...]:
    return (
        f"the supervised head's loss is not plain cross entropy: on {proof.tokens} tokens the loss"
        f" is {proof.loss_error:.2g} off ({proof.loss_allowed:.2g} is rounding) and its gradient"
        f" {proof.gradient_error:.2g} ({proof.gradient_allowed:.2g} is rounding in {precision})",
        "hold it against full precision: model.dtype=float32",
        "if it is off there too, this is a fault of vlmpipe with this model: please report it",
    )
