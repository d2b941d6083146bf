"""Memory of a step as a line through measured steps: so much at once, so much for each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe.training.dry_run.cases import Load

LINES = ((0, 1, 2), (0, 1), (1, 2), (1,))
"""Terms of `MemoryFit`, the fullest line first: one that comes out negative is noise, and left
out."""


@dataclass(frozen=True)
class Trial:
    """A step that was done, and the memory that it took."""

    load: Load
    peak_bytes: int


@dataclass(frozen=True)
class MemoryFit:
    """Bytes of a step: base + per_place x places + per_image_token x image tokens."""

    base: float
    per_place: float
    per_image_token: float

    def predict(self, load: Load) -> float:
        """Bytes that a step on this load takes."""
        return self.base + self.per_place * load.places + self.per_image_token * load.image_tokens

    def places_within(self, limit: float, image_share: float) -> int:
        """Most places that stay within a limit, so many of them image tokens."""
        slope = self.per_place + self.per_image_token * image_share
        return max(0, int((limit - self.base) / slope))

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def fit_memory(trials: Sequence[Trial]) -> MemoryFit | None:
    """The line through the trials by least squares, raised to the highest of them.

    None where fewer than two sizes were measured: a line through one point says nothing.
    """
    if len({trial.load.places for trial in trials}) < 2:
        return None
    for terms in LINES:
        found = _line(trials, terms)
        if found is not None:
            above = max(trial.peak_bytes - found.predict(trial.load) for trial in trials)
            return MemoryFit(found.base + max(above, 0.0), found.per_place, found.per_image_token)
    return None


def _line(trials: Sequence[Trial], terms: Sequence[int]) -> MemoryFit | None:
    """The line of these terms; None where the trials do not tell them apart, or one is negative."""
    import numpy as np

    rows = [[1, trial.load.places, trial.load.image_tokens] for trial in trials]
    known = np.array(rows, dtype=float)[:, list(terms)]
    scale = known.max(axis=0)
    if not scale.all() or np.linalg.matrix_rank(known / scale, tol=1e-3) < len(terms):
        return None
    solved = np.linalg.lstsq(known / scale, [t.peak_bytes for t in trials], rcond=None)[0] / scale
    if (solved < 0).any():
        return None
    values = [0.0, 0.0, 0.0]
    for term, value in zip(terms, solved, strict=True):
        values[term] = float(value)
    return MemoryFit(*values)
