"""Spikes and plateaus: found where there are some, and noise is left in peace."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toy_training import Notes, toy_config, toy_phase
from vlmpipe.training.watch.anomalies import AnomalyWatch, PlateauFinder, SpikeFinder
from vlmpipe.training.watch.rows import append_row, read_rows

FACTOR = 4.0
"""`train.watch.spike_factor`'s default."""


def normal(lot: random.Random, step: int) -> float:
    return lot.gauss(1, 0.1)


def skewed(lot: random.Random, step: int) -> float:
    """As gradient norms are."""
    return lot.lognormvariate(0, 0.5)


def falling(lot: random.Random, step: int) -> float:
    """As losses are."""
    return (0.2 + 3 * math.exp(-step / 300)) * lot.lognormvariate(0, 0.2)


@pytest.mark.parametrize("noise", [normal, skewed, falling])
def test_fewer_than_one_step_in_a_thousand_of_mere_noise_is_told(
    noise: Callable[[random.Random, int], float],
) -> None:
    """Measured over 40,000 steps: 0.03 (normal), 0.3 (skewed), 0.2 (falling) in a thousand."""
    told = 0
    for seed in range(20):
        lot, finder = random.Random(seed), SpikeFinder(FACTOR)
        told += sum(finder.see(noise(lot, step)) is not None for step in range(2000))
    assert told / 40_000 < 1e-3


@pytest.mark.parametrize("noise", [normal, falling])
def test_a_spike_is_told_once_at_its_first_step(
    noise: Callable[[random.Random, int], float],
) -> None:
    for seed in range(20):
        lot, finder = random.Random(seed), SpikeFinder(FACTOR)
        values = [noise(lot, step) for step in range(200)]
        for step in (150, 151, 152):
            values[step] *= 5
        told = [step for step, value in enumerate(values) if finder.see(value)]
        assert 150 in told
        assert not {151, 152} & set(told)


def test_a_series_that_starts_or_lies_still_is_left_in_peace() -> None:
    finder = SpikeFinder(FACTOR)
    assert not any(finder.see(value) for value in (1.0, 50.0, 0.1))
    assert not any(finder.see(1.0 + 0.01 * (step % 3)) for step in range(100))
    assert finder.see(float("nan")) is None
    assert finder.see(2.0) is not None


def plateaus(values: list[float], steps: int) -> list[int]:
    finder = PlateauFinder(steps)
    return [step for step, value in enumerate(values) if finder.see(value)]


def test_a_plateau_is_told_once_and_a_falling_loss_is_none() -> None:
    for seed in range(20):
        lot = random.Random(seed)
        down = [(3 - step / 200) * lot.lognormvariate(0, 0.1) for step in range(400)]
        flat = [lot.lognormvariate(0, 0.1) for _ in range(400)]
        assert plateaus(down, 100) == []
        assert plateaus(down + flat + down, 100)[0] in (499, 599, 699)
        assert len(plateaus(down + [1.0] * 400, 100)) == 1


def watch(path: Path, reporter: Notes) -> AnomalyWatch:
    settings = toy_config(plateau_steps=100).train.watch
    return AnomalyWatch(toy_phase(400, first_step=10), settings, path, reporter)


def logged(callback: AnomalyWatch, steps: range, values: Callable[[int], dict[str, Any]]) -> None:
    for step in steps:
        callback.on_log(None, SimpleNamespace(global_step=step), None, values(step))


def test_events_are_rows_and_notes_and_a_resume_tells_none_twice(tmp_path: Path) -> None:
    lot = random.Random(0)
    losses = [lot.lognormvariate(0, 0.1) * (8 if step == 60 else 1) for step in range(401)]
    norms = [lot.lognormvariate(0, 0.1) * (8 if step == 90 else 1) for step in range(401)]

    def figures(step: int) -> dict[str, Any]:
        return {"loss": losses[step], "grad_norm": norms[step]}

    def events(path: Path) -> list[tuple[str, int]]:
        return [(row["event"], row["step"]) for row in read_rows(path) if "event" in row]

    whole = Notes()
    logged(watch(tmp_path / "whole", whole), range(1, 201), figures)
    expected = [("loss_spike", 70), ("grad_norm_spike", 100), ("plateau", 110)]
    assert events(tmp_path / "whole") == expected
    assert whole.notes[0].startswith("step 70: the loss is")
    cut, notes = tmp_path / "cut", Notes()
    logged(watch(cut, notes), range(1, 81), figures)
    # PhaseMetrics writes these; a resume at step 80 finds them.
    for step in range(1, 81):
        append_row(cut, {"step": 10 + step, "phase": "toy", **figures(step)})
    logged(watch(cut, notes), range(81, 201), figures)
    assert events(cut) == expected
    assert notes.notes == whole.notes
