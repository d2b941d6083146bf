"""The optimiser where the Trainer's own will not do: LoRA+, and parts that a later phase opens."""

from __future__ import annotations

from typing import Any

from vlmpipe.config.train import TrainConfig
from vlmpipe.models.families import Family
from vlmpipe.training.adapter import openable_parameters
from vlmpipe.training.curriculum import unfreezing

RATIO = "learning_rate_ratio"
"""Key of a parameter group: its learning rate is the phase's times this."""


def training_optimizer(
    model: Any, family: Family, config: TrainConfig, learning_rate: float
) -> Any | None:
    """An AdamW over every parameter that some phase trains; None where the Trainer's own does.

    A part that is still closed has no gradient: it is passed over, and its moments begin with its
    own first step. So the groups are the same in all phases, the state of one phase loads into the
    next, and nothing that Adam has gathered is lost when a part opens.
    """
    if not needs_own_groups(family, config):
        return None
    groups = parameter_groups(model, family, config, learning_rate)
    if config.optimizer == "adamw_torch":
        from torch.optim import AdamW as TorchAdamW

        return TorchAdamW(groups, lr=learning_rate)
    from bitsandbytes.optim import AdamW

    return AdamW(
        groups, lr=learning_rate, optim_bits=8, is_paged=config.optimizer.startswith("paged")
    )


def needs_own_groups(family: Family, config: TrainConfig) -> bool:
    """Whether rates differ (LoRA+), or a later phase opens what an earlier one keeps closed."""
    schedule = unfreezing(config, has_vision=family.has_vision)
    return _plus_ratio(config) != 1 or schedule[0] != schedule[-1]


def parameter_groups(
    model: Any, family: Family, config: TrainConfig, learning_rate: float
) -> list[dict[str, Any]]:
    """Matrices, vectors, and LoRA's B matrices at their own rate (LoRA+, arXiv 2402.12354).

    Unlike PEFT's `create_loraplus_optimizer`, which takes every vector for a B: biases and norms of
    an unfrozen tower, and DoRA's magnitudes, go at the plain rate. Vectors do not decay, as in the
    Trainer's own groups.
    """
    ratio = _plus_ratio(config)
    plain: list[Any] = []
    vectors: list[Any] = []
    fast: list[Any] = []
    for name, parameter in openable_parameters(model, family, config).items():
        if ".lora_B." in name and ratio != 1:
            fast.append(parameter)
        else:
            (plain if parameter.ndim > 1 else vectors).append(parameter)
    kinds = (
        (plain, config.weight_decay, 1.0),
        (vectors, 0.0, 1.0),
        (fast, config.weight_decay, ratio),
    )
    return [
        {
            "params": parameters,
            "weight_decay": decay,
            "lr": learning_rate * scale,
            RATIO: scale,
        }
        for parameters, decay, scale in kinds
        if parameters
    ]


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """Give a carried-over optimiser the phase's own rate; its schedule starts anew from it.

    Groups keep their ratio to each other.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = learning_rate * group.get(RATIO, 1.0)


def _plus_ratio(config: TrainConfig) -> float:
    plain = config.method == "full" or config.lora.plus_ratio is None
    return 1.0 if plain else float(config.lora.plus_ratio or 1.0)
