"""Which file to serve: the smallest that is still good enough at the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A file that may be served."""

    quant: str
    size_bytes: int
    metric: float
    """Mean primary task metric on the probes."""

    excluded: str | None = None


@dataclass(frozen=True)
class Recommendation:
    """The file, and what speaks for it."""

    quant: str
    why: str


def recommend(
    candidates: Sequence[Candidate], merged_metric: float, max_loss: float
) -> Recommendation:
    """The smallest file that is not excluded and loses at most `max_loss` of the task metric.

    Where none is left it is the first, which is the 16-bit one.
    """
    near = [
        each
        for each in candidates
        if each.excluded is None and merged_metric - each.metric <= max_loss
    ]
    if not near:
        first = candidates[0]
        return Recommendation(
            first.quant,
            f"no file keeps the task metric within {max_loss:g} of {merged_metric:.3f}"
            " (convert.max_metric_loss)",
        )
    best = min(near, key=lambda each: each.size_bytes)
    return Recommendation(
        best.quant,
        f"the smallest of {len(near)} whose task metric ({best.metric:.3f}) lies within"
        f" {max_loss:g} of the merged model's ({merged_metric:.3f})",
    )
