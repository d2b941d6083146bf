"""Combinations of versions that are known to go wrong: a table, with where each was reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch

from vlmpipe.system.libraries import within


@dataclass(frozen=True)
class KnownBad:
    """One entry: it applies when every library named is installed in the range given."""

    libraries: Mapping[str, str]
    """Distribution to range of versions; an empty range means any."""

    effect: str
    remedy: str
    source: str
    models: str = "*"
    """Pattern that the lower-case model id must match."""

    local: Mapping[str, str] = field(default_factory=dict)
    """Distribution to the local part of its version that it applies to (`cpu` of 2.13.0+cpu)."""

    gpu_only: bool = False
    breaks: bool = False
    """True where nothing can run; otherwise it is slow or wasteful."""


KNOWN_BAD: tuple[KnownBad, ...] = (
    KnownBad(
        libraries={"torch": ">=2.9,<2.10"},
        models="*qwen3-vl*",
        gpu_only=True,
        effect="Conv3d of the vision patch embedding falls back to a slow kernel: 10 to 20 times"
        " slower image prompts were reported",
        remedy="install torch 2.10 or newer (constraints.txt pins one), or 2.8",
        source="pytorch/pytorch#174051",
    ),
    KnownBad(
        libraries={"torch": ">=2.9,<2.10"},
        models="*qwen2*vl*",
        gpu_only=True,
        effect="Conv3d in bfloat16, the vision patch embedding, takes far more memory and time"
        " than with 2.8",
        remedy="install torch 2.10 or newer (constraints.txt pins one), or cuDNN 9.15 or newer",
        source="pytorch/pytorch#166643, #168167",
    ),
    KnownBad(
        libraries={"torch": "", "torchvision": ""},
        local={"torch": "cpu"},
        breaks=True,
        effect="torchvision has no build for a CPU torch: importing it fails with 'operator"
        " torchvision::nms does not exist', and transformers imports it where it is installed",
        remedy="remove it, nothing here needs it: pip uninstall torchvision",
        source="seen with torch 2.13.0+cpu, torchvision 0.28.0 and transformers 5.23.0",
    ),
)


def known_bad(versions: Mapping[str, str | None], model_id: str, *, gpu: bool) -> list[KnownBad]:
    """Entries of the table that apply to these installed versions and this model."""
    return [
        entry
        for entry in KNOWN_BAD
        if fnmatch(model_id.lower(), entry.models)
        and (gpu or not entry.gpu_only)
        and all(_holds(versions.get(name), entry, name) for name in entry.libraries)
    ]


def _holds(found: str | None, entry: KnownBad, name: str) -> bool:
    if found is None or not within(found, entry.libraries[name]):
        return False
    local = entry.local.get(name)
    return local is None or found.partition("+")[2] == local
