from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from vlmpipe.config.train import TrainConfig
from vlmpipe.encoding.images import ImageGrid
from vlmpipe.errors import StageError
from vlmpipe.training.curriculum import Phase, plan_phases, repeat_by_weight

GRID = ImageGrid(patch_size=14, merge_size=2, min_pixels=6272, max_pixels=448 * 448)
DIFFICULTIES = [0.0, 0.1, 0.4, 0.5, 0.9]


def phases(
    sections: Sequence[dict[str, Any]], *, has_vision: bool = True, **train: Any
) -> list[Phase]:
    config = TrainConfig.model_validate({"curriculum": sections, **train})
    ones = [1.0] * len(DIFFICULTIES)
    return plan_phases(config, DIFFICULTIES, ones, GRID, has_vision=has_vision)


EASY = {"name": "easy", "max_size": [168, 168], "difficulty": [0.0, 0.2]}
HARD = {"name": "hard", "max_size": [448, 448], "difficulty": [0.3, 1.0]}


def test_each_phase_takes_the_samples_of_its_difficulty_at_its_size() -> None:
    easy, hard = phases([EASY, HARD], max_steps=10)
    assert easy.indices == (0, 1)
    assert hard.indices == (2, 3, 4)
    assert easy.grid.max_size == (168, 168)
    assert hard.grid.max_size == (448, 448)


def test_steps_are_divided_evenly_and_counted_on() -> None:
    parts = phases([EASY, HARD, {**HARD, "name": "again"}], max_steps=11)
    assert [phase.steps for phase in parts] == [4, 4, 3]
    assert [phase.first_step for phase in parts] == [0, 4, 8]
    assert parts[-1].last_step == 11


def test_own_lengths_come_first_and_the_rest_is_divided() -> None:
    sections = [
        {**EASY, "max_steps": 3},
        {**HARD, "epochs": 2},
        {**HARD, "name": "rest"},
    ]
    parts = phases(sections, max_steps=20, batch_size=1, gradient_accumulation=2)
    assert [phase.steps for phase in parts] == [3, 3, 14]


def test_lengths_that_leave_nothing_for_the_others_are_refused_with_the_number_needed() -> None:
    with pytest.raises(StageError, match=r"leaves 0 steps") as caught:
        phases([{**EASY, "max_steps": 10}, HARD], max_steps=10)
    assert "train.max_steps=11" in str(caught.value)


def test_the_learning_rate_is_scaled_by_phase() -> None:
    easy, hard = phases(
        [EASY, {**HARD, "learning_rate_scale": 0.5}], learning_rate=1e-3, max_steps=2
    )
    assert easy.learning_rate == 1e-3
    assert hard.learning_rate == 5e-4


def test_a_phase_without_samples_is_refused_with_what_there_is() -> None:
    empty = {"name": "none", "max_size": [448, 448], "difficulty": [0.6, 0.8]}
    with pytest.raises(StageError, match=r"'none'.*0\.6 to 0\.8.*between 0\.00 and 0\.90"):
        phases([EASY, empty])


def test_or_it_takes_the_nearest_when_told_to_widen() -> None:
    empty = {"name": "none", "max_size": [448, 448], "difficulty": [0.6, 0.8]}
    settings = {"on_empty_phase": "widen", "gradient_accumulation": 2}
    widened = phases([EASY, empty], **settings)[1]
    assert widened.widened
    assert widened.indices == (3, 4)


def test_a_widened_phase_takes_what_an_optimiser_step_takes() -> None:
    empty = {"name": "none", "max_size": [448, 448], "difficulty": [0.6, 0.8]}
    settings = {"on_empty_phase": "widen", "batch_size": 2, "gradient_accumulation": 2}
    assert phases([EASY, empty], **settings)[1].indices == (1, 2, 3, 4)
    settings["gradient_accumulation"] = 50
    assert len(phases([EASY, empty], **settings)[1].indices) == 5


def test_text_only_models_train_in_one_phase() -> None:
    (only,) = phases([EASY, HARD], has_vision=False, max_steps=7)
    assert only.steps == 7
    assert only.indices == (0, 1, 2, 3, 4)


def test_weights_repeat_samples_relative_to_the_smallest() -> None:
    weights = [1.0, 1.0, 2.0, 1.5, 1.5]
    assert repeat_by_weight(range(5), weights) == (0, 1, 2, 2, 3, 4, 4)


def test_epochs_are_turned_into_steps_by_whoever_plans_the_batches() -> None:
    asked: list[tuple[tuple[int, ...], tuple[int, int] | None, float, int]] = []

    def seven(indices: Sequence[int], grid: ImageGrid, epochs: float, number: int) -> int:
        asked.append((tuple(indices), grid.max_size, epochs, number))
        return 7

    sections = [{**HARD, "max_steps": 2}, {**EASY, "epochs": 1.5}]
    config = TrainConfig.model_validate({"curriculum": sections})
    ones = [1.0] * len(DIFFICULTIES)
    parts = plan_phases(config, DIFFICULTIES, ones, GRID, has_vision=True, steps_for_epochs=seven)
    assert [phase.steps for phase in parts] == [2, 7]
    assert asked == [((0, 1), (168, 168), 1.5, 1)]


def test_a_phase_trains_what_it_opens_and_what_those_before_it_opened() -> None:
    sections = [EASY, {**HARD, "unfreeze": ["last_blocks:1"]}, {**HARD, "name": "again"}]
    parts = phases(sections, unfreeze=["merger"], max_steps=3)
    opened = ("merger", "last_blocks:1")
    assert [phase.unfreeze for phase in parts] == [("merger",), opened, opened]
    (only,) = phases([], unfreeze=["merger"], max_steps=3)
    assert only.unfreeze == ("merger",)
