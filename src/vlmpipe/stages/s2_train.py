"""Stage 2: fine-tune the base model on the prepared data."""

from __future__ import annotations

import os

from vlmpipe.models.base import read_base
from vlmpipe.pipeline import Outcome, Stage, StageContext


def run(context: StageContext) -> Outcome:
    """Train; an interrupted training goes on from its newest checkpoint."""
    if context.config.train.expandable_segments:
        # Images of many sizes fragment CUDA's fixed segments; must be set before CUDA starts.
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    from vlmpipe.training.preparation import training_data
    from vlmpipe.training.run import train

    setup = context.upstream["setup"]
    return train(context, read_base(setup), training_data(setup))


TRAIN = Stage(
    name="train",
    number=2,
    version=4,
    run=run,
    reads=("train", "model", "run.seed", "data.on_bad_sample", "validate.max_new_tokens"),
    ignores=(
        "train.report_to",
        "train.vision_cache",
        "train.vision_cache_folder",
        "train.save_steps",
        "train.keep_phase_states",
        "train.expandable_segments",
        "model.id",
        "model.revision",
    ),
    consumes={"setup": ("model.json", "model/*", "data/*.parquet")},
    resumable=True,
)
