"""Optimiser steps whose loss or gradient is no number: left out, counted, told, and at last fatal.

A step is left out by dropping its gradients before the optimiser runs: weights and optimiser state
stay as they were, bit for bit, and the schedule goes on. All processes decide alike: micro-batch
losses are gathered, and the gradient's norm is that of the reduced gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.encoding.conversation import Sample
from vlmpipe.errors import StageError
from vlmpipe.pipeline.events import Reporter
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.watch.rows import append_row, rows_of_phase

BAD_STEP = "bad_step"
TOLD_SAMPLES = 3
LAST_SCALE = 1.0
"""fp16's loss scale is halved until gradients fit; below this it is not the scale's fault."""

MicroBatches = Callable[[int], Sequence[Sequence[Sample]]]
"""Samples of each micro-batch of a step within the phase, over all processes, in plan order:
number m is process m % W's."""


@dataclass(frozen=True)
class BadStep:
    """One step that was left out."""

    step: int
    """Over all phases."""

    what: str
    """`the loss is nan`, or `the gradient's norm is inf`."""

    samples: Sequence[Sample]
    """Of the micro-batches whose loss was no number; of the whole step where all of them were."""

    def __str__(self) -> str:
        told = ", ".join(f"{each.id} ({each.origin})" for each in self.samples[:TOLD_SAMPLES])
        more = len(self.samples) - TOLD_SAMPLES
        return f"step {self.step}: {self.what}; samples {told}" + (
            f" and {more} more" if more > 0 else ""
        )

    def row(self, phase: str) -> dict[str, Any]:
        """As it stands in metrics.jsonl."""
        samples = [{"id": each.id, "origin": each.origin} for each in self.samples]
        return {"step": self.step, "phase": phase, "event": BAD_STEP, "what": self.what} | {
            "samples": samples
        }


@dataclass
class StepGuard:
    """Judges the steps of one phase; the rows already written say how many were bad in a row."""

    phase: Phase
    config: Config
    micro_batches: MicroBatches
    metrics_path: Path
    reporter: Reporter
    is_main: bool = True
    """Whether this process writes rows."""

    in_a_row: int = 0
    last: list[BadStep] = field(default_factory=list)
    """The streak under way."""

    def __post_init__(self) -> None:
        for row in rows_of_phase(self.metrics_path, self.phase):
            if row.get("event") == BAD_STEP:
                self.in_a_row += 1
            elif "loss" in row:
                self.in_a_row = 0

    def judge(self, step: int, losses: Sequence[float], norm: float, scale: float | None) -> bool:
        """Whether `step` within the phase, counted from 0, is to be left out.

        `losses` are of all micro-batches in plan order, `norm` is the gradient's before clipping,
        `scale` is fp16's loss scale where there is one.

        Raises:
            StageError: when more than `train.watch.max_bad_steps` in a row were bad.
        """
        bad = self._bad(step, losses, norm, scale)
        if bad is None:
            self.in_a_row, self.last = 0, []
            return False
        self.in_a_row += 1
        self.last = [*self.last, bad]
        if self.is_main:
            append_row(self.metrics_path, bad.row(self.phase.name))
        if self.in_a_row > self.config.train.watch.max_bad_steps:
            raise self._too_many()
        self.reporter.note(f"left out {bad}")
        return True

    def _bad(
        self, step: int, losses: Sequence[float], norm: float, scale: float | None
    ) -> BadStep | None:
        wrong = [place for place, loss in enumerate(losses) if not math.isfinite(loss)]
        searching = scale is not None and scale > LAST_SCALE
        if not wrong and (math.isfinite(norm) or searching):
            return None
        batches = self.micro_batches(step)
        places = wrong or range(len(batches))
        what = f"the loss is {losses[wrong[0]]}" if wrong else f"the gradient's norm is {norm}"
        samples = [sample for place in places for sample in batches[place]]
        return BadStep(self.phase.first_step + step + 1, what, samples)

    def _too_many(self) -> StageError:
        train, bad = self.config.train, self.last[-1]
        return StageError(
            f"{_times(self.in_a_row)} no number at step {bad.step} (phase {self.phase.name}):"
            f" {bad.what}; no such step changed the weights, and the last checkpoint is good",
            f"lower the learning rate: train.learning_rate={train.learning_rate / 4:g}",
            "or train in a wider precision: model.dtype=float32",
            "or correct or remove the samples named above",
            f"or leave out more: train.watch.max_bad_steps={4 * max(self.in_a_row, 1)}",
            problems=[str(each) for each in self.last],
        )


class GuardedSteps:
    """Mixin before a transformers Trainer: holds each step against `guard`.

    `logging_nan_inf_filter` must be off. With DeepSpeed the step is taken within the backward pass
    and cannot be left out: there the first bad step stops the training.
    """

    guard: StepGuard

    # Of the Trainer that this is mixed into.
    accelerator: Any
    state: Any
    _losses: tuple[Any, ...] = ()
    _logged: float | None = None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Forward and backward of one micro-batch; its loss, 0 where that is no number.

        The Trainer adds losses up in one tensor that would never be a number again.
        """
        import torch

        loss = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        self._losses = (*self._losses, loss.detach())
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called once a step, after clipping and before the optimiser."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        if hasattr(norm, "full_tensor"):  # of a sharded model: each process holds its part
            norm = norm.full_tensor()
        losses = self._gathered_losses()
        self._logged = next((loss for loss in losses if not math.isfinite(loss)), None)
        value = 0.0 if norm is None else float(norm)
        if self.guard.judge(self.state.global_step, losses, value, self._scale()):
            self._refuse_under_deepspeed()
            model.zero_grad(set_to_none=True)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the loss as it was."""
        if self._logged is not None and "loss" in logs:
            logs["loss"] = self._logged
        super().log(logs, start_time)  # type: ignore[misc]

    def _gathered_losses(self) -> list[float]:
        """Of the step's micro-batches, in plan order; one collective and one wait a step."""
        import torch

        own, self._losses = torch.stack(self._losses).float(), ()
        by_process = self.accelerator.gather(own).view(-1, len(own))
        return [float(loss) for loss in by_process.T.flatten().tolist()]

    def _scale(self) -> float | None:
        scaler = getattr(self.accelerator, "scaler", None)
        return float(scaler.get_scale()) if scaler is not None else None

    def _refuse_under_deepspeed(self) -> None:
        from accelerate.utils import DistributedType

        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise StageError(
                f"{self.guard.last[-1]}; DeepSpeed has taken this step already, and the weights may"
                " be spoilt: the last checkpoint is good",
                "train with DDP or FSDP2, where such a step is left out: configs/accelerate/",
                f"or lower the learning rate: train.learning_rate="
                f"{self.guard.config.train.learning_rate / 4:g}",
            )


def _times(count: int) -> str:
    return "the loss or the gradient was" if count == 1 else f"{count} steps in a row were"
