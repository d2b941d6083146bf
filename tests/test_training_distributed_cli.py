"""`vlmpipe train` in two processes, launched by itself and by `accelerate launch`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from vlmpipe.errors import StageError

ROOT = Path(__file__).resolve().parents[1]
ACCELERATE = ROOT / "configs" / "accelerate"
VLMPIPE = [sys.executable, "-m", "vlmpipe"]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
SHORT = (
    "train.max_steps=2",
    "train.batch_size=1",
    "train.checkpoint_steps=[]",
    "train.lora.r=4",
)


def run(argv: Sequence[str], outputs: Path) -> subprocess.CompletedProcess[str]:
    words = ["-c", str(ROOT / "configs" / "tiny-text.yaml"), f"run.outputs_dir={outputs}", *SHORT]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*argv, *words], env=environment, capture_output=True, text=True, check=False, timeout=540
    )


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose setup is done."""
    folder = tmp_path_factory.mktemp("outputs")
    assert run([*VLMPIPE, "run-all", "--to", "setup"], folder).returncode == 0
    return folder


@pytest.mark.slow
def test_two_processes_make_one_version_and_print_as_one(outputs: Path) -> None:
    ended = run([*VLMPIPE, "train", "--num-processes", "2"], outputs)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert ended.stdout.count("done: v001") == 1
    versions = outputs / "tiny-text" / "2_train"
    manifest = json.loads((versions / "v001" / "manifest.json").read_text())
    assert manifest["metrics"]["train/steps"] == 2
    assert "--num-processes" in manifest["argv"]


@pytest.mark.slow
def test_under_accelerate_launch_the_same_version_is_found_again(outputs: Path) -> None:
    made = run([*VLMPIPE, "train", "--num-processes", "2"], outputs)
    assert made.returncode == 0, made.stderr[-3000:]
    file = ["--config_file", str(ACCELERATE / "ddp.yaml")]
    found = run([*LAUNCH, *file, "-m", "vlmpipe", "train"], outputs)
    assert found.returncode == 0, found.stderr[-3000:]
    assert found.stdout.count("cached") == 1


@pytest.mark.slow
def test_a_4_bit_base_is_not_spread(outputs: Path) -> None:
    """One error, in process 0's words, and no trace of any library."""
    argv = [*VLMPIPE, "train", "--force", "--num-processes", "2"]
    ended = run([*argv, "--accelerate-config", str(ACCELERATE / "fsdp2.yaml")], outputs)
    assert ended.returncode == StageError.exit_code
    assert ended.stderr.count("error in stage train") == 1
    assert "train.method=qlora under FSDP2" in ended.stderr
    assert "Traceback" not in ended.stderr
