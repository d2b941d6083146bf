"""What both sides of the training benchmark share: settings, clocks, and the words they report in.

Each side is a program of its own that prints one JSON object (`SideResult`) as its last line.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Recipe:
    """What is equal on both sides."""

    epochs: int = 3
    samples_a_step: int = 8
    lora_r: int = 16
    lora_alpha: int = 32
    learning_rate: float = 2e-4
    checkpointing: bool = True
    dtype: str = "bfloat16"
    quantization: str | None = None
    """`nf4`: a 4-bit base; None: a base in `dtype`."""

    threads: int = 2
    seed: int = 20261103


@dataclass
class SideResult:
    """One training in a process of its own; seconds from the process's start."""

    side: str
    settings: dict[str, object]
    samples: int
    """Samples trained on, counted once in every epoch."""

    steps: int
    losses: list[float]
    """Of each optimiser step."""

    loaded_at_s: float
    """The model is in memory and nothing else was done yet."""

    loaded_bytes: int
    """Anonymous memory at that moment."""

    training_s: float
    """What the samples a second are counted over."""

    started_s: float = 0.0
    """What a side does once before it trains, told apart: proofs and dry runs."""

    step_ends_s: list[float] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)


def emit(result: SideResult) -> None:
    """Print the result for the program that started this one."""
    print(json.dumps(asdict(result)), flush=True)


def anonymous_bytes(pid: int | str = "self") -> int:
    """RssAnon of a process: memory of its own, mapped files left out; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 if found else 0


def process_age_s() -> float:
    """Seconds since this process began, imports included."""
    ticks = float(Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def use_threads(count: int) -> None:
    """The same number of threads on both sides."""
    import torch

    torch.set_num_threads(count)
