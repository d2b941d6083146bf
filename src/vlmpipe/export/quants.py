"""The types of llama.cpp's quantiser, by the names that people write."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import lru_cache

from vlmpipe.errors import ConfigError

BASE_TYPES = ("f16", "bf16")
"""16-bit types, one of which every conversion makes first."""


@lru_cache(maxsize=1)
def quant_types() -> dict[str, int]:
    """Name in lower case (`q4_k_m`) to the number that the installed llama.cpp knows it by."""
    import llama_cpp

    types = {}
    for name in dir(llama_cpp):
        match = re.fullmatch(r"LLAMA_FTYPE_(?:MOSTLY|ALL)_(\w+)", name)
        if match:
            types[match[1].lower()] = int(getattr(llama_cpp, name))
    return types


def known_quants(names: Sequence[str]) -> dict[str, int]:
    """The numbers of the types asked for, in their order.

    Raises:
        ConfigError: naming each unknown one with its near misses.
    """
    types = quant_types()
    unknown = [name for name in names if name not in types]
    if unknown:
        raise ConfigError(
            f"convert.quants: llama.cpp's quantiser knows no {', '.join(unknown)}",
            f"choose among: {', '.join(sorted(types))}",
            problems=[_near_misses(name, types) for name in unknown],
        )
    return {name: types[name] for name in names}


def _near_misses(name: str, types: dict[str, int]) -> str:
    close = difflib.get_close_matches(name, types, n=3, cutoff=0.5)
    return f"{name}: did you mean {' or '.join(close)}?" if close else f"{name}: unknown"
