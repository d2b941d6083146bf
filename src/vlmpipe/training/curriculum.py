"""The resolution curriculum: which samples, at what size, for how many steps, in which order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vlmpipe.config.train import CurriculumPhase, TrainConfig
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import StageError


@dataclass(frozen=True)
class Phase:
    """One phase, ready to train."""

    number: int
    name: str
    grid: ImageGrid
    indices: tuple[int, ...]
    """Samples of an epoch; an index stands as often as its source's weight says."""

    steps: int
    first_step: int
    """Optimiser steps of the phases before."""

    learning_rate: float
    widened: bool = False
    """No sample fell into the phase's difficulty; it took the nearest."""

    @property
    def last_step(self) -> int:
        """Optimiser steps done when the phase ends."""
        return self.first_step + self.steps


def plan_phases(
    config: TrainConfig,
    difficulties: Sequence[float],
    weights: Sequence[float],
    grid: ImageGrid,
    *,
    has_vision: bool,
) -> list[Phase]:
    """Assign samples and steps to the configured phases.

    Text-only models and an empty curriculum train in one phase.

    Raises:
        StageError: for a phase that no sample falls into, unless told to widen, and for phases
            whose own lengths leave no steps for the others.
    """
    sections = config.curriculum if has_vision and config.curriculum else ()
    if not sections:
        indices = repeat_by_weight(range(len(difficulties)), weights)
        return [Phase(0, "all", grid, indices, config.max_steps, 0, config.learning_rate)]
    chosen = [_samples_of(section, config, difficulties) for section in sections]
    epochs = [repeat_by_weight(indices, weights) for indices, _ in chosen]
    steps = _steps(config, sections, [len(indices) for indices in epochs])
    return [
        Phase(
            number=number,
            name=section.name,
            grid=grid.within(section.max_size),
            indices=epochs[number],
            steps=steps[number],
            first_step=sum(steps[:number]),
            learning_rate=config.learning_rate * section.learning_rate_scale,
            widened=chosen[number][1],
        )
        for number, section in enumerate(sections)
    ]


def repeat_by_weight(indices: Sequence[int], weights: Sequence[float]) -> tuple[int, ...]:
    """Each index as often as its weight says, relative to the smallest; fractions spread evenly.

    A weight of 1.5 beside 1.0 repeats every second sample of its source.
    """
    if not indices:
        return ()
    least = min(weights[index] for index in indices)
    repeated: list[int] = []
    owed: dict[float, float] = {}
    for index in indices:
        share = weights[index] / least
        owed[share] = owed.get(share, 0.0) + share
        times = math.floor(owed[share] + 1e-9)
        owed[share] -= times
        repeated += [index] * times
    return tuple(repeated)


def _samples_of(
    section: CurriculumPhase, config: TrainConfig, difficulties: Sequence[float]
) -> tuple[list[int], bool]:
    """Indices of the phase's samples, and whether it had to be widened."""
    low, high = section.difficulty
    distances = [max(low - value, value - high, 0.0) for value in difficulties]
    inside = [index for index, distance in enumerate(distances) if distance == 0]
    if inside:
        return inside, False
    if config.on_empty_phase == "refuse":
        raise StageError(
            f"phase {section.name!r} takes samples of difficulty {low} to {high}; the training"
            f" samples lie between {min(difficulties):.2f} and {max(difficulties):.2f}",
            "change its range: train.curriculum",
            "or take the nearest samples instead: train.on_empty_phase=widen",
        )
    # One sample alone would be learned by heart: at least what an optimiser step takes.
    enough = min(config.batch_size * config.gradient_accumulation, len(distances))
    reach = sorted(distances)[enough - 1]
    return [index for index, distance in enumerate(distances) if distance <= reach], True


def _steps(
    config: TrainConfig, sections: Sequence[CurriculumPhase], sizes: Sequence[int]
) -> list[int]:
    batch = config.batch_size * config.gradient_accumulation
    own = [_own_steps(section, size, batch) for section, size in zip(sections, sizes, strict=True)]
    open_phases = own.count(None)
    if not open_phases:
        return [steps for steps in own if steps is not None]
    left = config.max_steps - sum(steps for steps in own if steps is not None)
    if left < open_phases:
        raise StageError(
            f"train.max_steps={config.max_steps} leaves {max(left, 0)} steps for {open_phases}"
            " curriculum phases that set no length of their own",
            f"raise it: train.max_steps={config.max_steps - left + open_phases} or more",
            "or shorten the curriculum: train.curriculum",
        )
    shares = [left // open_phases + (place < left % open_phases) for place in range(open_phases)]
    return [shares.pop(0) if steps is None else steps for steps in own]


def _own_steps(section: CurriculumPhase, size: int, batch: int) -> int | None:
    if section.epochs is not None:
        return max(1, math.ceil(section.epochs * size / batch))
    return section.max_steps
