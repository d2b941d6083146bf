"""The types of llama.cpp's quantiser, by the names that people write."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import lru_cache

from vlmpipe.errors import ConfigError

NEEDS_IMATRIX = frozenset(
    {"iq1_m", "iq1_s", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq3_xs", "iq3_xxs", "q2_k_s"}
)
"""Types that llama.cpp's quantiser refuses to write without an importance matrix."""

NOT_WRITTEN = frozenset({"nvfp4"})
"""Types that llama.cpp names and reads, and its quantiser does not write."""


@lru_cache(maxsize=1)
def quant_types() -> dict[str, int]:
    """Name in lower case (`q4_k_m`) to the number that the installed llama.cpp knows it by."""
    import llama_cpp

    types = {}
    for name in dir(llama_cpp):
        match = re.fullmatch(r"LLAMA_FTYPE_(?:MOSTLY|ALL)_(\w+)", name)
        if match and match[1].lower() not in NOT_WRITTEN:
            types[match[1].lower()] = int(getattr(llama_cpp, name))
    return types


def known_quants(names: Sequence[str], *, imatrix: bool = False) -> dict[str, int]:
    """The numbers of the types asked for, in their order; `imatrix`: there will be one.

    Raises:
        ConfigError: naming each unknown one with its near misses, or each that needs an
            importance matrix where there will be none.
    """
    found = _numbers_of(names, "convert.quants")
    if not imatrix:
        _refuse_without_imatrix(names)
    return found


def mmproj_quant(name: str) -> int:
    """The number of the tower's type.

    Raises:
        ConfigError: naming an unknown one with its near misses, or one that needs an importance
            matrix: that is measured on the language model alone.
    """
    found = _numbers_of([name], "convert.mmproj_type")
    if name in NEEDS_IMATRIX:
        raise ConfigError(
            f"convert.mmproj_type: {name} needs an importance matrix, which there is none of for"
            " the tower",
            "choose a type of more bits: convert.mmproj_type=q8_0, or f16, as it is by default",
        )
    return found[name]


def _numbers_of(names: Sequence[str], key: str) -> dict[str, int]:
    types = quant_types()
    unknown = [name for name in names if name not in types]
    if unknown:
        raise ConfigError(
            f"{key}: llama.cpp's quantiser knows no {', '.join(unknown)}",
            f"choose among: {', '.join(sorted(types))}",
            problems=[_near_misses(name, types) for name in unknown],
        )
    return {name: types[name] for name in names}


def _refuse_without_imatrix(names: Sequence[str]) -> None:
    needy = [name for name in names if name in NEEDS_IMATRIX]
    if needy:
        raise ConfigError(
            f"convert.quants: {', '.join(needy)} cannot be written without an importance matrix",
            "measure one on the task's own samples: convert.imatrix=true",
            "or leave out what needs it: convert.quants=[...]",
        )


def _near_misses(name: str, types: dict[str, int]) -> str:
    close = difflib.get_close_matches(name, types, n=3, cutoff=0.5)
    return f"{name}: did you mean {' or '.join(close)}?" if close else f"{name}: unknown"
