"""The lessons in their order, and the loop that gives them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from pretraining.batches import Batch, Level, reading_batch, tower_batch
from pretraining.reader import Reader

SEED = 20260101
STRIPS = ((4, 2), (6, 2), (8, 2), (5, 2))
SMALL = ((4, 3), (6, 3), (6, 4), (8, 3))
MIDDLE = ((6, 5), (8, 4), (8, 6), (10, 5), (10, 4))


@dataclass(frozen=True)
class Lesson:
    """One stretch of training."""

    name: str
    steps: int
    level: Level
    rate: float
    """Peak learning rate."""

    reads: bool = True
    """False: only the tower learns, from the characters' places."""


LESSONS = (
    Lesson("glance", 400, Level((*SMALL, *MIDDLE), 200, 1400), 1.5e-3, reads=False),
    Lesson("tower", 2200, Level((*STRIPS, *SMALL), 200, 700, 0.7, 0.2), 1.5e-3, reads=False),
    Lesson("strips", 300, Level(STRIPS, 30, 700), 1e-3),
    Lesson("lines", 600, Level((*STRIPS, *SMALL), 40, 750), 1e-3),
    Lesson("middle", 900, Level((*SMALL, *MIDDLE), 110, 900), 1e-3),
    Lesson("pages", 1400, Level((*SMALL, *MIDDLE), 130, 900), 1e-3),
    Lesson("last", 1400, Level((*SMALL, *MIDDLE), 130, 900), 1e-3),
)
WARMUP = 150


class _Batches(Dataset):  # type: ignore[type-arg]
    """The batches of one lesson by their number."""

    def __init__(self, lesson: Lesson, tokenizer: Any) -> None:
        self.lesson, self.tokenizer = lesson, tokenizer

    def __len__(self) -> int:
        return self.lesson.steps

    def __getitem__(self, step: int) -> Batch:
        seed = f"{SEED}:{self.lesson.name}:{step}"
        if self.lesson.reads:
            return reading_batch(self.lesson.level, seed, self.tokenizer)
        return tower_batch(self.lesson.level, seed)


class Course:
    """The model, its optimizer and how far it has come; kept in a checkpoint."""

    def __init__(self, reader: Reader, tokenizer: Any, folder: Path, workers: int = 1) -> None:
        self.reader, self.tokenizer, self.folder = reader, tokenizer, folder
        self.workers = workers
        self.device = next(reader.parameters()).device
        self.optimizer = torch.optim.AdamW(
            _groups(reader), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.02, fused=True
        )
        self.lesson, self.step = 0, 0
        self._resume()

    def run(self, log: Callable[[str], None]) -> None:
        """Give every lesson that has not been given."""
        while self.lesson < len(LESSONS):
            self._give(LESSONS[self.lesson], log)
            self.lesson, self.step = self.lesson + 1, 0
            self.save()

    def save(self) -> None:
        """Write the checkpoint aside, then rename it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / "checkpoint.part"
        state = {
            "reader": self.reader.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lesson": LESSONS[self.lesson].name if self.lesson < len(LESSONS) else None,
            "step": self.step,
        }
        torch.save(state, aside)
        os.replace(aside, self.folder / "checkpoint.pt")

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True, map_location=self.device)
        self.reader.load_state_dict(state["reader"])
        self.optimizer.load_state_dict(state["optimizer"])
        names = [lesson.name for lesson in LESSONS]
        self.lesson = names.index(state["lesson"]) if state["lesson"] else len(LESSONS)
        self.step = state["step"]

    def _give(self, lesson: Lesson, log: Callable[[str], None]) -> None:
        batches = DataLoader(
            _Batches(lesson, self.tokenizer),
            batch_size=None,
            sampler=range(self.step, lesson.steps),  # type: ignore[arg-type]
            num_workers=self.workers,
            prefetch_factor=6,
        )
        began, seen = time.monotonic(), 0
        seen_figures: dict[str, list[float]] = {}
        for batch in batches:
            losses = self._learn(lesson, batch)
            seen += len(batch.pages)
            for name, value in losses.items():
                seen_figures.setdefault(name, []).append(float(value.detach()))
            self.step += 1
            if self.step % 50 == 0:
                rate = seen / (time.monotonic() - began)
                figures = " ".join(f"{n} {_mean(each):.4f}" for n, each in seen_figures.items())
                log(f"{lesson.name} {self.step}/{lesson.steps} {figures} {rate:.0f} pages/s")
                seen_figures = {}
            if self.step % 250 == 0:
                self.save()

    def _learn(self, lesson: Lesson, batch: Batch) -> dict[str, torch.Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = _rate(lesson, self.step)
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            if lesson.reads:
                losses = self.reader.reading_losses(batch)
            else:
                losses = self.reader.tower_losses(batch)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.reader.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses


def _mean(values: list[float]) -> float:
    """Over those that are numbers: a batch without a drawing says nothing of strokes."""
    there = [value for value in values if not math.isnan(value)]
    return sum(there) / len(there) if there else math.nan


def _groups(reader: Reader) -> list[dict[str, Any]]:
    """Decay on matrices only."""
    named = [p for p in reader.parameters() if p.requires_grad]
    return [
        {"params": [p for p in named if p.ndim >= 2]},
        {"params": [p for p in named if p.ndim < 2], "weight_decay": 0.0},
    ]


def _rate(lesson: Lesson, step: int) -> float:
    warm = min(1.0, (step + 1) / WARMUP) if lesson.name in _NEW else 1.0
    falling = _FALLING.get(lesson.name)
    left = (lesson.steps - step) / (falling * lesson.steps) if falling else 1.0
    return lesson.rate * warm * max(0.05, min(1.0, left))


_NEW = ("glance", "tower", "strips")
"""Lessons that begin with a rising rate: they ask for what was not asked before."""

_FALLING = {"tower": 0.2, LESSONS[-1].name: 1.0}
"""Share of a lesson, at its end, in which the rate falls to a twentieth."""
