"""Short trainings of tiny models, as the training tests run them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_folders import model_folder, table_sample
from vlmpipe.config import Config, parse_config
from vlmpipe.encoding.conversation import Sample
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.families import family_of
from vlmpipe.pipeline import Outcome, StageContext
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training.run import TrainingData, train

PHASES = [
    {"name": "small", "max_size": [112, 112], "max_steps": 2},
    {"name": "large", "max_size": [168, 168], "max_steps": 2},
]


def tiny_config(**train_settings: Any) -> Config:
    """Four fp32 steps in two phases, unless told otherwise."""
    settings = {
        "curriculum": PHASES,
        "learning_rate": 1e-3,
        "gradient_accumulation": 2,
        "checkpoint_steps": [1, 3],
        "gradient_checkpointing": False,
        "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
        **train_settings,
    }
    return parse_config({"model": {"dtype": "float32"}, "train": settings})


def base_of(name: str) -> BaseModelFolder:
    folder = model_folder(name)
    return BaseModelFolder(folder, family_of(folder), f"embedded:{name}", "r", "digest", 0)


def samples_for(name: str, count: int = 4) -> list[Sample]:
    vision = family_of(model_folder(name)).has_vision
    return [table_sample(seed, vision=vision) for seed in range(count)]


def run_training(
    name: str,
    folder: Path,
    config: Config,
    samples: Sequence[Sample] | None = None,
    reporter: Any = None,
) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    data = list(samples or samples_for(name))
    return train(
        StageContext(
            config=config,
            folder=folder,
            upstream={},
            run_folder=folder.parent,
            log_path=folder / "log",
            log=logging.getLogger("test"),
            reporter=reporter or SilentReporter(),
        ),
        base_of(name),
        TrainingData(train=data, heldout=data[:1], weights=[1.0] * len(data)),
    )
