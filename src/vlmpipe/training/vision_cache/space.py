"""Whether what is to be kept fits, asked before anything is computed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from vlmpipe.errors import StageError
from vlmpipe.models.wrapping import unwrapped
from vlmpipe.training.vision_cache.entry import entry_bytes
from vlmpipe.training.vision_cache.tower import tower_of

if TYPE_CHECKING:
    import torch

StoreKind = Literal["memory", "disk"]
_CGROUP = Path("/sys/fs/cgroup")


def bytes_of_features(
    model: Any, image_tokens: Iterable[int], autocast_dtype: torch.dtype | None
) -> int:
    """Bytes that the features of images of so many tokens take in a store.

    Their type is autocast's, since each merger ends in a linear layer, and the tower's without.
    """
    tower = tower_of(model)
    width = int(unwrapped(model).config.get_text_config().hidden_size)
    levels = 1 + len(getattr(tower.config, "deepstack_visual_indexes", ()))
    item_bytes = (autocast_dtype or tower.dtype).itemsize
    return sum(entry_bytes(tokens, width, levels, item_bytes) for tokens in image_tokens)


def refuse_without_space(kind: StoreKind, folder: Path, needed: int, images: int) -> None:
    """Hold what the missing images will take against what is free.

    Raises:
        StageError: with both figures and every way out.
    """
    free = free_disk_bytes(folder) if kind == "disk" else free_memory_bytes()
    if needed <= free:
        return
    where = f"on the disk of {folder}" if kind == "disk" else "of memory"
    remedies = {
        "disk": ("keep them on another disk: train.vision_cache_folder=DIR",),
        "memory": (
            "keep them on a disk: train.vision_cache=disk",
            "and where there is space: train.vision_cache_folder=DIR",
        ),
    }[kind]
    raise StageError(
        f"the features of {images:,} images that are not kept yet take {_gb(needed)};"
        f" {_gb(free)} {where} are free",
        *remedies,
        "compute them anew in each step: train.vision_cache=off",
        "or make images smaller: a smaller `max_size` in train.curriculum",
    )


def free_disk_bytes(folder: Path) -> int:
    """Free bytes where `folder` is, or would be made."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def free_memory_bytes() -> int:
    """RAM that a process may still take: the machine's, or its container's where that is less."""
    free = int(psutil.virtual_memory().available)
    limit, used = (_number(_CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit is None or used is None:
        return free
    return max(0, min(free, limit - used + _reclaimable()))


def _reclaimable() -> int:
    """File pages that count as a container's memory and are given up when it is needed."""
    try:
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) for line in lines if line.startswith("inactive_file ")]
    return found[0] if found else 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e7 else f"{size / 1e6:,.3f} MB"
