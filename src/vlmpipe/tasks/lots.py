"""Samples of an asked difficulty, by drawing until one fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Drawn = TypeVar("Drawn")


def outside(measured: float, bounds: tuple[float, float]) -> float:
    """How far a difficulty lies from the range; 0 within it."""
    low, high = bounds
    return max(low - measured, measured - high, 0.0)


def nearest(draw: Callable[[], Drawn], miss: Callable[[Drawn], float], attempts: int) -> Drawn:
    """The first draw that misses by 0; after one draw and `attempts` more, the one that misses by
    least, the earliest of equals.
    """
    best = draw()
    for _ in range(attempts):
        if not miss(best):
            break
        best = min(best, draw(), key=miss)
    return best
