"""What a training benchmark is run on: model and samples written to a folder, and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import train_data
import train_model
from train_process import Recipe

from vlmpipe.models.loading import load_tokenizer
from vlmpipe.training.watch.peak_flops import peak_flops

LIBRARIES = ("vlmpipe", "torch", "transformers", "trl", "peft", "accelerate", "datasets",
             "bitsandbytes")  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Samples, and what one epoch of them takes."""

    workload: dict[str, Any]
    lengths: list[tuple[int, int]]
    """Of each sample: tokens, and how many of them are supervised."""

    flops: float
    """That LoRA needs."""

    peak_flops: float
    """FLOP/s of a matrix product on this device."""

    @property
    def tokens(self) -> int:
        """Of an epoch."""
        return sum(length for length, _ in self.lengths)

    @property
    def needed_s(self) -> float:
        """Seconds of a sample at the device's peak."""
        return self.flops / self.peak_flops / len(self.lengths)


def prepare(
    folder: Path, recipe: Recipe, samples: int, shape: str, workload: str, device: str = "cpu"
) -> Setting:
    """Write model and samples, and count what training on them takes."""
    if not (folder / "model").exists():
        train_model.write_model(train_model.SHAPES[shape], folder / "model", device)
    tokenizer = load_tokenizer(folder / "model")
    pages = train_data.draw_pages(samples, tokenizer, train_data.WORKLOADS[workload])
    train_data.write_samples(pages, folder / "data")
    lengths = train_data.sample_lengths(pages, tokenizer)
    return Setting(
        workload=train_data.describe(pages, tokenizer),
        lengths=lengths,
        flops=train_model.lora_flops(train_model.SHAPES[shape], recipe, lengths),
        peak_flops=peak_flops(device, recipe.dtype),
    )


def circumstances(program: str) -> dict[str, Any]:
    """What was run, when and where."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return {
        "command": " ".join(["python", f"benchmarks/{program}", *map(_shown, sys.argv[1:])]),
        "commit": commit.stdout.strip() or None,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "kernel": platform.release().split("-")[0],
            "python": platform.python_version(),
            "load_average": [round(value, 1) for value in os.getloadavg()],
        },
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _shown(word: str) -> str:
    """A word of the command; of an absolute path its last part: others have other machines."""
    return Path(word).name if Path(word).is_absolute() else word
