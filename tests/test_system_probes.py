"""Probes of the machine, against what other means say of it."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from vlmpipe.system import facts, libraries, probes, weights


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def fake_smi(folder: Path, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{rows}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_torch_says_the_same_of_its_cuda_build() -> None:
    code = "import torch; print(torch.version.cuda or '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    built = probes.torch_cuda_build()
    assert (".".join(map(str, built)) if built else "") == done.stdout.strip()


@pytest.mark.usefixtures("no_gpu")
def test_the_machine_is_described() -> None:
    machine = probes.probe_machine()
    assert machine.python == platform.python_version()
    assert machine.ram_gib > 0
    assert machine.gpus == ()
    assert machine.driver_cuda is None


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (
        "0, GPU-11, NVIDIA H200, 143771, 143000, 9.0, 580.159.03\n"
        "1, GPU-22, Tesla V100, 32768, [N/A], 7.0, 580.159.03"
    )
    fake_smi(tmp_path, rows, monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second = probes.visible_gpus()
    assert first.name == "NVIDIA H200"
    assert first.free_gib == 143000 / 1024
    assert first.has_bf16
    assert second.free_gib is None
    assert not second.has_bf16


@pytest.mark.parametrize(
    ("shown", "seen"), [("1", [1]), ("GPU-1", [0]), ("1,0", [0, 1]), ("", []), ("-1", [])]
)
def test_hidden_gpus_are_left_out(
    shown: str, seen: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "0, GPU-11, A, 1024, 1024, 8.0, 5\n1, GPU-22, B, 1024, 1024, 8.0, 5"
    fake_smi(tmp_path, rows, monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert [gpu.index for gpu in probes.visible_gpus()] == seen


def test_a_broken_nvidia_smi_means_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_smi(tmp_path, "NVIDIA-SMI has failed: the driver does not answer", monkeypatch)
    assert probes.visible_gpus() == ()


def test_free_disk_of_a_folder_that_is_yet_to_be_made(tmp_path: Path) -> None:
    assert probes.free_disk_gib(tmp_path / "not" / "yet") > 0


def test_facts_hold_versions_and_no_card_names() -> None:
    found = facts.run_facts()
    assert found["libraries"]["pydantic"] == version("pydantic")
    assert found["device"]["cpu_count"] >= 1
    assert all("uuid" not in gpu for gpu in found["device"]["gpus"])


def test_the_commit_is_that_of_this_checkout() -> None:
    root = Path(facts.__file__).resolve().parents[3]
    if not (root / ".git").exists():
        pytest.skip("not run from a git checkout")
    head = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert (facts.git_commit() or "").removesuffix("-dirty") == head.stdout.strip()


def test_declared_libraries_follow_the_extras() -> None:
    base = {library.name for library in libraries.declared_libraries(())}
    train = {library.name for library in libraries.declared_libraries(("train",))}
    assert "pydantic" in base
    assert "torch" not in base
    assert "torch" in train
    assert "pytest" not in train


@pytest.mark.parametrize(
    ("found", "specifier", "holds"),
    [
        ("2.13.0+cpu", ">=2.6", True),
        ("2.9.1+cu128", ">=2.9,<2.10", True),
        ("2.5.1", ">=2.6", False),
    ],
)
def test_local_parts_of_a_version_do_not_count(found: str, specifier: str, holds: bool) -> None:
    assert libraries.within(found, specifier) is holds


@pytest.mark.parametrize(
    ("model_id", "kind"),
    [
        ("embedded:tiny", "embedded"),
        ("Qwen/Qwen3-VL-4B-Instruct", "hub"),
        ("./model", "folder"),
        ("/data/model", "folder"),
        ("a/b/c", "folder"),
    ],
)
def test_kinds_of_model_ids(model_id: str, kind: str) -> None:
    assert weights.model_kind(model_id) == kind


def test_a_damaged_weight_file_gives_no_size(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    assert weights.parameter_count(tmp_path) is None


def test_weights_in_the_hub_cache_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--Qwen--Qwen3-8B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    assert weights.local_weights("Qwen/Qwen3-8B") is None
    (snapshot / "model.safetensors").touch()
    assert weights.local_weights("Qwen/Qwen3-8B") == snapshot
