"""What both sides of the training benchmark share: the recipe, a clock, and how they report.

Each side is a program of its own that prints one JSON object (`SideResult`) as its last line. Its
times are seconds of the machine's clock since it was started, so that the program that watches the
memory can tell a training's peak from that of what went before.
"""

from __future__ import annotations

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
    threads: int = 2
    seed: int = 20261103


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
    """Seconds of a clock that all processes of a machine share."""
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

    def model_is_loaded(self) -> None:
        """Note the moment and the memory."""
        self.loaded_at = now()
        self.loaded_bytes = anonymous_bytes()

    def timed(self, function: Any) -> Any:
        """The function, its duration counted as training."""

        def with_clock(*words: Any, **named: Any) -> Any:
            start = now()
            try:
                return function(*words, **named)
            finally:
                self.spans.append((start, now()))

        return with_clock

    def callback(self) -> Any:
        """A trainer's callback that notes steps and losses."""
        from transformers import TrainerCallback

        clock = self

        class Steps(TrainerCallback):
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
            facts=facts,
        )
