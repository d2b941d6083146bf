"""What is trained: a LoRA adapter on the language model, or all of its weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vlmpipe.config.train import TrainConfig
from vlmpipe.errors import ConfigError
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.families import Family


def make_trainable(model: Any, family: Family, config: TrainConfig, seed: int) -> Any:
    """The model with exactly the configured parameters open to training, the rest frozen.

    LoRA weights are fp32 whatever the base's precision: a resume loads them as fp32, and bf16 ones
    would then go on along another path.
    """
    import torch

    torch.manual_seed(seed)
    model.requires_grad_(False)
    if config.method == "full":
        return _open_language_model(model, family, config)
    from peft import LoraConfig, get_peft_model

    unfrozen = unfrozen_modules(model, family, config)
    return get_peft_model(
        model,
        LoraConfig(
            r=config.lora.r,
            lora_alpha=config.lora.alpha,
            lora_dropout=config.lora.dropout,
            target_modules=family.lora_pattern(config.lora.targets),
            modules_to_save=unfrozen or None,
            task_type="CAUSAL_LM",
        ),
    )


def unfrozen_modules(model: Any, family: Family, config: TrainConfig) -> list[str]:
    """Full names of the modules that `train.unfreeze` opens.

    Raises:
        ConfigError: where the family has no such part.
    """
    if config.unfreeze and family.vision_prefix is None:
        raise ConfigError(
            f"train.unfreeze={list(config.unfreeze)}: {family.title} has no vision tower",
            "leave it out: train.unfreeze=[]",
        )
    names: list[str] = []
    for part in config.unfreeze:
        name, _, count = part.partition(":")
        names += (
            list(family.merger_prefixes)
            if name == "merger"
            else _last_blocks(model, family, int(count))
        )
    return names


def adapted_modules(model: Any, family: Family, config: TrainConfig) -> list[str]:
    """Full names of the linear layers that LoRA adapts."""
    import torch

    pattern = re.compile(family.lora_pattern(config.lora.targets))
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and pattern.match(name)
    ]


def load_adapter_weights(model: Any, checkpoint: Path) -> None:
    """Put a checkpoint's adapter into a PEFT model."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(str(checkpoint / "adapter_model.safetensors")))


def save_adapter(model: Any, base: BaseModelFolder, folder: Path) -> None:
    """Write a PEFT model's adapter: the same training gives the same bytes wherever it ran."""
    config = model.peft_config["default"]
    # PEFT would name the folder that the base happens to lie in here.
    config.base_model_name_or_path, config.revision = base.id, base.revision
    # Embeddings are never trained; left to decide, PEFT would ask the hub for that name.
    model.save_pretrained(folder, save_embedding_layers=False)
    # A template that nobody has filled in, with that folder in it; merge writes the model card.
    (folder / "README.md").unlink(missing_ok=True)


def _last_blocks(model: Any, family: Family, count: int) -> list[str]:
    blocks = model.get_submodule(f"{family.vision_prefix}.blocks")
    if count > len(blocks):
        raise ConfigError(
            f"train.unfreeze: last_blocks:{count}, but the tower has {len(blocks)} blocks"
        )
    return [f"{family.vision_prefix}.blocks.{i}" for i in range(len(blocks) - count, len(blocks))]


def _open_language_model(model: Any, family: Family, config: TrainConfig) -> Any:
    opened = (f"{family.language_prefix}.", "lm_head.")
    unfrozen = tuple(f"{name}." for name in unfrozen_modules(model, family, config))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith((*opened, *unfrozen)))
    return model
