"""What a transformers Trainer lacks for a model that `shard_model` has spread, as a mixin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from vlmpipe.models.loading import load_model
from vlmpipe.training.distributed.processes import current_processes
from vlmpipe.training.distributed.sharding import (
    is_sharded,
    load_adapter_state,
    load_optimizer_state,
    load_whole_state,
    whole_optimizer_state,
    whole_state,
)
from vlmpipe.training.distributed.soundness import assert_distributed_type

ADAPTER_NAME = "adapter_model.safetensors"
OPTIMIZER_NAME = "optimizer.pt"
SCHEDULER_NAME = "scheduler.pt"

SYNC_EACH_BATCH = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}
"""For `accelerator_config` of a sharded model: gradients are spread after each forward pass of a
step rather than after the last, so that they never lie whole in a process."""


class SharedModelTrainer:
    """Mixin before a transformers Trainer, and before whatever writes its checkpoints.

    The model is seen to be shared as asked before the first step. Checkpoints of a spread model are
    those that one process writes: a training can go on under another strategy.
    """

    # Of the Trainer that this is mixed into.
    args: Any
    model: Any
    optimizer: Any
    lr_scheduler: Any

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Wrap the model and resume.

        Raises:
            StageError: when the model is not shared as asked.
        """
        prepared = super()._prepare_for_training(*args, **kwargs)  # type: ignore[misc]
        processes = current_processes()
        assert_distributed_type(
            processes.sharing.strategy if processes.world > 1 else None, prepared[0]
        )
        return prepared

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if is_sharded(self.model) and state_dict is None:
            state_dict = whole_state(self.model)
        super()._save(output_dir, state_dict)  # type: ignore[misc]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        import torch

        if not is_sharded(self.model):
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
            return
        state = whole_optimizer_state(self.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        import torch

        if checkpoint is None or not is_sharded(self.model):
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
            return
        state = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        load_optimizer_state(self.optimizer, state)
        schedule = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
        self.lr_scheduler.load_state_dict(schedule)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint, adapted = Path(resume_from_checkpoint), hasattr(self.model, "get_base_model")
        if adapted and not is_sharded(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        elif adapted:
            load_adapter_state(self.model, load_file(checkpoint / ADAPTER_NAME))
        else:
            # The Trainer's own way takes no notice of names that it does not know, and those that
            # a checkpoint has are not the model's: nothing would be loaded, without a word.
            load_whole_state(self.model, load_model(checkpoint).state_dict())
