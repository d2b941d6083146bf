"""What is told before a training begins: never less, and never more, than what it will do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training_runs import PHASES, run_training, samples_for, tiny_config
from vlmpipe.models.families import FAMILIES
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training.curriculum import Phase, plan_phases
from vlmpipe.training.ineffective import without_effect
from vlmpipe.training.limits import limits_contract

NAME = "random-qwen2_5_vl"
OPENING = [PHASES[0], {**PHASES[1], "unfreeze": ["merger"]}]


class Notes(SilentReporter):
    """Keeps what was told; may interrupt as a person would, after a step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.notes: list[str] = []
        self._stop_after = stop_after

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, label: str, done: float, total: float | None, **fields: str) -> None:
        if done == self._stop_after:
            raise KeyboardInterrupt

    def the(self, part: str) -> str:
        """The one note that has this in it."""
        (found,) = [note for note in self.notes if part in note]
        return found


def told(has_vision: bool = True, **train: Any) -> list[str]:
    config = tiny_config(**train)
    phases: list[Phase] = plan_phases(
        config.train,
        [0.5] * 4,
        [1.0] * 4,
        limits_contract(config, FAMILIES["qwen2_5_vl"], 0).grid,
        has_vision=has_vision,
    )
    return list(without_effect(config.train, phases, has_vision=has_vision))


def test_nothing_is_told_of_settings_that_have_their_effect() -> None:
    assert told() == []
    assert told(vision_cache="disk", vision_cache_folder="/somewhere") == []
    assert told(lora={"r": 4, "dora": True}) == []


def test_a_cache_of_a_tower_that_is_trained_is_told_with_the_phases_and_the_key() -> None:
    (everywhere,) = told(vision_cache="disk", unfreeze=["merger"])
    assert "train.vision_cache=disk has no effect in phase small, large" in everywhere
    assert "(train.unfreeze)" in everywhere
    (late,) = told(vision_cache="memory", curriculum=OPENING)
    assert "no effect in phase large: merger" in late
    assert "train.curriculum" in late


def test_a_model_without_eyes_has_no_cache() -> None:
    (line,) = told(has_vision=False, vision_cache="disk", max_steps=100)
    assert "sees no images" in line


def test_a_folder_of_a_cache_in_memory_is_told() -> None:
    (line,) = told(vision_cache="memory", vision_cache_folder="/somewhere")
    assert "train.vision_cache_folder has no effect: train.vision_cache=memory" in line


def test_adapter_settings_are_told_where_there_is_no_adapter() -> None:
    (line,) = told(method="full", lora={"dora": True, "plus_ratio": 16})
    assert line.startswith("train.lora.dora, train.lora.plus_ratio have no effect")
    assert told(method="full", lora={}) == []


def test_a_length_of_a_training_whose_phases_have_their_own_is_told() -> None:
    (line,) = told(max_steps=100)
    assert "train.max_steps=100 has no effect" in line


@pytest.mark.slow
def test_a_training_tells_each_phase_s_parameters_what_goes_alone_and_where_it_goes_on(
    tmp_path: Path,
) -> None:
    config = tiny_config(
        method="lora", curriculum=OPENING, batch_tokens=64, save_steps=1, packing="off"
    )
    first = Notes(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        run_training(NAME, tmp_path, config, samples_for(NAME), first)
    line = first.the("parameters")
    assert "4-bit" not in line
    small, large = (int(part.split(" in phase")[0].split()[-1].replace(",", ""))
                    for part in line.split("parameters ")[1].split("), "))  # fmt: skip
    assert small < large
    alone = "phase large: 4 of 4 samples are longer than train.batch_tokens=64 and go alone"
    assert first.the("longer than train.batch_tokens").startswith(alone)
    assert not any("goes on" in note for note in first.notes)
    second = Notes()
    run_training(NAME, tmp_path, config, samples_for(NAME), second)
    assert second.the("goes on after").startswith("goes on after step 2 of 4;")
    assert "--force train" in second.the("goes on after")
