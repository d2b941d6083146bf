"""The ticks of an axis."""

from __future__ import annotations

import math

MAX_INTERVALS = 8


def tick_step(low: float, high: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that makes at most eight intervals."""
    rough = (high - low) / MAX_INTERVALS
    power = 10.0 ** math.floor(math.log10(rough))
    # A hair over, so that eight intervals of 0.1 are eight in binary fractions as well.
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999999)


def ticks(low: float, high: float) -> list[float]:
    """Values at which an axis from `low` to `high` is marked: multiples of the step."""
    step = tick_step(low, high)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [rounded(place * step) for place in range(first, last + 1)]


def rounded(value: float) -> float:
    """Without the last digits of binary fractions."""
    return float(format(value, ".12g"))
