"""What is trained: a LoRA adapter on the language model, or all of its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmpipe.config.train import TrainConfig
from vlmpipe.errors import ConfigError
from vlmpipe.models.base import BaseModelFolder
from vlmpipe.models.families import Family
from vlmpipe.models.wrapping import unwrapped
from vlmpipe.training.curriculum import unfreezing

PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the names of the base's modules."""

_COPY = ".modules_to_save.default."


def make_trainable(model: Any, family: Family, config: TrainConfig, seed: int) -> Any:
    """The model with exactly the parameters of the first phase open to training, the rest frozen.

    Parts that a later phase opens have their trainable copy from the start: an adapter has the same
    tensors in every phase, and each phase's checkpoint loads into the same model.

    LoRA weights are fp32 whatever the base's precision: a resume loads them as fp32, and bf16 ones
    would then go on along another path.
    """
    import torch

    torch.manual_seed(seed)
    model.requires_grad_(False)
    if config.method != "full":
        model = _with_lora(model, family, config)
    else:
        _open_language_model(model, family)
    open_parts(model, family, unfreezing(config, has_vision=family.has_vision)[0])
    return model


def _with_lora(model: Any, family: Family, config: TrainConfig) -> Any:
    from peft import LoraConfig, get_peft_model

    parts = unfreezing(config, has_vision=family.has_vision)[-1]
    return get_peft_model(
        model,
        LoraConfig(
            r=config.lora.r,
            lora_alpha=config.lora.alpha,
            lora_dropout=config.lora.dropout,
            use_rslora=config.lora.rslora,
            use_dora=config.lora.dora,
            target_modules=family.lora_pattern(config.lora.targets),
            modules_to_save=unfrozen_modules(model, family, config, parts) or None,
            task_type="CAUSAL_LM",
        ),
    )


def open_parts(model: Any, family: Family, parts: Sequence[str]) -> None:
    """Open these parts of the tower to training, in fp32, and no others of it.

    Called before each phase with the phase's `unfreeze`, and before a checkpoint of that phase is
    loaded: a copy still in 16 bit would round what was trained in fp32. It must be called again
    after an adapter was switched off and on, which opens every copy.
    """
    base = unwrapped(model)
    opened = tuple(f"{name}." for name in _modules_of(base, family, parts))
    tower = f"{family.vision_prefix}."
    for name, parameter in _trainable_copies(model):
        if name.startswith(tower):
            parameter.requires_grad_(name.startswith(opened))
            if parameter.requires_grad:
                parameter.data = parameter.data.float()


def _trainable_copies(model: Any) -> Iterator[tuple[str, Any]]:
    """Parameters that a part's opening trains, by their name in the base model: PEFT's copies of
    unfrozen modules, or where all of a model is trained its own.
    """
    if not hasattr(model, "peft_config"):
        yield from model.named_parameters()
        return
    for name, parameter in model.named_parameters():
        module, copied, rest = name.removeprefix(PEFT_PREFIX).partition(_COPY)
        if copied:
            yield f"{module}.{rest}", parameter


def count_trained(model: Any, family: Family, parts: Sequence[str]) -> int:
    """How many parameters are trained while these parts of the tower are open; opens nothing."""
    opened = tuple(f"{name}." for name in _modules_of(unwrapped(model), family, parts))
    tower = {
        id(parameter): name.startswith(opened)
        for name, parameter in _trainable_copies(model)
        if name.startswith(f"{family.vision_prefix}.")
    }
    return sum(p.numel() for p in model.parameters() if tower.get(id(p), p.requires_grad))


def openable_parameters(model: Any, family: Family, config: TrainConfig) -> dict[str, Any]:
    """Every parameter that some phase trains, by its full name, in the model's order."""
    parts = unfreezing(config, has_vision=family.has_vision)[-1]
    opened = tuple(f"{name}." for name in _modules_of(unwrapped(model), family, parts))
    copies = {id(p) for name, p in _trainable_copies(model) if name.startswith(opened)}
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or id(parameter) in copies
    }


def expected_adapter_parameters(
    model: Any, family: Family, config: TrainConfig, layers: Sequence[str], parts: Sequence[str]
) -> frozenset[str]:
    """Names of exactly the parameters of a PEFT model that are open while `parts` are.

    `layers` are the linear layers that LoRA adapts, named as before it did.
    """
    kinds = ("lora_A", "lora_B", *(("lora_magnitude_vector",) if config.lora.dora else ()))
    lora = {f"{PEFT_PREFIX}{layer}.{kind}.default.weight" for layer in layers for kind in kinds}
    modules = _modules_of(unwrapped(model), family, parts)
    opened = tuple(f"{PEFT_PREFIX}{name}{_COPY}" for name in modules)
    return frozenset(lora | {n for n, _ in model.named_parameters() if n.startswith(opened)})


def unfrozen_modules(
    model: Any, family: Family, config: TrainConfig, parts: Sequence[str] | None = None
) -> list[str]:
    """Full names of the modules of `parts`; unset: of the parts that the first phase opens.

    Raises:
        ConfigError: where the family has no such part.
    """
    if parts is None:
        parts = unfreezing(config, has_vision=family.has_vision)[0]
    return _modules_of(model, family, parts)


def _modules_of(model: Any, family: Family, parts: Sequence[str]) -> list[str]:
    if parts and family.vision_prefix is None:
        raise ConfigError(
            f"train.unfreeze={list(parts)}: {family.title} has no vision tower",
            "leave it out: train.unfreeze=[]",
        )
    names: list[str] = []
    for part in parts:
        kind, _, count = part.partition(":")
        names += (
            _mergers(model, family) if kind == "merger" else _last_blocks(model, family, int(count))
        )
    return list(dict.fromkeys(names))


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


def save_adapter(
    model: Any, base: BaseModelFolder, folder: Path, state: dict[str, Any] | None = None
) -> None:
    """Write a PEFT model's adapter: the same training gives the same bytes wherever it ran.

    `state` holds the trained weights by name, where the model itself has them only in part.
    """
    config = model.peft_config["default"]
    # PEFT would name the folder that the base happens to lie in here.
    config.base_model_name_or_path, config.revision = base.id, base.revision
    # Embeddings are never trained; left to decide, PEFT would ask the hub for that name.
    model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
    # A template that nobody has filled in, with that folder in it; merge writes the model card.
    (folder / "README.md").unlink(missing_ok=True)


def _mergers(model: Any, family: Family) -> list[str]:
    """The mergers, those of a list one by one: PEFT copies no list of modules."""
    import torch

    names: list[str] = []
    for name in family.merger_prefixes:
        module = model.get_submodule(name)
        listed = isinstance(module, torch.nn.ModuleList)
        names += [f"{name}.{place}" for place in range(len(module))] if listed else [name]
    return names


def _last_blocks(model: Any, family: Family, count: int) -> list[str]:
    blocks = model.get_submodule(f"{family.vision_prefix}.blocks")
    if count > len(blocks):
        most = f'["last_blocks:{len(blocks)}"]'
        raise ConfigError(
            f"unfreeze asks for last_blocks:{count}, and the tower has {len(blocks)} blocks",
            f"train all of them: train.unfreeze='{most}'",
            f"where a phase asks for it: {most} as its unfreeze in train.curriculum",
        )
    return [f"{family.vision_prefix}.blocks.{i}" for i in range(len(blocks) - count, len(blocks))]


def _open_language_model(model: Any, family: Family) -> None:
    opened = (f"{family.language_prefix}.", "lm_head.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(opened))
