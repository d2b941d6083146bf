"""Whole trainings in two processes: interrupted, killed, failed, and what the others then do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from launched import launched
from model_folders import model_folder
from vlmpipe.errors import StageError

WORKER = Path(__file__).with_name("together_worker.py")
PHASES = [
    {"name": "small", "max_size": [112, 112], "max_steps": 3},
    {"name": "large", "max_size": [168, 168], "max_steps": 3},
]
TRAIN = {"method": "lora", "curriculum": PHASES, "checkpoint_steps": [1, 3], "save_steps": None}
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def run(
    folder: Path,
    processes: int,
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> list[subprocess.CompletedProcess[str]]:
    """The steps of two forward passes each, shared by the processes."""
    train = {**TRAIN, "gradient_accumulation": 2 // processes}
    words = [str(model_folder("random-qwen2_5_vl")), str(folder)]
    argv = [sys.executable, str(WORKER), *words, json.dumps({"train": train, **settings})]
    return launched(argv, processes, environment)


def said(process: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The last line that a process printed."""
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def codes(ended: list[subprocess.CompletedProcess[str]]) -> list[int]:
    return [process.returncode for process in ended]


def curve(folder: Path) -> list[float]:
    """Training losses, then held-out ones."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    losses = [row["loss"] for row in rows if "loss" in row]
    return [*losses, *(row["eval_loss"] for row in rows if "eval_loss" in row)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, two forward passes to a step, never interrupted."""
    folder = tmp_path_factory.mktemp("alone") / "v001"
    ended = run(folder, 1)
    assert codes(ended) == [0], ended[0].stderr[-3000:]
    return folder


def assert_same_training(folder: Path, expected: Path) -> None:
    assert curve(folder) == pytest.approx(curve(expected), rel=1e-6)
    found = load_file(folder / "adapter" / "adapter_model.safetensors")
    weights = load_file(expected / "adapter" / "adapter_model.safetensors")
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        # Adam makes a step of a gradient's sign: what is nearly zero may differ in it.
        assert (found[name] - weight).abs().max() < 1e-5, name


@pytest.mark.slow
def test_ddp_stops_where_one_process_is_told_to_and_goes_on_to_one_process_s_losses(
    tmp_path: Path, alone: Path
) -> None:
    folder = tmp_path / "v001"
    ended = run(folder, 2, interrupt=1)
    assert codes(ended) == [130, 130]
    assert "after step 2 of 6 and was saved" in said(ended[0])["interrupted"][0]
    assert codes(run(folder, 2)) == [0, 0]
    assert_same_training(folder, alone)


@pytest.mark.slow
def test_fsdp2_with_a_killed_process_ends_and_goes_on_to_one_process_s_losses(
    tmp_path: Path, alone: Path
) -> None:
    folder = tmp_path / "v001"
    ended = run(folder, 2, FSDP2, kill=4)
    assert codes(ended) == [StageError.exit_code, -signal.SIGKILL]
    assert "another process of this training is gone" in said(ended[0])["error"]
    assert codes(run(folder, 2, FSDP2)) == [0, 0]
    assert_same_training(folder, alone)


@pytest.mark.slow
def test_what_one_process_fails_of_is_process_0_s_error(tmp_path: Path) -> None:
    ended = run(tmp_path / "v001", 2, fail=True)
    assert codes(ended) == [StageError.exit_code] * 2, ended[0].stderr[-2000:]
    assert said(ended[0])["error"] == "process 1 of 2: sample 7 of data.jsonl is no image"
    assert said(ended[0])["remedies"] == ["leave it out"]


@pytest.mark.slow
def test_with_nothing_to_train_all_end_quietly(tmp_path: Path) -> None:
    ended = run(tmp_path / "v001", 2, idle=True)
    assert codes(ended) == [0, 0]
    assert [process.stdout for process in ended] == ["", ""]


@pytest.mark.slow
def test_nobody_waits_for_a_process_0_that_died_before_it_gave_its_word(tmp_path: Path) -> None:
    ended = run(tmp_path / "v001", 2, die=True)
    assert codes(ended) == [-signal.SIGKILL, StageError.exit_code]
