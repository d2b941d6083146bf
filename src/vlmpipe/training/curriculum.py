"""The resolution curriculum: which samples, at what size, for how many steps, in which order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from vlmpipe.config.train import CurriculumPhase, TrainConfig
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import StageError

StepsForEpochs = Callable[[Sequence[int], ImageGrid, float, int], int]
"""Optimiser steps of so many passes over these samples at this image size, in the phase of this
number."""


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

    unfreeze: tuple[str, ...] = ()
    """Parts of the tower that are trained, as in `train.unfreeze`: those of the phases before, and
    the phase's own."""

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
    steps_for_epochs: StepsForEpochs | None = None,
) -> list[Phase]:
    """Assign samples and steps to the configured phases.

    Text-only models and an empty curriculum train in one phase. `steps_for_epochs` says how long
    phases are that set `epochs`; unset, each step takes `batch_size` times `gradient_accumulation`
    samples.

    Raises:
        StageError: for a phase that no sample falls into, unless told to widen, and for phases
            whose own lengths leave no steps for the others.
    """
    sections = _sections(config, has_vision)
    opened = unfreezing(config, has_vision=has_vision)
    if not sections:
        indices = repeat_by_weight(range(len(difficulties)), weights)
        rate, steps = config.learning_rate, config.max_steps
        return [Phase(0, "all", grid, indices, steps, 0, rate, unfreeze=opened[0])]
    chosen = [_samples_of(section, config, difficulties) for section in sections]
    epochs = [repeat_by_weight(indices, weights) for indices, _ in chosen]
    grids = [grid.within(section.max_size) for section in sections]
    count = steps_for_epochs or partial(_steps_by_samples, config)
    lengths = _steps(config, sections, epochs, grids, count)
    return [
        Phase(
            number=number,
            name=section.name,
            grid=grids[number],
            indices=epochs[number],
            steps=lengths[number],
            first_step=sum(lengths[:number]),
            learning_rate=config.learning_rate * section.learning_rate_scale,
            widened=chosen[number][1],
            unfreeze=opened[number],
        )
        for number, section in enumerate(sections)
    ]


def of_different_parts(phases: Sequence[Phase]) -> list[Phase]:
    """The first of the phases that train the same parts."""
    return list({phase.unfreeze: phase for phase in reversed(phases)}.values())[::-1]


def unfreezing(config: TrainConfig, *, has_vision: bool) -> list[tuple[str, ...]]:
    """Parts of the tower that are open in each phase: what was opened once stays open."""
    opened = dict.fromkeys(config.unfreeze)
    schedule = []
    for section in _sections(config, has_vision):
        opened |= dict.fromkeys(section.unfreeze)
        schedule.append(tuple(opened))
    return schedule or [tuple(opened)]


def _sections(config: TrainConfig, has_vision: bool) -> tuple[CurriculumPhase, ...]:
    return config.curriculum if has_vision else ()


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
    config: TrainConfig,
    sections: Sequence[CurriculumPhase],
    epochs: Sequence[Sequence[int]],
    grids: Sequence[ImageGrid],
    count: StepsForEpochs,
) -> list[int]:
    own = [
        section.max_steps
        if section.epochs is None
        else count(epochs[number], grids[number], section.epochs, number)
        for number, section in enumerate(sections)
    ]
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


def _steps_by_samples(
    config: TrainConfig, indices: Sequence[int], grid: ImageGrid, epochs: float, number: int
) -> int:
    batch = config.batch_size * config.gradient_accumulation
    return max(1, math.ceil(epochs * len(indices) / batch))
