"""Proof before the first step: what is in 4-bit and what is trained is exactly what was asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe.config.train import TrainConfig
from vlmpipe.errors import StageError
from vlmpipe.models.families import Family
from vlmpipe.models.wrapping import unwrapped
from vlmpipe.training.adapter import (
    adapted_modules,
    expected_adapter_parameters,
    unfrozen_modules,
)
from vlmpipe.training.audits.dtypes import DtypeRow, count_dtypes, dtype_name, is_quantised, numel
from vlmpipe.training.audits.targets import LoraTargets, resolve_targets
from vlmpipe.training.curriculum import unfreezing


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
    model: Any,
    family: Family,
    config: TrainConfig,
    base_names: Sequence[str],
    quantized: int,
    parts: Sequence[str] | None = None,
) -> Census:
    """Hold the parameters open to training against those that the configuration opens.

    `base_names` are the linear layers that LoRA was to adapt, named before it did; `parts` are
    those of the tower that a phase trains (`Phase.unfreeze`), unset: the first phase's.

    Raises:
        StageError: naming parameters that are trained and must not be, or are missing.
    """
    if parts is None:
        parts = unfreezing(config, has_vision=family.has_vision)[0]
    base, trained = unwrapped(model), {n: p for n, p in model.named_parameters() if p.requires_grad}
    unfrozen = tuple(unfrozen_modules(base, family, config, parts))
    if config.method == "full":
        problems = _full_problems(model, family, set(trained), unfrozen)
    else:
        expected = expected_adapter_parameters(model, family, config, base_names, parts)
        problems = _adapter_problems(set(trained), expected)
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
        else resolve_targets(base_names, _layers(base, family), family, config),
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


def _adapter_problems(trained: set[str], expected: frozenset[str]) -> list[str]:
    problems = [f"{name} is trained and must not be" for name in sorted(trained - expected)]
    return problems + [f"{name} is not trained" for name in sorted(expected - trained)]


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


def _layers(model: Any, family: Family) -> int:
    return len(model.get_submodule(f"{family.language_prefix}.layers"))
