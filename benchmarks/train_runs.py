"""Trainings of the training benchmark, each in a process of its own, their memory watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from train_process import Recipe, SideResult, anonymous_bytes, now, read_result

HERE = Path(__file__).parent
SAMPLE_S = 0.01
TRL_BATCHES = (1, 2, 4, 8)


class SideError(RuntimeError):
    """A side's program ended with an error."""


@dataclass(frozen=True)
class Run:
    """One training in a process of its own, with its memory watched."""

    side: str
    settings: dict[str, Any]
    samples: int
    training_s: float
    ready_s: float
    epochs_s: list[float]
    """Each epoch's share of the training time; the first begins with filling the cache."""

    loaded_bytes: int
    peak_bytes: int
    """While training."""

    process_peak_bytes: int
    """From the process's start to its end."""

    device_peak_bytes: int
    losses: list[float]
    facts: dict[str, Any]

    @property
    def samples_per_s(self) -> float:
        """Of training."""
        return self.samples / self.training_s

    @property
    def line(self) -> str:
        """For whoever watches."""
        return (
            f"{self.side} {self.settings}: {self.samples_per_s:.3f} samples/s,"
            f" {self.training_s:.1f} s ({self.ready_s:.1f} s with proofs),"
            f" {self.risen_bytes / 1e6:.0f} MB over the model,"
            f" {self.process_peak_bytes / 1e6:.0f} MB in all"
        )

    @property
    def risen_bytes(self) -> int:
        """What training took beside the model."""
        return self.peak_bytes - self.loaded_bytes


def run_trl(folder: Path, recipe: Recipe, batch: int) -> Run:
    """Plain TRL."""
    return run("train_trl.py", folder, recipe, "--batch", str(batch))


@dataclass(frozen=True)
class OurBatches:
    """How vlmpipe's parts put samples together; each step has about the recipe's samples."""

    samples: int
    """To a forward pass, where neither budget nor packing says otherwise: TRL's fastest."""

    tokens: int
    """The token budget."""

    accumulation: int
    """Budgets to a step."""

    def words(self, part: str) -> tuple[str, ...]:
        """For the program's command line; packing one sample alone would be nothing."""
        samples = max(self.samples, 2) if part == "packing" else self.samples
        given = {"part": part, "batch": samples, "batch-tokens": self.tokens,
                 "accumulation": self.accumulation}  # fmt: skip
        return tuple(word for name, value in given.items() for word in (f"--{name}", str(value)))


def our_batches(recipe: Recipe, samples: int, budget: int, mean_tokens: float) -> OurBatches:
    """As many budgets to a step as the recipe's samples take on average."""
    budgets = max(1, round(recipe.samples_a_step * mean_tokens / budget))
    return OurBatches(samples, budget, budgets)


def run_ours(folder: Path, recipe: Recipe, part: str, batches: OurBatches) -> Run:
    """vlmpipe with some of its savings."""
    return run("train_ours.py", folder, recipe, *batches.words(part))


def run(program: str, folder: Path, recipe: Recipe, *words: str) -> Run:
    """One side's program, watched to its end.

    Raises:
        SideError: with the end of what it wrote.
    """
    given = ["--folder", str(folder), "--recipe", json.dumps(asdict(recipe)), *words]
    environment = dict(os.environ)
    if recipe.threads:
        environment["OMP_NUM_THREADS"] = str(recipe.threads)
    memory: list[tuple[float, int]] = []
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = [sys.executable, str(HERE / program), *given]
        with subprocess.Popen(command, stdout=out, stderr=err, env=environment) as process:
            while process.poll() is None:
                memory.append((now(), anonymous_bytes(process.pid)))
                time.sleep(SAMPLE_S)
        err.seek(0)
        out.seek(0)
        if process.returncode:
            raise SideError(f"{program} {' '.join(words)}:\n{err.read().decode()[-3000:]}")
        result = read_result(out.read().decode().splitlines()[-1])
    done = watched(result, recipe.epochs, memory)
    print(done.line, flush=True)
    return done


def trl_by_batch(folder: Path, recipe: Recipe) -> list[Run]:
    """TRL, one epoch, at every batch size of the same samples a step that the GPU holds."""
    runs = []
    for batch in TRL_BATCHES:
        try:
            runs.append(run_trl(folder, replace(recipe, epochs=1), batch))
        except SideError as failure:
            if "OutOfMemoryError" not in str(failure):
                raise
            print(f"trl, {batch} samples to a forward pass: out of memory", flush=True)
    return runs


def fastest(runs: Sequence[Run]) -> int:
    """The batch size of the fastest."""
    return int(max(runs, key=lambda each: each.samples_per_s).settings["batch"])


def watched(result: SideResult, epochs: int, memory: Sequence[tuple[float, int]]) -> Run:
    """What a side reported, with the peaks of its memory."""
    inside = [size for at, size in memory if any(a <= at <= b for a, b in result.spans)]
    return Run(
        side=result.side,
        settings=result.settings,
        samples=result.samples,
        training_s=result.training_s,
        ready_s=result.ready_s,
        epochs_s=epoch_seconds(result.spans, result.step_ends, epochs),
        loaded_bytes=result.loaded_bytes,
        peak_bytes=max(inside, default=0),
        process_peak_bytes=max((size for _, size in memory), default=0),
        device_peak_bytes=result.device_peak_bytes,
        losses=result.losses,
        facts=result.facts,
    )


def epoch_seconds(
    spans: Sequence[tuple[float, float]], step_ends: Sequence[float], epochs: int
) -> list[float]:
    """Training time by epoch, each taken to have as many steps; a step that two epochs share is
    divided in proportion.

    What is not training lies between spans and counts for none. The time after the last step
    (a checkpoint) is left out.
    """
    done = [0.0]
    done += [sum(max(0.0, min(end, at) - start) for start, end in spans) for at in step_ends]
    bounds = [_at(done, len(step_ends) * each / epochs) for each in range(epochs + 1)]
    return [high - low for low, high in pairwise(bounds)]


def _at(done: Sequence[float], steps: float) -> float:
    """Seconds after a number of steps, whole or not."""
    below = min(int(steps), len(done) - 1)
    above = min(below + 1, len(done) - 1)
    return done[below] + (done[above] - done[below]) * (steps - below)
