"""Two gloo processes train as one does: replicated, spread, killed and resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launched import launched
from model_folders import model_folder

WORKER = Path(__file__).with_name("distributed_worker.py")
MODEL = "random-qwen2_5_vl"
SPREAD = {"asked": "fsdp2", "sharded": True}
CASES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp2": SPREAD,
    "fsdp2 in bf16": {**SPREAD, "dtype": "bfloat16", "checkpointing": True},
    "fsdp2, all weights": {**SPREAD, "method": "full"},
    "fsdp2 that accelerate was asked for": {"asked": "fsdp2"},
}
ALONE: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp2 in bf16": {"dtype": "bfloat16", "checkpointing": True},
    "fsdp2, all weights": {"method": "full"},
}


def seen(ended: list[subprocess.CompletedProcess[str]]) -> list[dict[str, Any]]:
    """What process 0 printed: one object a case."""
    assert all(process.returncode == 0 for process in ended), ended[-1].stderr[-3000:]
    return [json.loads(line) for line in ended[0].stdout.splitlines() if line.startswith('{"')]


def worker(cases: dict[str, dict[str, Any]], folder: Path) -> list[str]:
    placed = [
        {**case, "folder": str(folder / name.replace(" ", "-"))} for name, case in cases.items()
    ]
    return [sys.executable, str(WORKER), str(model_folder(MODEL)), json.dumps(placed)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def together(folder: Path) -> dict[str, dict[str, Any]]:
    """Each case in two processes, one forward pass to a step in each."""
    return dict(zip(CASES, seen(launched(worker(CASES, folder), 2)), strict=True))


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, dict[str, Any]]:
    """The same steps in one process: two forward passes to a step."""
    cases = {name: {**case, "accumulation": 2} for name, case in ALONE.items()}
    ended = launched(worker(cases, folder / "alone"), 1)
    by_name = dict(zip(ALONE, seen(ended), strict=True))
    return {**by_name, "fsdp2": by_name["ddp"]}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["ddp", "fsdp2", "fsdp2 in bf16", "fsdp2, all weights"])
def test_two_processes_take_the_steps_of_one_with_twice_the_accumulation(
    case: str, together: dict[str, dict[str, Any]], alone: dict[str, dict[str, Any]]
) -> None:
    tolerance = 1e-3 if "bf16" in case else 1e-6
    assert together[case]["losses"] == pytest.approx(alone[case]["losses"], rel=tolerance)
    assert together[case]["norms"] == pytest.approx(alone[case]["norms"], rel=10 * tolerance)
    assert together[case]["weights"] == pytest.approx(alone[case]["weights"], rel=tolerance)
    assert len(set(alone[case]["losses"])) == 4


@pytest.mark.slow
def test_ddp_in_place_of_the_fsdp_that_was_asked_for_is_seen(
    together: dict[str, dict[str, Any]],
) -> None:
    error = together["fsdp2 that accelerate was asked for"]["error"]
    assert "asked for FSDP2" in error
    assert "in force is DDP" in error


@pytest.mark.slow
def test_a_spread_checkpoint_is_one_process_s_and_goes_on_under_any_strategy(
    folder: Path, together: dict[str, dict[str, Any]]
) -> None:
    spread = {"resume": str(folder / "fsdp2" / "checkpoint-2")}
    whole = {"resume": str(folder / "ddp" / "checkpoint-2")}
    full = {"resume": str(folder / "fsdp2,-all-weights" / "checkpoint-2"), "method": "full"}
    cases = {
        "fsdp2 from fsdp2": {**SPREAD, **spread},
        "fsdp2 from ddp": {**SPREAD, **whole},
        "ddp from fsdp2": spread,
        "all weights, fsdp2 from fsdp2": {**SPREAD, **full},
        "all weights, ddp from fsdp2": full,
    }
    resumed = dict(zip(cases, seen(launched(worker(cases, folder / "on"), 2)), strict=True))
    for name, result in resumed.items():
        case = "fsdp2, all weights" if "all weights" in name else "fsdp2"
        expected = together[case]["losses"][2:]
        assert result["losses"] == pytest.approx(expected, rel=2e-6), name


@pytest.mark.slow
def test_when_a_process_is_killed_the_other_one_ends_and_a_checkpoint_is_left(
    folder: Path,
) -> None:
    cases = {"killed": {**SPREAD, "kill_after": 3}}
    first, second = launched(worker(cases, folder), 2)
    assert second.returncode == -signal.SIGKILL
    assert first.returncode == 1
    assert (folder / "killed" / "checkpoint-2" / "optimizer.pt").is_file()
