"""What both sides of the training benchmark share: the recipe, a clock, and how they report.

Each side is a program of its own that prints one JSON object (`SideResult`) as its last line. Its
times are seconds of the machine's clock since it was started, so that the program that watches the
memory can tell a training's peak from that of what went before.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


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
    quantised: bool = False
    """The base in NF4 with double quantisation; else in `dtype`."""

    threads: int | None = 2
    """Of torch, on both sides; None leaves it to torch."""

    seed: int = 20261103

    def lora(self, targets: str) -> dict[str, Any]:
        """PEFT's settings."""
        return {
            "r": self.lora_r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": 0.0,
            "target_modules": targets,
            "task_type": "CAUSAL_LM",
        }

    def use(self) -> None:
        """Set what holds for the whole process."""
        import torch

        if self.threads:
            torch.set_num_threads(self.threads)


def side_options() -> argparse.ArgumentParser:
    """What each side is told on its command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--recipe", type=_recipe, default=Recipe(), help="fields as JSON")
    parser.add_argument("--batch", type=int, default=1, help="samples to a forward pass")
    return parser


def _recipe(text: str) -> Recipe:
    return Recipe(**json.loads(text))


@dataclass
class SideResult:
    """One training in a process of its own."""

    side: str
    settings: dict[str, Any]
    samples: int
    """Samples trained on, counted anew in every epoch."""

    steps: int
    losses: list[float]
    """Of each optimiser step."""

    loaded_at: float
    """When the model was in memory, and nothing else done yet."""

    loaded_bytes: int
    """Anonymous memory at that moment."""

    spans: list[tuple[float, float]]
    """From and to: what the samples a second are counted over."""

    ready_s: float
    """From the model in memory to the end of training: with all that is done once at the start."""

    step_ends: list[float]
    device_peak_bytes: int = 0
    """Most that torch had allocated on the GPU while training, the model included."""

    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def training_s(self) -> float:
        """Seconds of the spans."""
        return sum(end - start for start, end in self.spans)


def emit(result: SideResult) -> None:
    """Print the result for the program that started this one."""
    print(json.dumps(asdict(result)), flush=True)


def read_result(line: str) -> SideResult:
    """What `emit` printed."""
    fields = json.loads(line)
    return SideResult(**{**fields, "spans": [tuple(span) for span in fields["spans"]]})


def now() -> float:
    """Seconds of a clock that all processes of a machine share, the GPU's work done."""
    import sys

    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def anonymous_bytes(pid: int | str = "self") -> int:
    """RssAnon of a process: memory of its own, mapped files left out; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 if found else 0


class Clock:
    """When the model was loaded, when a training began and ended, when each of its steps ended."""

    def __init__(self) -> None:
        self.loaded_at = 0.0
        self.loaded_bytes = 0
        self.spans: list[tuple[float, float]] = []
        self.step_ends: list[float] = []
        self.losses: list[float] = []
        self.device_peak_bytes = 0

    def model_is_loaded(self) -> None:
        """Note the moment and the memory."""
        self.loaded_at = now()
        self.loaded_bytes = anonymous_bytes()

    def timed(self, function: Any) -> Any:
        """The function, its duration counted as training."""

        def with_clock(*words: Any, **named: Any) -> Any:
            import torch

            if torch.cuda.is_initialized():
                torch.cuda.reset_peak_memory_stats()
            start = now()
            try:
                return function(*words, **named)
            finally:
                self.spans.append((start, now()))
                if torch.cuda.is_initialized():
                    peak = torch.cuda.max_memory_allocated()
                    self.device_peak_bytes = max(self.device_peak_bytes, peak)

        return with_clock

    def callback(self) -> Any:
        """A trainer's callback that notes steps and losses."""
        from transformers import TrainerCallback

        clock = self

        class Steps(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                clock.step_ends.append(now())

            def on_log(self, args: Any, state: Any, control: Any, **extra: Any) -> None:
                if "loss" in (extra.get("logs") or {}):
                    clock.losses.append(float(extra["logs"]["loss"]))

        return Steps()

    def result(
        self, side: str, settings: dict[str, Any], samples: int, facts: dict[str, Any]
    ) -> SideResult:
        """All of it, at the end of the training."""
        return SideResult(
            side=side,
            settings=settings,
            samples=samples,
            steps=len(self.step_ends),
            losses=self.losses,
            loaded_at=self.loaded_at,
            loaded_bytes=self.loaded_bytes,
            spans=self.spans,
            ready_s=self.spans[-1][1] - self.loaded_at,
            step_ends=self.step_ends,
            device_peak_bytes=self.device_peak_bytes,
            facts=facts,
        )
