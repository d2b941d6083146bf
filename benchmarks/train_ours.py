"""vlmpipe's side: the train stage's own entry, on the samples that setup would have written.

    python benchmarks/train_ours.py --folder FOLDER --part all

A part switches one of the four savings on, `all` all of them, `none` none: then the loop, the loss
and the batches are TRL's, and what is left of vlmpipe are its proofs and logs. Counted as training
are filling the vision cache and the whole of the trainer's loop, checkpoints included; `ready_s`
adds the proofs, audits and dry runs that precede it.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import train_data
from train_process import Clock, Recipe, emit, side_options

from vlmpipe.config import Config, parse_config
from vlmpipe.data.store import SplitSamples
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.pipeline import StageContext
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training import run
from vlmpipe.training.run import TrainingData
from vlmpipe.training.vision_cache.cache import VisionCache


@dataclass(frozen=True)
class Part:
    """Which savings are on."""

    cache: str = "off"
    head: bool = False
    budget: bool = False
    packing: bool = False


PARTS = {
    "none": Part(),
    "cache": Part(cache="disk"),
    "head": Part(head=True),
    "batches": Part(budget=True),
    "packing": Part(packing=True),
    "all": Part(cache="disk", head=True, budget=True, packing=True),
}


def config_of(part: Part, recipe: Recipe, batch: int, batch_tokens: int, cache: Path) -> Config:
    """The run's configuration; without a token budget, `batch` samples to a forward pass."""
    micro_batches = recipe.samples_a_step // batch
    train: dict[str, Any] = {
        "method": "qlora" if recipe.quantised else "lora",
        "lora": {"r": recipe.lora_r, "alpha": recipe.lora_alpha, "dropout": 0.0},
        "curriculum": [_phase(recipe)],
        "learning_rate": recipe.learning_rate,
        "batch_size": batch,
        "batch_tokens": batch_tokens if part.budget else None,
        "gradient_accumulation": micro_batches,
        "packing": "on" if part.packing else "off",
        "vision_cache": part.cache,
        "vision_cache_folder": str(cache),
        "gradient_checkpointing": recipe.checkpointing,
        "save_steps": None,
        "checkpoint_steps": [],
    }
    return parse_config(
        {"model": {"dtype": recipe.dtype}, "train": train, "run": {"seed": recipe.seed}}
    )


def train(folder: Path, config: Config, output: Path, clock: Clock) -> None:
    """One training through the stage's entry, under the clock."""
    samples = SplitSamples(folder / "data" / train_data.PARQUET)
    family = train_data.FAMILY
    base = BaseModelFolder(folder / "model", family, "bench", "none", "none", 0)
    context = StageContext(
        config=config,
        folder=output,
        upstream={},
        run_folder=output.parent,
        log_path=output / "log",
        log=logging.getLogger("bench"),
        reporter=SilentReporter(),
    )
    with clocked(clock):
        run.train(context, base, TrainingData(samples, [], [1.0] * len(samples)))


@contextmanager
def clocked(clock: Clock) -> Iterator[None]:
    """Notes when the model is loaded, and counts the trainer's loop as training."""
    from transformers import Trainer

    loop, load, fill = Trainer.train, run.load_model, VisionCache.fill

    def train_with_clock(trainer: Any, *words: Any, **named: Any) -> Any:
        trainer.add_callback(clock.callback())
        return clock.timed(loop)(trainer, *words, **named)

    def load_with_clock(*words: Any, **named: Any) -> Any:
        model = load(*words, **named)
        clock.model_is_loaded()
        return model

    Trainer.train, run.load_model = train_with_clock, load_with_clock
    VisionCache.fill = clock.timed(fill)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer.train, run.load_model = loop, load
        VisionCache.fill = fill  # type: ignore[method-assign]


def _phase(recipe: Recipe) -> dict[str, Any]:
    return {"name": "pages", "max_size": list(train_data.BOX), "epochs": recipe.epochs}


def main() -> None:
    """Train once and report."""
    parser = side_options()
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--batch-tokens", type=int, default=1280, help="the token budget")
    arguments = parser.parse_args()
    recipe = arguments.recipe
    recipe.use()
    clock = Clock()
    with tempfile.TemporaryDirectory() as work:
        part = PARTS[arguments.part]
        cache = Path(work) / "cache"
        config = config_of(part, recipe, arguments.batch, arguments.batch_tokens, cache)
        output = Path(work) / "train"
        output.mkdir()
        train(arguments.folder, config, output, clock)
    count = len(SplitSamples(arguments.folder / "data" / train_data.PARQUET))
    settings = {"part": arguments.part, "batch": arguments.batch}
    if part.budget:
        settings["batch_tokens"] = arguments.batch_tokens
    emit(clock.result("ours", settings, recipe.epochs * count, {}))


if __name__ == "__main__":
    main()
