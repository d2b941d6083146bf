"""One phase under TRL's SFTTrainer: our batches and our loss in its loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from trl import SFTConfig, SFTTrainer

from vlmpipe.config import Config
from vlmpipe.models.families import Family
from vlmpipe.models.wrapping import unwrapped
from vlmpipe.training.batching.collator import PhaseCollator
from vlmpipe.training.batching.plan import BatchPlan
from vlmpipe.training.batching.sampler import PlannedRows, PlanSampler
from vlmpipe.training.checkpoints import SafeCheckpoints
from vlmpipe.training.curriculum import Phase
from vlmpipe.training.distributed.sharding import is_sharded, load_optimizer_state
from vlmpipe.training.distributed.trainer import (
    OPTIMIZER_NAME,
    SYNC_EACH_BATCH,
    SharedModelTrainer,
)
from vlmpipe.training.input_casts import without_input_casts
from vlmpipe.training.loss.supervised_head import keeping_forward
from vlmpipe.training.optimizer import training_optimizer
from vlmpipe.training.vision_cache.features import as_encoder_outputs
from vlmpipe.training.watch.bad_steps import GuardedSteps, StepGuard
from vlmpipe.training.watch.flops import flops_of, window_side
from vlmpipe.training.watch.throughput import CountedSteps


@dataclass(frozen=True)
class PhaseWork:
    """What is trained in one phase, and from what."""

    config: Config
    family: Family
    phase: Phase
    plan: BatchPlan
    collator: PhaseCollator
    folder: Path
    """Of its checkpoints."""

    dtype: str
    """Compute precision: bfloat16, float16 or float32."""


class PhaseTrainer(SafeCheckpoints, SharedModelTrainer, GuardedSteps, CountedSteps, SFTTrainer):
    """TRL's trainer over a batch plan; the whole phase is one epoch to it."""

    def __init__(
        self,
        model: Any,
        work: PhaseWork,
        guard: StepGuard,
        callbacks: Sequence[Any] = (),
        optimizer: Any = None,
    ) -> None:
        """`optimizer` carries Adam's state over from the phase before."""
        from transformers import PrinterCallback

        self.work, self.guard = work, guard
        self._correct: Any = None
        checkpointing = work.config.train.gradient_checkpointing
        self.flops = flops_of(model, work.family, gradient_checkpointing=checkpointing)
        self.window = window_side(model)
        with keeping_forward(unwrapped(model)):
            super().__init__(
                model=model,
                args=_arguments(work, is_sharded(model)),
                train_dataset=_nominal_rows(work.phase),
                processing_class=work.collator.tokenizer,
                data_collator=work.collator,
                callbacks=list(callbacks),
                optimizers=(optimizer, None),
            )
        self.remove_callback(PrinterCallback)  # prints each log to stdout
        # Qwen-VL models say False; accumulated loss would be a mean of means over micro-batches.
        self.model_accepts_loss_kwargs = True
        keep_trained_weights_in_fp32(model)

    def get_train_dataloader(self) -> Any:
        """The micro-batches of this process: accelerate would shard the plan once more."""
        from torch.utils.data import DataLoader

        batches = self.work.plan.of_process(self.args.process_index)
        return DataLoader(
            PlannedRows(len(self.work.plan.rows)),
            batch_sampler=PlanSampler(batches),
            collate_fn=self.work.collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def create_optimizer(self, model: Any = None) -> Any:
        """Groups of our own for LoRA+ and parts that a later phase opens, else the Trainer's."""
        if self.optimizer is None:
            work = self.work
            self.optimizer = training_optimizer(
                model or self.model, work.family, work.config.train, work.phase.learning_rate
            )
        return self.optimizer or super().create_optimizer(model)

    def load_weights(self, checkpoint: Path) -> None:
        """Put a checkpoint's weights, adapter or all, into the model."""
        self._load_from_checkpoint(str(checkpoint), self.model)

    def load_optimizer(self, checkpoint: Path) -> Any:
        """The optimiser, as a checkpoint has it."""
        optimizer = self.create_optimizer()
        path = checkpoint / OPTIMIZER_NAME
        state = torch.load(path, map_location="cpu", weights_only=True)
        load_optimizer_state(optimizer, state)
        return optimizer

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Forward and backward of one micro-batch."""
        with without_input_casts(self.model, autocast=self.work.dtype != "float32"):
            return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Cross entropy over supervised positions, divided by those of the whole global step."""
        outputs = supervised_outputs(model, inputs, self.work.family)
        correct = outputs.correct
        self._correct = correct if self._correct is None else self._correct + correct
        tokens = outputs.tokens if num_items_in_batch is None else num_items_in_batch
        # Gradients are averaged over processes, and the count is that of all of them.
        scale = self.accelerator.num_processes / torch.as_tensor(tokens).clamp(min=1)
        loss = outputs.loss_sum * scale.to(outputs.loss_sum.device)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the share of supervised positions whose token was the most likely one."""
        if "loss" in logs and self._correct is not None:
            correct = self.accelerator.reduce(self._correct, "sum").item()
            logs["correct_tokens"] = correct
            self._correct = None
        super().log(logs, start_time)


def supervised_outputs(model: Any, inputs: Mapping[str, Any], family: Family) -> Any:
    """Forward pass of a collated batch to the summed loss over its supervised positions."""
    return model(**model_inputs(inputs, family), use_cache=False, supervised_head=True)


def model_inputs(inputs: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """A collated batch as the model takes it: features from the cache in the place of pixels."""
    batch = dict(inputs)
    features, levels = batch.pop("image_features", None), batch.pop("deepstack_features", None)
    if features is not None:
        images = as_encoder_outputs(features, levels, batch["image_grid_thw"], family)
        batch["mm_encoder_outputs"] = {"image": images}
    return batch


def keep_trained_weights_in_fp32(model: Any) -> None:
    """TRL casts a QLoRA adapter to bf16 while a resume loads fp32: the two would part ways."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


def take_out_of_accelerate(model: Any) -> None:
    """Undo what accelerate's `prepare` lays over a model that several trainers train in turn.

    It prepares a model once: the next trainer's would neither be compiled nor brought to the
    device again.
    """
    model.__dict__.pop("_is_accelerate_prepared", None)
    before = model.__dict__.pop("_original_forward", None)
    if before is not None:
        model.forward = before


def _nominal_rows(phase: Phase) -> Any:
    """A data set for the constructor, which insists on one; batches come from the plan."""
    from datasets import Dataset

    return Dataset.from_dict({"sample": list(phase.indices)})


def _arguments(work: PhaseWork, sharded: bool) -> Any:
    train, phase = work.config.train, work.phase
    arguments = SFTConfig(
        output_dir=str(work.folder),
        max_steps=work.plan.steps,
        per_device_train_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
        learning_rate=phase.learning_rate,
        lr_scheduler_type=train.lr_scheduler,
        warmup_steps=round(train.warmup_ratio * work.plan.steps),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=train.optimizer,
        gradient_checkpointing=train.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        torch_compile=train.torch_compile,
        bf16=work.dtype == "bfloat16",
        fp16=work.dtype == "float16",
        seed=work.config.run.seed + phase.number,
        accelerator_config=deepcopy(SYNC_EACH_BATCH) if sharded else None,  # it is written into
        # A batch without images leaves an open part of the tower without a gradient.
        ddp_find_unused_parameters=bool(phase.unfreeze),
        logging_steps=1,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # what is no number is for the step guard to judge
        save_strategy="no",
        eval_strategy="no",
        report_to=["tensorboard", *train.report_to],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    )
    if arguments.world_size == 1 and arguments.n_gpu > 1:
        arguments._n_gpu = 1  # the Trainer would replicate the model over all that are visible
    return arguments
