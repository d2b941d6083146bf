"""Trainings of one linear layer under transformers' own loop: what its mixins do shows in them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from model_folders import contract_of
from vlmpipe.config import Config, parse_config
from vlmpipe.encoding.conversation import Message, Sample
from vlmpipe.models.families import FAMILIES
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training.checkpoints import SafeCheckpoints
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.watch.bad_steps import GuardedSteps, StepGuard

GOOD, BAD_LOSS, BAD_GRADIENT = 0.0, 1.0, 2.0
SAVED_BYTES = 400_000


class ToyModel(torch.nn.Module):
    """A linear layer, wide enough that a checkpoint has some size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(SAVED_BYTES // 4, 1)

    def forward(self, x: torch.Tensor, fault: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = (self.layer(x) - 1).pow(2).mean()
        if (fault == BAD_LOSS).any():
            loss = loss + float("nan")  # and the gradient stays finite
        if (fault == BAD_GRADIENT).any():
            loss = loss + (self.layer.bias * 0).abs().sqrt().sum()  # 0, whose slope is infinite
        return {"loss": loss}


class ToyTrainer(SafeCheckpoints, GuardedSteps, Trainer):
    """The mixins over transformers' loop."""


class Notes(SilentReporter):
    """Keeps what people are told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class SaveEach(TrainerCallback):
    """A checkpoint after every step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_save = True
        return control


def toy_phase(steps: int, first_step: int = 0) -> Phase:
    grid = contract_of(FAMILIES["qwen3"]).grid
    return Phase(0, "toy", grid, tuple(range(steps)), steps, first_step, 1e-2)


def toy_config(**watch: Any) -> Config:
    return parse_config({"train": {"watch": watch}})


def toy_sample(number: int) -> Sample:
    turns = (Message("user", ("?",)), Message("assistant", ("!",)))
    return Sample(f"s{number}", turns, "table", origin=f"data.jsonl:{number + 1}")


def toy_trainer(
    folder: Path,
    faults: Sequence[float],
    *,
    accumulation: int = 1,
    callbacks: Sequence[Any] = (),
    reporter: Any = None,
    processes: int = 1,
    is_main: bool = True,
    **watch: Any,
) -> ToyTrainer:
    """One micro-batch of one sample for each fault, `accumulation` to a step in each process."""
    generator = torch.Generator().manual_seed(1)
    rows = [
        {
            "x": torch.randn(SAVED_BYTES // 4, generator=generator) / 100,
            "fault": torch.tensor(fault),
        }
        for fault in faults
    ]
    per_step = accumulation * processes
    steps = len(faults) // per_step
    phase = toy_phase(steps, first_step=10)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = ToyTrainer(
        ToyModel(),
        _arguments(folder, steps, accumulation),
        train_dataset=rows,
        callbacks=list(callbacks),
    )
    logging.getLogger("transformers").setLevel(logging.ERROR)

    def micro_batches(step: int) -> list[list[Sample]]:
        first = step * per_step
        return [[toy_sample(first + place)] for place in range(per_step)]

    trainer.guard = StepGuard(
        phase,
        toy_config(**watch),
        micro_batches,
        folder / "metrics.jsonl",
        reporter or SilentReporter(),
        is_main,
    )
    return trainer


def _arguments(folder: Path, steps: int, accumulation: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-2,
        weight_decay=0.1,
        train_sampling_strategy="sequential",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )
