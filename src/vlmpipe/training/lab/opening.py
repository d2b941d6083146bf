"""A run's model and samples as its training opens them, for trials that publish nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.loading import resolve_dtype
from vlmpipe.pipeline.events import Reporter
from vlmpipe.training.batching.packed_attention import packing_for
from vlmpipe.training.preparation import TrainingData, prepare, repacked
from vlmpipe.training.run import load_trainable
from vlmpipe.training.session import TrainingSession
from vlmpipe.training.startup import ready_model

ANY_NUMBER = 2**31
"""Of bad steps: whoever looks on decides what a loss that is no number means."""


def trial_config(config: Config, **train: Any) -> Config:
    """The configuration with these training settings, and without what only a whole run needs:
    trackers, checkpoints, and a cache of features for epochs to come.
    """
    watch = config.train.watch.model_copy(update={"max_bad_steps": ANY_NUMBER})
    settings = {"vision_cache": "off", "report_to": (), "checkpoint_steps": (), "watch": watch}
    changed = config.train.model_copy(update=settings | train)
    return config.model_copy(update={"train": changed})


def open_trial(
    config: Config, base: BaseModelFolder, data: TrainingData, folder: Path, reporter: Reporter
) -> TrainingSession:
    """A session over the data, its model ready to train; what it writes goes into `folder`.

    Raises:
        StageError: for phases that cannot be, and for a model that is not as asked.
        BadSamplesError: for samples that are too long.
    """
    dtype = resolve_dtype(config.model.dtype)
    preparation = prepare(config, base, data, 1)
    model, _ = load_trainable(config, base, dtype)
    packed, _ = packing_for(config, model)
    session = TrainingSession(
        model=model,
        config=config,
        family=base.family,
        dtype=dtype,
        preparation=repacked(preparation, packed, base, data),
        samples=data.train,
        heldout=data.heldout,
        folder=folder,
        reporter=reporter,
    )
    ready_model(session)
    return session
