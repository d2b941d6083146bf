"""What is known of a step that was watched; light, so that a curve is judged without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One optimiser step."""

    number: int
    """From 1."""

    loss: float
    """Nats a supervised token, before the step's update; may be no number."""

    grad_norm: float
    """Before clipping."""

    learning_rate: float
