"""Whole runs of the `vlmpipe` program, as a person starts them, on the smallest of models."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = (sys.executable, "-m", "vlmpipe")
STAGES = ("check", "setup", "train", "validate", "merge", "convert", "deploy")
NAME = "micro"
FAILS_AFTER_S = 300
"""A run that takes longer than this hangs."""

SETTINGS: dict[str, Any] = {
    "run": {"name": NAME},
    "model": {"id": "embedded:random-qwen2_5_vl"},
    "data": {
        "task": "table",
        "synthetic": {"n": 6, "difficulty": [0.0, 0.1]},
        "heldout_fraction": 0.34,
    },
    "train": {
        "max_steps": 4,
        "checkpoint_steps": [2, 4],
        "learning_rate": 5e-3,
        "gradient_accumulation": 1,
        "gradient_checkpointing": False,
        "curriculum": [{"name": "small", "max_size": [112, 112]}],
    },
    "validate": {
        "train_probes": 1,
        "heldout_samples": 2,
        "max_new_tokens": 16,
        "max_overfit_gap": 1.0,
        "min_image_gain": -100.0,  # four steps teach nobody to look; what fails, a test asks for
        "gate": "report",
    },
    "merge": {"gate": "report"},
    "parity": {"probes": 2, "max_new_tokens": 16},
    "convert": {"quants": ["q8_0"], "gate": "report"},
    "deploy": {"max_new_tokens": 16, "load_requests": 2, "threads": 1, "gate": "report"},
}


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


class Road:
    """One run's folder and the commands given to it."""

    def __init__(self, folder: Path, *files: Path) -> None:
        self.outputs = folder / "outputs"
        own = folder / "micro.yaml"
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(json.dumps(SETTINGS), encoding="utf-8")
        self.files = files or (own,)

    def copy(self, folder: Path) -> Road:
        """The same run, published versions and all, in another place."""
        other = Road(folder)
        shutil.copytree(self.outputs, other.outputs, symlinks=True)
        return other

    def argv(self, command: str, *words: str) -> list[str]:
        layers = [word for file in self.files for word in ("-c", str(file))]
        return [command, *layers, f"run.outputs_dir={self.outputs}", *words]

    def start(
        self, command: str, *words: str, program: Sequence[str] = PROGRAM
    ) -> subprocess.Popen[str]:
        """Begin a command in a process group of its own."""
        return subprocess.Popen(
            [*program, *self.argv(command, *words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )

    def run(
        self, command: str, *words: str, code: int = 0, program: Sequence[str] = PROGRAM
    ) -> Finished:
        """A command to its end, which must be this exit code."""
        process = self.start(command, *words, program=program)
        try:
            stdout, stderr = process.communicate(timeout=FAILS_AFTER_S)
        finally:
            kill_group(process)
        assert process.returncode == code, f"exit code {process.returncode}\n{stdout}\n{stderr}"
        assert "Traceback" not in stderr
        return Finished(process.returncode, stdout, stderr)

    @property
    def folder(self) -> Path:
        return self.outputs / NAME

    def stage(self, name: str, version: str = "latest") -> Path:
        """Folder of a published version."""
        return self.folder / f"{STAGES.index(name)}_{name}" / version

    def manifest(self, name: str, version: str = "latest") -> Any:
        return json.loads((self.stage(name, version) / "manifest.json").read_bytes())

    def versions(self, name: str) -> list[str]:
        """Names of a stage's folders, unfinished ones too."""
        return sorted(path.name for path in self.stage(name, ".").glob("v*"))

    def published(self) -> dict[str, bytes]:
        """The manifests of all versions, the check's left out: it is made anew each time."""
        found = self.folder.glob("[1-6]_*/v*/manifest.json")
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}


def kill_group(process: subprocess.Popen[str]) -> None:
    """`kill -9` of a command and of all that it started in its group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def kill_when(process: subprocess.Popen[str], reached: Callable[[], object]) -> None:
    """`kill -9` as soon as the command has got so far."""
    wait_until(process, reached)
    kill_group(process)
    assert process.returncode == -signal.SIGKILL


def wait_until(process: subprocess.Popen[str], reached: Callable[[], object]) -> None:
    """Look every few milliseconds; fail when the command ends first."""
    end = time.monotonic() + FAILS_AFTER_S
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the command never got so far"
        time.sleep(0.003)
