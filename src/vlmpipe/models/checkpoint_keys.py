"""Module names of transformers to keys of a checkpoint, whichever layout the checkpoint is in.

Qwen2-VL and Qwen2.5-VL checkpoints on the hub hold `visual.*` and `model.layers.*`, Qwen3-VL ones
`model.visual.*` and `model.language_model.*`; transformers builds `model.visual` and
`model.language_model` for all of them, and adapters follow those names.
"""

from __future__ import annotations

from collections.abc import Collection

from vlmpipe.models.families import Family


def parameter_name(family: Family, key: str) -> str:
    """The parameter of transformers' modules that a checkpoint key holds."""
    if not family.has_vision or key.startswith((*_own_prefixes(family), "lm_head.")):
        return key
    if key.startswith("visual."):
        return f"model.{key}"
    if key.startswith("model."):
        return f"{family.language_prefix}.{key.removeprefix('model.')}"
    return key


def candidate_keys(family: Family, parameter: str) -> tuple[str, ...]:
    """The checkpoint keys under which a parameter may be stored."""
    if family.vision_prefix and parameter.startswith(f"{family.vision_prefix}."):
        return parameter, parameter.removeprefix("model.")
    if family.has_vision and parameter.startswith(f"{family.language_prefix}."):
        return parameter, f"model.{parameter.removeprefix(f'{family.language_prefix}.')}"
    return (parameter,)


def checkpoint_key(family: Family, parameter: str, keys: Collection[str]) -> str | None:
    """The one key of `keys` that holds a parameter; None when none does, or more than one."""
    found = [key for key in candidate_keys(family, parameter) if key in keys]
    return found[0] if len(found) == 1 else None


def _own_prefixes(family: Family) -> tuple[str, ...]:
    prefixes = (family.language_prefix, family.vision_prefix)
    return tuple(f"{prefix}." for prefix in prefixes if prefix)
