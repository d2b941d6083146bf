"""Census of dtypes: in which precision each part of the model is held."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vlmpipe.models.families import Family
from vlmpipe.training.adapter import PEFT_PREFIX

Part = Literal[
    "language layers", "norms", "embeddings", "tower", "merger", "head", "adapter", "opened", "rest"
]
"""`norms`: those of the language model; `opened`: copies of tower parts that `train.unfreeze`
trains; `rest`: what the family does not name."""

FLOATS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class DtypeRow:
    """Weights of one part in one precision."""

    part: Part
    dtype: str
    """As torch names it; `nf4` or `fp4` for bitsandbytes' 4 bits, `int8` for its 8."""

    tensors: int
    parameters: int
    """Numbers, not bytes: a 4-bit tensor packs two into each."""

    bytes: int
    trained: int
    """Parameters of these that are open to training."""


def count_dtypes(model: Any, family: Family) -> tuple[DtypeRow, ...]:
    """Every parameter counted once, by part and precision; a tied head counts as embeddings."""
    part_of = part_finder(family)
    found: dict[tuple[Part, str], list[Any]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        found[part_of(name), dtype_name(parameter)].append(parameter)
    order = get_args(Part)
    return tuple(
        _row(*key, found[key]) for key in sorted(found, key=lambda key: (order.index(key[0]), key))
    )


def part_finder(family: Family) -> Callable[[str], Part]:
    """A function from a parameter's full name, PEFT's prefix or not, to its part."""
    layer = re.compile(rf"^{family.layer_pattern}\.")
    prefixes = tuple(_prefixes(family))

    def part_of(name: str) -> Part:
        own = name.removeprefix(PEFT_PREFIX)
        if ".lora_" in own:
            return "adapter"
        if ".modules_to_save." in own:
            return "opened"
        for prefix, part in prefixes:
            if own.startswith(prefix):
                return part
        if layer.match(own):
            # A norm's weights are called input_layernorm.weight, q_norm.weight and so on.
            return "norms" if "norm" in own.rsplit(".", 2)[-2] else "language layers"
        return "rest"

    return part_of


def dtype_name(parameter: Any) -> str:
    """Precision that the numbers of a parameter have, however they are packed."""
    if type(parameter).__name__ == "Params4bit":
        return str(parameter.quant_type)
    return str(parameter.dtype).removeprefix("torch.")


def is_quantised(parameter: Any) -> bool:
    """Whether a parameter is held in fewer than 16 bits."""
    return dtype_name(parameter) not in FLOATS


def numel(parameter: Any) -> int:
    """Numbers in a parameter; a 4-bit one packs two into each byte."""
    packed = type(parameter).__name__ == "Params4bit"
    return int(parameter.numel()) * (2 * parameter.element_size() if packed else 1)


def _prefixes(family: Family) -> Iterator[tuple[str, Part]]:
    for prefix in family.merger_prefixes:
        yield f"{prefix}.", "merger"
    if family.vision_prefix:
        yield f"{family.vision_prefix}.", "tower"
    yield "lm_head.", "head"
    yield f"{family.language_prefix}.embed_tokens.", "embeddings"
    yield f"{family.language_prefix}.norm.", "norms"


def _row(part: Part, dtype: str, parameters: list[Any]) -> DtypeRow:
    return DtypeRow(
        part=part,
        dtype=dtype,
        tensors=len(parameters),
        parameters=sum(numel(each) for each in parameters),
        bytes=sum(each.numel() * each.element_size() for each in parameters),
        trained=sum(numel(each) for each in parameters if each.requires_grad),
    )
