"""What must hold of a model that processes share: what is refused, and what is seen to be so."""

from __future__ import annotations

from typing import Any

from vlmpipe.config.train import TrainConfig
from vlmpipe.errors import StageError
from vlmpipe.training.distributed.place import Sharing, Strategy

REPLICATE = "let every process hold the model: --accelerate-config configs/accelerate/ddp.yaml"
STRATEGY_TITLES = {
    "ddp": "DDP (every process holds the model)",
    "fsdp2": "FSDP2 (its layers are spread)",
    "deepspeed": "DeepSpeed ZeRO",
    None: "none (each process trains a model of its own)",
}


def refuse_unsound(train: TrainConfig, sharing: Sharing) -> None:
    """Refuse what would train wrongly without a word.

    Raises:
        StageError: with the ways out.
    """
    if not _spreads_weights(sharing):
        return
    title = "FSDP2" if sharing.strategy == "fsdp2" else "DeepSpeed ZeRO-3"
    if train.method == "qlora":
        raise StageError(
            f"train.method=qlora under {title}: 4-bit weights that are spread over processes come"
            " back damaged, and no error is raised",
            REPLICATE,
            "or spread a 16-bit base: train.method=lora",
        )
    if train.unfreeze or any(phase.unfreeze for phase in train.curriculum):
        raise StageError(
            f"train.unfreeze under {title}: the tower is not spread, since a process whose batch"
            " has no image does not run it while the others would wait for it",
            REPLICATE,
            "or leave the tower frozen: train.unfreeze=[]",
        )
    if train.optimizer != "adamw_torch":
        raise StageError(
            f"train.optimizer={train.optimizer} under {title}: bitsandbytes' optimisers do not know"
            " spread weights",
            "train.optimizer=adamw_torch; its state is spread too",
            REPLICATE,
        )


def assert_distributed_type(asked: Strategy | None, model: Any) -> None:
    """Hold what was asked for against what the trained model is wrapped in.

    accelerate takes DDP in place of FSDP on a CPU, and says nothing. `model` is the trainer's
    wrapped model; `asked` is None for a process that trains alone.

    Raises:
        StageError: naming both.
    """
    found = strategy_in_force(model)
    if found != asked:
        raise StageError(
            f"asked for {STRATEGY_TITLES[asked]}, but in force is {STRATEGY_TITLES[found]}",
            "start with `vlmpipe train --num-processes N --accelerate-config FILE`, or with"
            " `accelerate launch --config_file FILE`, FILE being one of configs/accelerate",
            "and set no ACCELERATE_* or FSDP_* variable beside it",
        )


def strategy_in_force(model: Any) -> Strategy | None:
    """What a model is wrapped in, seen from the model itself; None where nothing syncs it."""
    from torch.distributed.tensor import DTensor
    from torch.nn.parallel import DistributedDataParallel

    if isinstance(model, DistributedDataParallel):
        return "ddp"
    if type(model).__name__ == "DeepSpeedEngine":
        return "deepspeed"
    return "fsdp2" if any(isinstance(p, DTensor) for p in model.parameters()) else None


def _spreads_weights(sharing: Sharing) -> bool:
    return sharing.strategy == "fsdp2" or sharing.zero_stage == 3
