"""Proof before the first step: gradients reach every weight that is trained, and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe.errors import StageError
from vlmpipe.training.audits.untouched import untouched

SPREAD = 0.02
"""Standard deviation of what stands in for B while the gradients are looked at."""

SHOWN = 8


@dataclass(frozen=True)
class GradientGroup:
    """Trained weights of one kind, and the norms of their gradients on the probe."""

    kind: str
    """`lora_A`, `lora_B`, `lora_magnitude_vector`, or `weights`."""

    tensors: int
    smallest: float
    smallest_name: str
    largest: float


@dataclass(frozen=True)
class GradientFlow:
    """What the probe found."""

    batches: int
    trained_tensors: int
    frozen_tensors: int
    groups: tuple[GradientGroup, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def audit_gradient_flow(
    model: Any, batches: Sequence[Mapping[str, Any]], step: Callable[[Mapping[str, Any]], None]
) -> GradientFlow:
    """Send a probe through the model as training would, and look at every gradient.

    `step` runs forward and backward on one batch. The model is in training mode meanwhile, with
    the B matrices of LoRA away from the zeros that they begin with: where B is zero, A's gradient
    is exactly zero, and nothing could be told. Weights, gradients, modes and random generators are
    afterwards what they were, bit for bit.

    Raises:
        StageError: naming trained parameters whose gradient is missing, zero or not finite, and
            frozen ones that have a gradient.
    """
    with untouched(model):
        with _started(_zero_b(model)):
            for batch in batches:
                with _unconnected_told():
                    step(batch)
        problems = list(_problems(model))
        groups = [] if problems else list(_groups(model))
    if problems:
        raise StageError(
            f"gradients do not flow as they must: {len(problems)} parameters are at fault",
            "this is a fault of the model's layout, of gradient checkpointing or of a library"
            " version, not of the data; try train.gradient_checkpointing=false;"
            " `vlmpipe check` names known-bad versions",
            problems=[*problems[:SHOWN], *_rest(len(problems) - SHOWN)],
        )
    trained = sum(each.tensors for each in groups)
    everything = sum(1 for _ in model.parameters())
    return GradientFlow(len(batches), trained, everything - trained, tuple(groups))


@contextmanager
def _unconnected_told() -> Iterator[None]:
    """A loss that hangs on no trained weight at all raises in torch; the weights' names are told
    instead.
    """
    try:
        yield
    except RuntimeError as exc:
        if "does not require grad" not in str(exc):
            raise


def _zero_b(model: Any) -> list[Any]:
    """B matrices that are all zeros, as LoRA begins."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if ".lora_B." in name and parameter.requires_grad and not bool(parameter.any())
    ]


@contextmanager
def _started(matrices: Iterable[Any]) -> Iterator[None]:
    """Small random numbers in the matrices, zeros again afterwards."""
    import torch

    kept = [(matrix, matrix.detach().clone()) for matrix in matrices]
    with torch.no_grad():
        for matrix, _ in kept:
            matrix.normal_(std=SPREAD)
    try:
        yield
    finally:
        with torch.no_grad():
            for matrix, before in kept:
                matrix.copy_(before)


def _problems(model: Any) -> Iterator[str]:
    import torch

    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        if not parameter.requires_grad:
            if gradient is not None:
                yield f"{name} is frozen and gets a gradient"
        elif gradient is None:
            yield f"{name} gets no gradient"
        elif not bool(torch.isfinite(gradient).all()):
            yield f"{name} gets a gradient that is no finite number"
        elif not bool(gradient.any()):
            yield f"{name} gets a gradient of zeros alone"


def _groups(model: Any) -> Iterator[GradientGroup]:
    norms: dict[str, dict[str, float]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            norms.setdefault(_kind(name), {})[name] = float(parameter.grad.norm())
    for kind, found in sorted(norms.items()):
        least = min(found, key=lambda name: found[name])
        yield GradientGroup(kind, len(found), found[least], least, max(found.values()))


def _kind(name: str) -> str:
    kinds = ("lora_A", "lora_B", "lora_magnitude_vector")
    return next((kind for kind in kinds if f".{kind}." in name), "weights")


def _rest(count: int) -> list[str]:
    return [f"and {count} more"] if count > 0 else []
