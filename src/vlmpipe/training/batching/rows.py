"""What a micro-batch is made of: which sample, in which pass over the phase's samples."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One sample's place in a micro-batch."""

    sample: int
    """Number of the training sample."""

    epoch: int = 0
    """Pass over the phase's samples, from 0: resize kernels are drawn by it."""

    muted: bool = False
    """All labels are ignored. A process that has nothing left in a step takes part in its
    collectives with such a row, and adds exactly nothing."""


Batch = tuple[Row, ...]
"""A micro-batch: what goes through the model in one forward pass."""
