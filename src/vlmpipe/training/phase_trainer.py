"""One phase under TRL's SFTTrainer: our batches, our mask, its loop and its chunked loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmpipe.config import Config
from vlmpipe.training.batching.collator import SampleCollator
from vlmpipe.training.curriculum import Phase


def phase_trainer(
    model: Any,
    config: Config,
    phase: Phase,
    folder: Path,
    collator: SampleCollator,
    callbacks: Sequence[Any],
    optimizer: Any,
    dtype: str,
) -> Any:
    """An SFTTrainer for one phase; `optimizer` carries Adam's state over from the phase before."""
    import torch
    from transformers import PrinterCallback
    from trl import SFTTrainer

    trainer = SFTTrainer(
        model=model,
        args=_arguments(config, phase, folder, dtype),
        train_dataset=_rows(phase),
        processing_class=collator.tokenizer,
        data_collator=collator,
        callbacks=list(callbacks),
        optimizers=(optimizer, None),
    )
    trainer.remove_callback(PrinterCallback)  # prints each log to stdout
    # Qwen-VL models say False, and accumulated loss would be a mean of means over micro-batches.
    trainer.model_accepts_loss_kwargs = True
    for parameter in model.parameters():
        # TRL casts a QLoRA adapter to bf16 while a resume loads fp32: the two would part ways.
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
    return trainer


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """Give a carried-over optimiser the phase's own rate; its schedule starts anew from it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        group["initial_lr"] = learning_rate


def _rows(phase: Phase) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {"sample": list(phase.indices), "grid": [phase.number] * len(phase.indices)}
    )


def _arguments(config: Config, phase: Phase, folder: Path, dtype: str) -> Any:
    import torch
    from trl import SFTConfig

    train = config.train
    return SFTConfig(
        output_dir=str(folder),
        max_steps=phase.steps,
        per_device_train_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
        learning_rate=phase.learning_rate,
        lr_scheduler_type=train.lr_scheduler,
        warmup_steps=round(train.warmup_ratio * phase.steps),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=train.optimizer,
        gradient_checkpointing=train.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=dtype == "bfloat16",
        fp16=dtype == "float16",
        seed=config.run.seed + phase.number,
        logging_steps=1,
        logging_first_step=True,
        save_strategy="no",
        eval_strategy="no",
        report_to=["tensorboard", *train.report_to],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
    )
