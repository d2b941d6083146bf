"""LoRA's targets as full module names: in the language model's layers alone, alike in each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmpipe.config.train import TrainConfig
from vlmpipe.errors import StageError
from vlmpipe.models.families import ATTENTION_PROJECTIONS, FFN_PROJECTIONS, Family

PROJECTIONS = {
    "attention": ATTENTION_PROJECTIONS,
    "ffn": FFN_PROJECTIONS,
    "all": ATTENTION_PROJECTIONS + FFN_PROJECTIONS,
}
SHOWN = 5


@dataclass(frozen=True)
class LoraTargets:
    """What LoRA adapts."""

    names: tuple[str, ...]
    """Full names, as in the model without PEFT."""

    projections: tuple[str, ...]
    """Last part of those names: the same in every layer."""

    per_layer: tuple[int, ...]
    """Adapted modules of each layer, in the layers' order."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def resolve_targets(
    names: Sequence[str], layers: int, family: Family, config: TrainConfig
) -> LoraTargets:
    """Hold the modules that LoRA adapts against what `train.lora.targets` asks of `layers` layers.

    Raises:
        StageError: naming modules outside the language model's layers, and layers that lack a
            projection which their siblings have adapted.
    """
    inside = re.compile(rf"^{family.layer_pattern}\.")
    outside = [name for name in names if not inside.match(name)]
    if outside:
        raise StageError(
            f"LoRA would adapt {len(outside)} modules outside the language model's layers: the"
            " vision tower and the merger stay as they are",
            f"open parts of the tower by name instead: train.unfreeze={_unfreezable(family)}",
            problems=outside[:SHOWN],
        )
    by_layer: list[set[str]] = [set() for _ in range(layers)]
    for name in names:
        by_layer[layer_number(name, family)].add(name.rpartition(".")[2])
    wanted = PROJECTIONS[config.lora.targets]
    problems = list(_gaps(by_layer, wanted))
    if problems:
        raise StageError(
            f"{len(problems)} of {layers} layers are not adapted as"
            f" train.lora.targets={config.lora.targets} asks: it is not laid out as"
            f" {family.title} is",
            "choose targets that every layer has: train.lora.targets=attention|ffn|all",
            problems=problems[:SHOWN],
        )
    return LoraTargets(tuple(names), wanted, tuple(len(found) for found in by_layer))


def layer_number(name: str, family: Family) -> int:
    """Number of the language model's layer that a module or parameter belongs to.

    Raises:
        ValueError: for one that belongs to none.
    """
    found = re.search(rf"{re.escape(family.language_prefix)}\.layers\.(\d+)\.", name)
    if found is None:
        raise ValueError(f"{name} is in no layer of the language model")
    return int(found[1])


def _gaps(by_layer: Sequence[set[str]], wanted: Sequence[str]) -> Iterator[str]:
    usual = Counter(len(found) for found in by_layer).most_common(1)[0][0] if by_layer else 0
    for number, found in enumerate(by_layer):
        missing = [name for name in wanted if name not in found]
        if missing:
            yield (
                f"layer {number} has {len(found)} adapted modules where most have {usual}:"
                f" {', '.join(missing)} not among them"
            )


def _unfreezable(family: Family) -> str:
    return '["merger"]' if family.merger_prefixes else "[]"
