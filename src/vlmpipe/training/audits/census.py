"""Proof before the first step: what is in 4-bit and what is trained is exactly what was asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe.config.train import TrainConfig
from vlmpipe.errors import StageError
from vlmpipe.models.families import Family
from vlmpipe.training.adapter import adapted_modules, unfrozen_modules
from vlmpipe.training.audits.dtypes import DtypeRow, count_dtypes, dtype_name, is_quantised, numel
from vlmpipe.training.audits.targets import LoraTargets, resolve_targets


@dataclass(frozen=True)
class Census:
    """Counts over the model, for the log and the report."""

    quantized_linears: int
    adapted_linears: int
    trained_tensors: int
    trained_parameters: int
    total_parameters: int
    unfrozen: tuple[str, ...]
    trained_dtypes: tuple[str, ...]
    dtypes: tuple[DtypeRow, ...]
    """Every part of the model, by precision."""

    targets: LoraTargets | None
    """What LoRA adapts; None where all weights of the language model are trained."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def refuse_misquantized(model: Any, family: Family, config: TrainConfig) -> int:
    """Count 4-bit layers: all linear layers of the language blocks under qlora, else none.

    Raises:
        StageError: naming what is held in fewer than 16 bits and must not be, or the other way
            round.
    """
    in_4_bit = set(_to_quantise(model, family)) if config.method == "qlora" else set()
    wrong = []
    for name, parameter in model.named_parameters():
        asked = config.quantization.type if name in in_4_bit else None
        if asked != (dtype_name(parameter) if is_quantised(parameter) else None):
            found = dtype_name(parameter)
            wrong.append(f"{name} is held in {found}" + (f", not in {asked}" if asked else ""))
    if wrong:
        raise StageError(
            f"{len(wrong)} weights are not in the precision that train.method={config.method} asks"
            " for: the vision tower, the merger and lm_head stay out of 4-bit, language layers go"
            " in under qlora",
            "train over a 16-bit base instead: train.method=lora",
            problems=wrong[:5],
        )
    return len(in_4_bit)


def _to_quantise(model: Any, family: Family) -> Iterator[str]:
    """Weights of the linear layers in the language model's blocks."""
    import torch

    blocks = re.compile(rf"^{family.layer_pattern}\.")
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and blocks.match(name):
            yield f"{name}.weight"


def take_census(
    model: Any, family: Family, config: TrainConfig, base_names: Sequence[str], quantized: int
) -> Census:
    """Hold the parameters open to training against those that the configuration opens.

    `base_names` are the linear layers that LoRA was to adapt, named before it did.

    Raises:
        StageError: naming parameters that are trained and must not be, or are missing.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    unfrozen = tuple(unfrozen_modules(_base(model), family, config))
    if config.method == "full":
        problems = _full_problems(model, family, set(trained), unfrozen)
    else:
        problems = _lora_problems(set(trained), base_names, unfrozen, config)
    if problems:
        raise StageError(
            f"{len(problems)} parameters are not as the configuration opens them to training",
            "this is a fault of the model's layout or of a library version, not of the data;"
            " `vlmpipe check` names known-bad versions",
            problems=problems[:5],
        )
    return Census(
        quantized_linears=quantized,
        adapted_linears=0 if config.method == "full" else len(base_names),
        trained_tensors=len(trained),
        trained_parameters=sum(p.numel() for p in trained.values()),
        total_parameters=sum(numel(p) for p in model.parameters()),
        unfrozen=unfrozen,
        trained_dtypes=tuple(sorted({str(p.dtype) for p in trained.values()})),
        dtypes=count_dtypes(model, family),
        targets=None
        if config.method == "full"
        else resolve_targets(base_names, _layers(_base(model), family), family, config),
    )


def lora_layers(model: Any, family: Family, config: TrainConfig) -> list[str]:
    """Full names of the linear layers that LoRA is about to adapt.

    Raises:
        StageError: when the family's pattern matches nothing, something outside the language
            model's layers, or not the same in each of them.
    """
    names = adapted_modules(model, family, config)
    if not names and config.method != "full":
        raise StageError(
            f"no layer of this model matches {family.lora_pattern(config.lora.targets)}:"
            f" it is not laid out as {family.title} is"
        )
    if config.method != "full":
        resolve_targets(names, _layers(model, family), family, config)
    return names


def _lora_problems(
    trained: set[str], base_names: Sequence[str], unfrozen: Sequence[str], config: TrainConfig
) -> list[str]:
    kinds = ["lora_A", "lora_B", *(["lora_magnitude_vector"] if config.lora.dora else [])]
    expected = {
        f"base_model.model.{name}.{kind}.default.weight" for name in base_names for kind in kinds
    }
    opened = tuple(f"base_model.model.{name}.modules_to_save.default." for name in unfrozen)
    extra = {name for name in trained - expected if not (opened and name.startswith(opened))}
    problems = [f"{name} is trained and must not be" for name in sorted(extra)]
    problems += [f"{name} is not trained" for name in sorted(expected - trained)]
    problems += [
        f"{prefix}* was to be unfrozen and is not"
        for prefix in opened
        if not any(name.startswith(prefix) for name in trained)
    ]
    return problems


def _full_problems(
    model: Any, family: Family, trained: set[str], unfrozen: Sequence[str]
) -> list[str]:
    opened = tuple(f"{n}." for n in (family.language_prefix, "lm_head", *unfrozen))
    if family.vision_prefix is None:
        return [f"{n} is not trained" for n, _ in model.named_parameters() if n not in trained]
    return [
        f"{name} is {'' if name in trained else 'not '}trained"
        for name, _ in model.named_parameters()
        if name.startswith(opened) != (name in trained)
    ]


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _layers(model: Any, family: Family) -> int:
    return len(model.get_submodule(f"{family.language_prefix}.layers"))
