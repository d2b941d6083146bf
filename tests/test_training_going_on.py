"""A training that goes on where something else was begun, or under other circumstances."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from model_folders import contract_of
from training_runs import PHASES, base_of, run_training, samples_for, tiny_config
from vlmpipe.config import Config
from vlmpipe.errors import StageError
from vlmpipe.models.families import FAMILIES
from vlmpipe.pipeline import StageContext
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training import phase_states, phase_trainer
from vlmpipe.training.batching.plan import BatchRule, plan_batches
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.distributed import trainer as shared_trainer
from vlmpipe.training.distributed.processes import Alone
from vlmpipe.training.plan_mark import keep_to_plan
from vlmpipe.training.preparation import TrainingData
from vlmpipe.training.run import train
from vlmpipe.training.vision_cache.tower import TowerPlace
from vlmpipe.training.watch.rows import read_rows

NAME = "random-qwen2_5_vl"


def train_version(folder: Path, config: Config, *, forced: bool = False) -> list[str]:
    """As the train stage does, with a digest of the data; what was noted."""
    notes: list[str] = []

    class Notes(SilentReporter):
        def note(self, text: str) -> None:
            notes.append(text)

    folder.mkdir(parents=True, exist_ok=True)
    samples = samples_for(NAME)
    context = StageContext(
        config=config,
        folder=folder,
        upstream={},
        run_folder=folder.parent,
        log_path=folder / "log",
        log=logging.getLogger("test"),
        reporter=Notes(),
        forced=forced,
    )
    weights = [1.0] * len(samples)
    train(context, base_of(NAME), TrainingData(samples, samples[:1], weights, digest="data"))
    return notes


def longer_second_phase() -> list[dict[str, Any]]:
    return [PHASES[0], {**PHASES[1], "max_steps": 3}]


@pytest.mark.slow
def test_other_settings_of_the_second_phase_take_the_first_one_over(tmp_path: Path) -> None:
    train_version(tmp_path / "v001", tiny_config(method="lora"))
    changed = tiny_config(method="lora", curriculum=longer_second_phase())
    notes = train_version(tmp_path / "v002", changed)
    assert any("phase small is taken over from v001" in note for note in notes)
    anew = train_version(tmp_path / "v003", changed, forced=True)
    assert not any("taken over" in note for note in anew)
    second, third = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("v002", "v003"))
    assert [row.get("loss") for row in second] == [row.get("loss") for row in third]


@pytest.mark.slow
def test_a_kill_while_a_phase_is_taken_over_does_not_pass_for_a_finished_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_version(tmp_path / "v001", tiny_config(method="lora"))
    changed = tiny_config(method="lora", curriculum=longer_second_phase())
    plain = phase_states.sync_tree

    def killed(path: Path) -> None:
        if path.name.endswith(".taken"):
            raise KeyboardInterrupt
        plain(path)

    with monkeypatch.context() as patched:
        patched.setattr(phase_states, "sync_tree", killed)
        with pytest.raises(KeyboardInterrupt):
            train_version(tmp_path / "v002", changed)
    assert (tmp_path / "v002" / "metrics.jsonl").is_file()
    train_version(tmp_path / "v002", changed)
    assert (tmp_path / "v002" / "adapter" / "adapter_model.safetensors").is_file()
    losses = [row for row in read_rows(tmp_path / "v002" / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in losses] == [1, 2, 3, 4, 5]


def test_a_phase_begun_by_another_number_of_processes_is_not_gone_on_with(tmp_path: Path) -> None:
    grid = contract_of(FAMILIES["qwen2_5_vl"]).grid
    phase = Phase(0, "small", grid, (0, 1, 2, 3), steps=2, first_step=0, learning_rate=1e-3)

    def plan(processes: int, accumulation: int) -> Any:
        return plan_batches(
            phase.indices,
            [10] * 4,
            [1.0] * 4,
            rule=BatchRule(),
            accumulation=accumulation,
            processes=processes,
            seed=1,
            steps=2,
        )

    keep_to_plan(tmp_path, phase, plan(1, 2), Alone())
    keep_to_plan(tmp_path, phase, plan(2, 1), Alone())  # the very same steps
    with pytest.raises(StageError, match="begun with 1 processes and 2 forward passes") as caught:
        keep_to_plan(tmp_path, phase, plan(2, 2), Alone())
    assert "--num-processes 1" in " ".join(caught.value.remedies)


@pytest.mark.slow
def test_one_process_trains_on_one_of_several_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = phase_trainer.SFTConfig

    def with_two_gpus(**settings: Any) -> Any:
        arguments = plain(**settings)
        _ = arguments.device  # counts the devices
        arguments._n_gpu = 2
        return arguments

    monkeypatch.setattr(phase_trainer, "SFTConfig", with_two_gpus)
    run_training(NAME, tmp_path / "v001", tiny_config(method="lora"))
    assert (tmp_path / "v001" / "adapter").is_dir()


@pytest.mark.slow
def test_every_phase_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    compile_, check = torch.compile, shared_trainer.assert_distributed_type

    def eagerly(model: Any = None, *_: Any, **__: Any) -> Any:
        return compile_(model, backend="eager")

    def seen(asked: Any, model: Any) -> None:
        compiled.append(type(model).__name__)
        check(asked, model)

    monkeypatch.setattr(torch, "compile", eagerly)
    monkeypatch.setattr(shared_trainer, "assert_distributed_type", seen)
    run_training(NAME, tmp_path / "v001", tiny_config(method="lora", torch_compile=True))
    assert compiled == ["OptimizedModule", "OptimizedModule"]


@pytest.mark.slow
def test_a_tower_that_a_phase_sent_away_is_back_for_the_phase_that_trains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[str] = []
    monkeypatch.setattr(TowerPlace, "release", lambda self: moves.append("away") or 0)
    monkeypatch.setattr(TowerPlace, "restore", lambda self: moves.append("back"))
    phases = [PHASES[0], {**PHASES[1], "unfreeze": ["merger"]}]
    config = tiny_config(method="lora", curriculum=phases, vision_cache="memory")
    run_training(NAME, tmp_path / "v001", config)
    assert "away" in moves
    assert moves[-1] == "back"
    last_step = [row for row in read_rows(tmp_path / "v001" / "metrics.jsonl") if "loss" in row][-1]
    assert last_step["phase"] == "large"
