"""vlmpipe's side: the train stage's own entry, on the samples that setup would have written.

    python benchmarks/train_ours.py --folder FOLDER --part all

A part switches one of the four savings on, `all` all of them, `none` none: then the loop, the loss
and the batches are TRL's, and what is left of vlmpipe are its proofs and logs. Counted as training
are filling the vision cache and the whole of the trainer's loop, checkpoints included; `ready_s`
adds the proofs, audits and dry runs that precede it.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import train_data
from train_process import Clock, Recipe, emit, side_options

from vlmpipe.config import Config, parse_config
from vlmpipe.data.store import SplitSamples
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.families import Family
from vlmpipe.models.loading import load_model
from vlmpipe.models.wrapping import unwrapped
from vlmpipe.pipeline import StageContext
from vlmpipe.pipeline.events import SilentReporter
from vlmpipe.training import phase_trainer, run
from vlmpipe.training.batching.plan import BatchPlan
from vlmpipe.training.loss.supervised_head import SupervisedLoss
from vlmpipe.training.phase_trainer import PhaseTrainer
from vlmpipe.training.run import TrainingData
from vlmpipe.training.vision_cache.cache import VisionCache

MAX_LENGTH = 8192
"""Longer than any sample."""


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


@dataclass(frozen=True)
class Batches:
    """What goes through the model together."""

    samples: int
    """To a forward pass, where there is no token budget."""

    tokens: int
    """The token budget."""

    budget_accumulation: int
    """Forward passes to a step under the budget: about as many samples as the recipe says."""


def config_of(part: Part, recipe: Recipe, batches: Batches, cache: Path) -> Config:
    """The run's configuration."""
    accumulation = recipe.samples_a_step // batches.samples
    train: dict[str, Any] = {
        "method": "qlora" if recipe.quantised else "lora",
        "lora": {"r": recipe.lora_r, "alpha": recipe.lora_alpha, "dropout": 0.0},
        "curriculum": [
            {"name": "pages", "max_size": list(train_data.BOX), "epochs": recipe.epochs}
        ],
        "learning_rate": recipe.learning_rate,
        "max_length": MAX_LENGTH,
        "batch_size": batches.samples,
        "batch_tokens": batches.tokens if part.budget else None,
        "gradient_accumulation": batches.budget_accumulation if part.budget else accumulation,
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


def train(folder: Path, part: Part, config: Config, output: Path, clock: Clock) -> BatchPlan:
    """One training through the stage's entry, under the clock; what it trained on."""
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
    with clocked(clock) as plans, ExitStack() as stack:
        if not part.head:
            stack.enter_context(head_of_trl())
        run.train(context, base, TrainingData(samples, [], [1.0] * len(samples)))
    return plans[0]


@contextmanager
def clocked(clock: Clock) -> Iterator[list[BatchPlan]]:
    """Notes when the model is loaded, counts the cache's fill and the trainer's loop as training,
    and gives the plans that were trained.
    """
    plans: list[BatchPlan] = []
    loop, fill = PhaseTrainer.train, VisionCache.fill

    def train_with_clock(trainer: PhaseTrainer, *words: Any, **named: Any) -> Any:
        trainer.add_callback(clock.callback())
        plans.append(trainer.work.plan)
        return clock.timed(loop)(trainer, *words, **named)

    def load_with_clock(*words: Any, **named: Any) -> Any:
        model = load_model(*words, **named)
        clock.model_is_loaded()
        return model

    with (
        patch.object(PhaseTrainer, "train", train_with_clock),
        patch.object(run, "load_model", load_with_clock),
        patch.object(VisionCache, "fill", clock.timed(fill)),
    ):
        yield plans


@contextmanager
def head_of_trl() -> Iterator[None]:
    """TRL's chunked head in the place of the supervised one, as SFTTrainer installs it."""
    from trl.trainer.utils import add_fused_lm_head

    patched: set[int] = set()

    def outputs_of(model: Any, inputs: Mapping[str, Any], family: Family) -> SupervisedLoss:
        bare = unwrapped(model)
        if id(bare) not in patched:
            add_fused_lm_head(bare, outputs=("log_probs", "entropy", "is_top1"))
            patched.add(id(bare))
        batch = phase_trainer.model_inputs(inputs, family)
        found = model(**batch, use_cache=False, fused_lm_head=True)
        return SupervisedLoss(
            loss_sum=-found.log_probs.sum(),
            tokens=int(found.label_mask.sum()),
            correct=found.is_top1.sum(),
        )

    with patch.object(phase_trainer, "supervised_outputs", outputs_of):
        yield


def main() -> None:
    """Train once and report."""
    parser = side_options()
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--batch-tokens", type=int, default=1280, help="the token budget")
    parser.add_argument("--accumulation", type=int, default=4, help="budgets to a step")
    arguments = parser.parse_args()
    recipe = arguments.recipe
    recipe.use()
    clock, part = Clock(), PARTS[arguments.part]
    batches = Batches(arguments.batch, arguments.batch_tokens, arguments.accumulation)
    with tempfile.TemporaryDirectory() as work:
        config = config_of(part, recipe, batches, Path(work) / "cache")
        output = Path(work) / "train"
        output.mkdir()
        plan = train(arguments.folder, part, config, output, clock)
        facts = {"plan": plan.figures.as_json(), "proofs": _proofs(output)}
    settings = {"part": arguments.part, "batch": arguments.batch}
    if part.budget:
        settings["batch_tokens"] = arguments.batch_tokens
    emit(clock.result("ours", settings, plan.figures.samples, facts))


def _proofs(output: Path) -> dict[str, Any]:
    """What the audits at the start measured of memory."""
    found = json.loads((output / "audit.json").read_text(encoding="utf-8"))
    return {name: found[name] for name in ("head_memory", "dry_run") if name in found}


if __name__ == "__main__":
    main()
