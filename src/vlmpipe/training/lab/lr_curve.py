"""A learning-rate range test: the ramp, and what its loss curve says.

Smith, Cyclical Learning Rates for Training Neural Networks (WACV 2017, arXiv 1506.01186): the rate
rises from step to step, and where the loss falls, and then rises, shows which rates will do. The
rate is taken where the smoothed loss falls fastest, fastai's `steep`; beside it are given the rate
at which the fall begins, Smith's lower bound, and the one at which the loss is lowest.

What is read off depends on how long the ramp is: the loss also falls because steps add up, so that
a ramp of more steps has come down at a lower rate already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOW = 5
"""Steps that are averaged, those after a step as well as those before: a mean of past steps alone
would put each fall at a rate that is too high."""

DIVERGED = 4.0
"""A smoothed loss this many times the best one ends the ramp, as in fastai's `lr_find`."""

LEAST_FALL = 0.03
"""Share of the first loss that must be gained before a curve is said to have a minimum."""

NOISE_FACTOR = 5.0
"""The fall must be this many times the standard error of a smoothed loss: of some tens of them the
lowest lies two or three below the mean by chance, and the error itself is estimated."""

HIGHEST = 1.0
"""Where `train.learning_rate` ends."""

BEGUN = 0.1
"""Share of the fall; before it, and where the curve is at its lowest, no slope is looked at."""


def ramp(start: float, stop: float, steps: int) -> list[float]:
    """Rates in equal ratios from `start` to `stop`, both included."""
    return [float(rate) for rate in np.geomspace(start, stop, steps)]


def smoothed(losses: Sequence[float]) -> list[float]:
    """Centred running means over `WINDOW` steps; fewer at the ends."""
    half = WINDOW // 2
    return [
        float(np.mean(losses[max(0, place - half) : place + half + 1]))
        for place in range(len(losses))
    ]


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether the loss is no number, or the mean of the last steps is far above the best one."""
    if not losses or not math.isfinite(losses[-1]):
        return bool(losses)
    if len(losses) < 2 * WINDOW:
        return False
    means = [float(np.mean(losses[end - WINDOW : end])) for end in range(WINDOW, len(losses) + 1)]
    return means[-1] > DIVERGED * min(means)


@dataclass(frozen=True)
class Suggestion:
    """What a curve says."""

    learning_rate: float | None
    """None where the curve has no minimum that can be told from noise."""

    reason: str
    onset: float | None = None
    """Rate at which the fall begins, never above the suggested one: the careful choice."""

    minimum: float | None = None
    """Rate at the lowest smoothed loss: already too high to train with."""


def suggest(rates: Sequence[float], losses: Sequence[float]) -> Suggestion:
    """Choose a rate from a ramp's curve; `losses[i]` is the one that followed a step at `rates[i]`.

    Losses that are no numbers must have been left out.
    """
    if len(losses) < 2 * WINDOW:
        return Suggestion(
            None, f"only {len(losses)} steps before the loss diverged: begin lower, or take more"
        )
    curve = smoothed(losses)
    lowest = int(np.argmin(curve))
    obstacle = _obstacle(rates, losses, curve, lowest)
    if obstacle:
        return Suggestion(None, obstacle)
    slopes = np.gradient(smoothed(curve), np.log10(rates))
    begun = _begun(losses, curve, lowest)
    steepest = begun + int(np.argmin(slopes[begun : lowest + 1]))
    return Suggestion(
        rates[steepest],
        f"the smoothed loss falls fastest here, by {-slopes[steepest]:.3g} nats a"
        f" token for a tenfold rate, on its way from {_start(losses):.3g} to {curve[lowest]:.3g};"
        f" from {rates[lowest]:.2g} on it rises",
        onset=rates[begun],
        minimum=rates[lowest],
    )


def _obstacle(
    rates: Sequence[float], losses: Sequence[float], curve: Sequence[float], lowest: int
) -> str | None:
    """Why no rate can be read off; None where one can."""
    first, noise = _start(losses), _noise(losses)
    fall = first - curve[lowest]
    if lowest < WINDOW or fall <= max(LEAST_FALL * abs(first), NOISE_FACTOR * noise):
        return (
            f"no rate from {rates[0]:.2g} to {rates[-1]:.2g} lowered the loss by more than noise:"
            f" it fell by {max(fall, 0):.3g} of {first:.3g} nats a token at best, and a smoothed"
            f" value is uncertain by {noise:.2g}"
        )
    if lowest >= len(curve) - 1 - WINDOW // 2:
        further = min(rates[-1] * 100, HIGHEST)
        return (
            f"the loss still falls at {rates[-1]:.2g}, the end of the ramp: where it rises was not"
            " seen" + (f"; go further: --to {further:g}" if further > rates[-1] else "")
        )
    return None


def _start(losses: Sequence[float]) -> float:
    """Where the curve begins: a mean over the ramp's first sixth, since one batch says little."""
    return float(np.mean(losses[: max(WINDOW, len(losses) // 6)]))


def _begun(losses: Sequence[float], curve: Sequence[float], lowest: int) -> int:
    """The last place before the minimum that has not fallen yet to speak of."""
    level = _start(losses) - BEGUN * (_start(losses) - curve[lowest])
    return max((place for place in range(lowest) if curve[place] >= level), default=0)


def _noise(losses: Sequence[float]) -> float:
    """Standard error of a mean over `WINDOW` steps, from the ramp's first half, where rates
    change little: from differences of neighbours, so that a slope is no noise.
    """
    early = np.asarray(losses[: max(WINDOW, len(losses) // 2)])
    return float(np.diff(early).std() / math.sqrt(2) / math.sqrt(WINDOW))
