"""One of the processes of the tests of training together.

`python distributed_worker.py MODEL_FOLDER CASES`, RANK and the rest in the environment as a
launcher sets them; without those it trains alone. `CASES` is a JSON list of settings; of each,
process 0 prints what it saw as one line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from vlmpipe.config import parse_config
from vlmpipe.errors import StageError
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.families import family_of
from vlmpipe.models.loading import load_tokenizer
from vlmpipe.training.distributed.place import Sharing, launch_restored, place_of, take_launch
from vlmpipe.training.distributed.processes import current_processes, join
from vlmpipe.training.distributed.sharding import is_sharded, shard_model, whole_state
from vlmpipe.training.distributed.trainer import SYNC_EACH_BATCH, SharedModelTrainer
from vlmpipe.training.run import load_trainable

STEPS = 4
SAVED_STEP = 2
ROWS = 16


class Watch(TrainerCallback):
    """Losses and gradient norms; saves after `SAVED_STEP`, kills the process where told."""

    def __init__(self, kill_after: int | None) -> None:
        self.rows: list[tuple[float, float]] = []
        self.kill_after = kill_after

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.rows.append((logs["loss"], logs["grad_norm"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_save = state.global_step == SAVED_STEP
        if state.global_step == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return control


class InOrderTrainer(SharedModelTrainer, SFTTrainer):
    """Rows in their order: micro-batch m is process m % W's."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset)


def main(model_folder: Path, cases: list[dict[str, Any]]) -> None:
    place = place_of()
    if place is not None:
        join(place)
    with launch_restored(take_launch()):
        for case in cases:
            seen = train(model_folder, case)
            if current_processes().is_first:
                sys.stdout.write(f"{json.dumps(seen)}\n")


def train(model_folder: Path, case: dict[str, Any]) -> dict[str, Any]:
    processes = current_processes()
    processes.sharing = Sharing(case.get("asked", "ddp"))
    base = BaseModelFolder(model_folder, family_of(model_folder), "embedded:test", "r", "d", 0)
    model = trainable(base, case)
    if case.get("sharded"):
        shard_model(model, base.family)
    watch = Watch(case.get("kill_after") if processes.rank == processes.world - 1 else None)
    trainer = InOrderTrainer(
        model=model,
        args=arguments(case, sharded=is_sharded(model)),
        train_dataset=rows(),
        data_collator=collate,
        processing_class=load_tokenizer(base.folder),
        callbacks=[watch],
    )
    trainer.model_accepts_loss_kwargs = True
    try:
        trainer.train(resume_from_checkpoint=case.get("resume"))
    except StageError as error:
        return {"error": error.message}
    weights = whole_state(trainer.model)
    return {
        "losses": [loss for loss, _ in watch.rows],
        "norms": [norm for _, norm in watch.rows],
        "weights": sum(float(weight.double().abs().sum()) for weight in weights.values()),
    }


def trainable(base: BaseModelFolder, case: dict[str, Any]) -> Any:
    lora = {"r": 4, "alpha": 8, "dropout": 0.0}
    config = parse_config({"train": {"method": case.get("method", "lora"), "lora": lora}})
    return load_trainable(config, base, case.get("dtype", "float32"))[0]


def rows() -> Any:
    from datasets import Dataset

    generator = torch.Generator().manual_seed(0)
    lengths = [5 + number % 7 for number in range(ROWS)]
    ids = [torch.randint(10, 200, (length,), generator=generator).tolist() for length in lengths]
    return Dataset.from_dict({"input_ids": ids})


def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([feature["input_ids"] for feature in features])
    return {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}


def arguments(case: dict[str, Any], *, sharded: bool) -> SFTConfig:
    return SFTConfig(
        output_dir=case["folder"],
        max_steps=STEPS,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=case.get("accumulation", 1),
        learning_rate=1e-2,
        gradient_checkpointing=case.get("checkpointing", False),
        gradient_checkpointing_kwargs={"use_reentrant": False},
        bf16=case.get("dtype") == "bfloat16",
        save_strategy="no",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        accelerator_config=SYNC_EACH_BATCH if sharded else None,
        use_cpu=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
